"""The tensors of a network out of what a file holds: under which key, by which names, and whether they can be taken."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor, nn

from dualprune.stages.networks.parameters import tied
from dualprune.stages.networks.weightsfile import SAVE, SHOWN, Passed, WeightsError, some

Tensors = dict[str, Tensor]

WRAPPERS = ("state_dict", "model_state_dict", "model", "module", "net", "network", "weights", "params")
"""Keys that a network's own weights lie under; `model_ema`, `teacher` and the like are other networks'."""
AROUND = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""Parts of names that come from what was around a module: DataParallel, torch.compile, FSDP, recomputation."""
COUNTS = ("n_averaged",)
"""Tensors that averaging keeps beside a network's own."""
DEEP = 4
"""Mappings within mappings that are looked into."""
FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)


@dataclass(frozen=True)
class Taken:
    """The tensors of a network, under its own names, and where in the file they were."""

    tensors: Tensors
    at: str
    """Keys, and what stood before each name, with dots between; empty for the file's own top."""
    others: tuple[str, ...] = ()
    """Where there are other weights of the same names and shapes."""
    rest: tuple[str, ...] = ()
    """Tensors beside them, by the names that they have there."""
    skipped: Mapping[str, Tensor] = field(default_factory=dict)
    """Those that were not to be taken, where the file has them."""


@dataclass(frozen=True)
class Wanted:
    """What a network needs of a file."""

    tensors: Mapping[str, Tensor]
    """By name, as the network has them."""
    tied: Mapping[str, str] = field(default_factory=dict)
    """Names that are others of them once more, and the first name of each: a file may have either, or both."""
    skip: tuple[str, ...] = ()
    """Patterns of those that are not to be taken."""
    made: frozenset[str] = frozenset()
    """Buffers that the network makes by itself: some files have them too."""

    def skips(self, name: str) -> bool:
        """Whether one is not to be taken: by its own name, or another of its names."""
        if not self.skip:
            return False
        names = {name, *(one for one in (*self.tied, *self.tied.values()) if self._first(one) == self._first(name))}
        return any(fnmatchcase(one, pattern) for one in names for pattern in self.skip)

    def completed(self, tensors: Tensors) -> Tensors:
        """With tied tensors under all of their names."""
        whole = dict(tensors)
        for name, first in self.tied.items():
            if name in whole:
                whole.setdefault(first, whole[name])
        for name, first in self.tied.items():
            if first in whole:
                whole.setdefault(name, whole[first])
        return whole

    def _first(self, name: str) -> str:
        return self.tied.get(name, name)


def wanted(network: nn.Module, skip: tuple[str, ...] = ()) -> Wanted:
    """What a network needs of a file, but for what is to be skipped."""
    there = network.state_dict()
    ties = {name: first for name, first in tied(network).items() if {name, first} <= set(there)}
    made = {name for name, _ in network.named_buffers(remove_duplicate=False)} - set(there)
    return Wanted(there, ties, skip, frozenset(made))


def taken(found: Any, needs: Wanted, file: str, network: str) -> Taken:
    """The tensors of `found`, what was read of a file, that a network needs.

    Wherever they lie in it, and whatever was put before their names: taken is what fits in all names and shapes. Where
    that is so in several places, it is the one that is called by WRAPPERS alone. Raises WeightsError for what does not
    fit or can't be taken, and where it is not clear which is meant. `file` and `network` are for people.
    """
    wanted = {name: tensor for name, tensor in needs.tensors.items() if not needs.skips(name)}
    if not wanted:
        raise WeightsError(f"`skip` leaves nothing of {network} to be taken of {file}")
    places = {one.at: one for at, tensors in _mappings(found) for one in _named(tensors, at, wanted, needs)}
    if not places:
        raise WeightsError(f"{file} holds no state dict: tensors by name. It holds {_described(found)}")
    fitting = [one for one in places.values() if not misfits(one.tensors, wanted)]
    if not fitting:
        best = max(places.values(), key=lambda one: _likeness(one.tensors, wanted))
        where = f", under `{best.at}`," if best.at else ""
        raise WeightsError(f"{file}{where} does not fit {network}: {'; '.join(misfits(best.tensors, wanted))}")
    own = [one for one in fitting if set(one.at.split(".")) <= {"", *WRAPPERS}]
    meant = own if len(own) == 1 else fitting
    if len(meant) > 1:
        all_of = " and ".join(f"`{one.at or 'its top'}`" for one in meant)
        raise WeightsError(f"{file} holds weights of {network} under {all_of}: save those that are meant by themselves")
    odd: dict[str, list[str]] = {}
    for name, tensor in meant[0].tensors.items():
        odd.setdefault(_oddity(tensor, wanted[name]), []).append(name)
    odd.pop("", None)
    if odd:
        raise WeightsError(f"{file} can't be taken: {'; '.join(f'{some(odd[text])}: {text}' for text in sorted(odd))}")
    _check(meant[0], needs, file, network)
    return replace(meant[0], others=tuple(one.at for one in fitting if one is not meant[0]))


def _check(found: Taken, needs: Wanted, file: str, network: str) -> None:
    """Raise WeightsError for patterns that skip nothing, and for two values of what is one tensor of the network."""
    for pattern in needs.skip:
        if not any(fnmatchcase(name, pattern) for name in (*needs.tensors, *found.skipped)):
            there = ", ".join(needs.tensors)
            raise WeightsError(f"{pattern!r} of `skip` matches no tensor of {file} or of {network}, which has {there}")
    for name, first in needs.tied.items():
        if name in found.tensors and not torch.equal(found.tensors[name], found.tensors[first]):
            text = f"{file} has other values for {name} than for {first}, which are one tensor in {network}"
            raise WeightsError(f"{text}: leave one of them out of the file")


def misfits(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> list[str]:
    """How tensors differ from a network's in names and shapes. Files from before PyTorch 0.4.1 count no batches in
    their normalisation."""
    missing = [name for name in wanted if name not in found and not name.endswith(".num_batches_tracked")]
    shapes = [
        f"{name} has shape {_shape(found[name])}, and {_shape(tensor)} is needed"
        for name, tensor in wanted.items()
        if name in found and _shape(found[name]) != _shape(tensor)
    ]
    others = [f"{name} {_shape(tensor)}" for name, tensor in found.items() if name not in wanted]
    texts = [f"{some(missing)} {'is' if len(missing) == 1 else 'are'} missing"] if missing else []
    texts += shapes[:SHOWN] + ([f"{len(shapes) - SHOWN} more shapes differ"] if len(shapes) > SHOWN else [])
    return texts + ([f"it holds {some(others)}, which the network has not"] if others else [])


def _mappings(found: Any, at: str = "", seen: tuple[int, ...] = ()) -> Iterator[tuple[str, Tensors]]:
    """Mappings with tensors in them, from the outside in, with their keys."""
    if not isinstance(found, Mapping) or id(found) in seen:
        return
    tensors = {str(name): value for name, value in found.items() if isinstance(value, Tensor)}
    if tensors:
        yield at, tensors
    for name, value in found.items() if len(seen) < DEEP else ():
        yield from _mappings(value, f"{at}.{name}" if at else str(name), (*seen, id(found)))


def _named(tensors: Tensors, at: str, wanted: Mapping[str, Tensor], needs: Wanted) -> Iterator[Taken]:
    """The tensors of one mapping by a network's names: as they are, and by what may stand before all of a network's."""
    whole = _unmasked(tensors)
    plain = {".".join(part for part in name.split(".") if part not in AROUND): name for name in whole}
    own = {name: tensor for name, tensor in needs.completed(whole).items() if not needs.skips(name)}
    if len(plain) < len(whole) or not misfits(own, wanted):  # two would have one name; or it is right as it is
        plain = {name: name for name in whole}
    first, around = next(iter(wanted)), _around(wanted)
    found = [_after(before, "", plain, whole, needs) for before in sorted(_before(plain, first, needs) | {""})]
    if around and all(misfits(one.tensors, wanted) for one in found):
        inside = sorted(_before(plain, first.removeprefix(around), needs) | {""})
        of_inside = [_after(before, around, plain, whole, needs) for before in inside]
        found = [one for one in of_inside if not misfits(one.tensors, wanted)] or found
    for one in found:
        yield replace(one, at=".".join(filter(None, (at, one.at))))


def _after(before: str, around: str, plain: Mapping[str, str], whole: Tensors, needs: Wanted) -> Taken:
    """Those of a mapping's tensors that have something before their names, with `around` in its place.

    `plain` are the names of the `whole` ones without what was around modules.
    """
    names = {around + name.removeprefix(before): of for name, of in plain.items() if name.startswith(before)}
    own = {name: whole[of] for name, of in names.items() if name in needs.tensors or name not in COUNTS}
    skipped = {name: tensor for name, tensor in own.items() if needs.skips(name)}
    own = {name: tensor for name, tensor in own.items() if name not in (*skipped, *needs.made)}
    rest = tuple(of for name, of in plain.items() if not name.startswith(before) and name not in COUNTS)
    return Taken(needs.completed(own), before.rstrip("."), rest=rest, skipped=skipped)


def _around(names: Iterable[str]) -> str:
    """What stands before all of a network's names, and not before those of a file that is of its inside alone."""
    parts = [name.split(".")[:-1] for name in names]
    alike = takewhile(lambda level: len(set(level)) == 1, zip(*parts, strict=False))
    return "".join(f"{level[0]}." for level in alike)


def _before(names: Iterable[str], first: str, needs: Wanted) -> set[str]:
    """What may stand before a network's names, the first of which, or what it is tied to, is among a file's `names`."""
    alike = [first, *(name for name, other in needs.tied.items() if other == first)]
    return {name.removesuffix(one) for one in alike for name in names if f".{name}".endswith(f".{one}")}


def _unmasked(tensors: Tensors) -> Tensors:
    """With `torch.nn.utils.prune`'s pairs made one: `weight_orig` where `weight_mask` is 1."""
    whole = dict(tensors)
    for name, mask in tensors.items():
        stem = name.removesuffix("_mask")
        origin = tensors.get(f"{stem}_orig")
        if stem == name or origin is None or stem in tensors or not _a_mask(mask, origin):
            continue
        del whole[name], whole[f"{stem}_orig"]
        whole[stem] = torch.where(mask != 0, origin, torch.zeros_like(origin))
    return whole


def _a_mask(mask: Tensor, origin: Tensor) -> bool:
    """Whether it can be nothing else."""
    if not _plain(mask) or not _plain(origin) or mask.shape != origin.shape:
        return False
    return bool(((mask == 0) | (mask == 1)).all())


def _likeness(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> tuple[int, int, int]:
    """How much of what is wanted is there: in name and shape, and in name; and how much there is at all."""
    names = [name for name in wanted if name in tensors]
    return sum(_shape(tensors[name]) == _shape(wanted[name]) for name in names), len(names), len(tensors)


def _shape(tensor: Tensor) -> tuple[int, ...] | str:
    return "of its own" if tensor.is_nested else tuple(tensor.shape)


def _plain(tensor: Tensor) -> bool:
    """Whether it is numbers in memory, one beside the other."""
    usual = type(tensor) in (Tensor, nn.Parameter, nn.Buffer) and not tensor.is_nested and not tensor.is_quantized
    return usual and tensor.layout == torch.strided and tensor.device.type == "cpu"


def _oddity(tensor: Tensor, wanted: Tensor) -> str:
    """Why a tensor's values can't be a network's; empty if they can."""
    what = f"dtype {tensor.dtype}, layout {tensor.layout}"
    if type(tensor) not in (Tensor, nn.Parameter, nn.Buffer) or tensor.is_nested:
        return f"{what}, class {type(tensor).__name__}; save a plain tensor"
    if tensor.device.type == "meta":
        return f"{what}, on the device meta, without values; save the network when it has its weights"
    if tensor.is_quantized:
        return f"{what}, quantized; save its dequantize()"
    if tensor.layout != torch.strided:
        return f"{what}; save its to_dense()"
    if tensor.dtype not in (FLOATS if wanted.is_floating_point() else (*INTEGERS, *FLOATS)):
        return f"{what}; floating-point numbers of 16, 32 or 64 bits are needed, with any scale multiplied in"
    if not wanted.is_floating_point():
        known = "other values than 0 and 1" if wanted.dtype == torch.bool else "values that are no integers"
        return "" if bool((tensor == tensor.to(wanted.dtype)).all()) else known
    if not bool(tensor.isfinite().all()):
        return "values that are not finite"
    if not bool(tensor.to(wanted.dtype).isfinite().all()):
        return f"values beyond {torch.finfo(wanted.dtype).max:.1e}, the largest of {wanted.dtype}"
    return ""


def zeros(tensors: Mapping[str, Tensor]) -> tuple[int, int, float]:
    """How many values are zero, of how many, and the largest share of any one tensor."""
    counts = [(tensor.numel() - int(torch.count_nonzero(tensor)), tensor.numel()) for tensor in tensors.values()]
    most = max((none / size for none, size in counts if size), default=0.0)
    return sum(none for none, _ in counts), sum(size for _, size in counts), most


def _described(found: Any) -> str:
    """What a file holds, for people."""
    if isinstance(found, Passed):
        return f"an object of the class {type(found).__name__}, which is not read. {SAVE}"
    if not isinstance(found, Mapping):
        return f"a {type(found).__name__}"
    return some([f"{key} ({type(value).__name__})" for key, value in found.items()]) or "nothing"
