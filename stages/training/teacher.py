"""The network that a stage learns from, and how far the stage's own is from it.

What is compared beside outputs (`stages.settings.training.Distill`), of modules of the same names in both networks:

- Hidden states, before a transformer's layers and after each (TinyBERT, Jiao et al. 2020; DynaBERT, Hou et al. 2020;
  MLPruning, Yao et al. 2021): the mean squared difference of each sample, over what is known of it. Streams are as wide
  in both, since heads and units of feed-forward layers are what goes.
- Attention: the same of what its modules give, which is as wide for any number of heads.
- Maps: attention's probabilities, as the papers have it. Networks don't give them, since torch's
  `scaled_dot_product_attention` computes them in one piece; so they are computed once more from what that is called
  with, before dropout. Heads are compared one by one, so both networks need as many; one whose queries are zero attends
  evenly. The mean is over heads, known queries and known keys.

Differences are summed over modules (maps: calls), times their weights, and added to that of outputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from dualprune.stages.data.read.reading import Reader
from dualprune.stages.networks.inside import THEIRS, places, unlike
from dualprune.stages.objectives.base import Batch, Objective
from dualprune.stages.objectives.fields import spread
from dualprune.stages.settings.base import Problem, SpecError
from dualprune.stages.settings.distill import Distill

MAPS = "maps"
"""What maps go by, beside `hidden` and `attention`; their place has no name."""
NO_MAPS = "calls no `scaled_dot_product_attention` of torch, or hides it (MultiheadAttention does); use `attention`"
"""Of what has none."""
Place = tuple[str, str]
"""A setting of `distill`, and what is compared for it."""
Seen = dict[Place, list[Tensor]]
"""What was seen at each place, at each of its calls."""
SAMPLES = 3
"""Of validation that networks are tried on."""


class Watch:
    """What is within a network when it is called. Its hooks do nothing but while somebody looks."""

    def __init__(self, network: nn.Module, settings: Distill, whose: str = "") -> None:
        self.seen: Seen | None = None
        self.versions: dict[Place, list[int]] = {}
        """How often each of what is seen had been changed in place by then."""
        self.inside, self.maps = settings.inside, settings.maps is not None
        self.places = places(network, settings, whose)
        for name, at in self.places.items():
            for path in at.given:
                hook = self._given((name, f"the input of {path}"))
                network.get_submodule(path).register_forward_pre_hook(hook, with_kwargs=True)
            for path in at.gives:
                network.get_submodule(path).register_forward_hook(self._gives((name, path)))

    def _given(self, place: Place) -> Callable[..., None]:
        return lambda _, args, named: self.note(place, args or named)

    def _gives(self, place: Place) -> Callable[..., None]:
        return lambda _, __, output: self.note(place, output)

    def note(self, place: Place, found: Any) -> None:
        """Remember a tensor, or the first of several, if anybody looks. Raises SpecError for anything else."""
        if self.seen is None:
            return
        while isinstance(found, Mapping | tuple | list) and found:
            found = next(iter(found.values() if isinstance(found, Mapping) else found))
        if not isinstance(found, Tensor):
            name, path = place
            text = f"{path} is no tensor, nor several, but a {type(found).__name__}; leave it out by patterns"
            raise SpecError([(("distill", name), text)])
        self.seen.setdefault(place, []).append(found)
        self.versions.setdefault(place, []).append(found._version)

    def changed(self, seen: Seen) -> list[Problem]:
        """What was changed in place after it was seen, by the setting that it is for."""
        return [
            (
                ("distill", name),
                f"what {path} gives is changed in place behind it; name the module that does so instead",
            )
            for (name, path), values in seen.items()
            if [value._version for value in values] != self.versions[name, path]
        ]

    @contextmanager
    def looking(self) -> Iterator[Seen]:
        """Have what is seen of calls within this."""
        self.seen, self.versions = (seen := Seen()), {}
        fast = torch.backends.mha.get_fastpath_enabled()
        with ExitStack() as stack:
            stack.callback(setattr, self, "seen", None)
            if self.inside:  # which calls no modules, and has no maps
                stack.callback(torch.backends.mha.set_fastpath_enabled, fast)
                torch.backends.mha.set_fastpath_enabled(False)
            if self.maps:
                stack.enter_context(Attending(lambda found: self.note((MAPS, ""), found)))
            yield seen


class Attending(TorchFunctionMode):
    """Shows the probabilities of scaled dot product attention."""

    def __init__(self, show: Callable[[Tensor], None]) -> None:
        super().__init__()
        self._show = show

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function is F.scaled_dot_product_attention:
            self._show(probabilities(*args, **kwargs))
        return function(*args, **kwargs)


def probabilities(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Those of torch's `scaled_dot_product_attention` of the same arguments, without dropout: [n, heads, t, keys].

    A query that may attend to nothing attends evenly.
    """
    if enable_gqa:
        key = key.repeat_interleave(query.size(-3) // key.size(-3), -3)
    scores = query @ key.transpose(-2, -1) * (1 / math.sqrt(query.size(-1)) if scale is None else scale)
    least = torch.finfo(scores.dtype).min
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attn_mask is not None:
        added = attn_mask.dtype != torch.bool
        scores = (scores + attn_mask).clamp(min=least) if added else scores.masked_fill(~attn_mask, least)
    return scores.softmax(-1)


class Teacher:
    """A network that gives its answers without a graph, beside the one that learns from it."""

    def __init__(self, network: nn.Module, settings: Distill, objective: Objective, bf16: bool) -> None:
        self._network, self._settings, self._objective, self._bf16 = network, settings, objective, bf16
        self._watch = Watch(network, settings, THEIRS)
        self._student: tuple[nn.Module, Watch] | None = None
        self._seen: Seen = {}

    def teaches(self, student: nn.Module) -> None:
        """Say which network learns. Raises SpecError where it has not the modules that are compared."""
        watch = Watch(student, self._settings)
        self._student = student, watch
        if problems := unlike(watch.places, self._watch.places):
            raise SpecError(problems)

    @contextmanager
    def looking(self) -> Iterator[None]:
        """Look into the network that learns while it is called; `apart` compares it."""
        assert self._student is not None
        with self._student[1].looking() as self._seen:
            yield

    def apart(self, outputs: Any, batch: Batch) -> Tensor:
        """How far what was looked at, and its outputs for a batch, are from the teacher's: summed over samples."""
        assert self._objective.distil is not None
        answer, theirs = self._answer(batch)
        found = self._objective.distil(outputs, answer, batch, self._settings.temperature)
        ours, self._seen = self._seen, {}
        if not theirs:
            return found
        known = None if self._objective.known is None else self._objective.known(batch)
        for (name, path), values in theirs.items():
            compare = _maps_apart if name == MAPS else _apart
            parts = [compare(*pair, known) for pair in zip(ours[name, path], values, strict=True)]
            found = found + self._weight(name) * torch.stack(parts).sum()
        return found

    def check(self, forward: Callable[..., Any], split: Reader) -> None:
        """Raise SpecError for a network within which something is of another shape than in the teacher, or is not by
        samples. `forward` calls it on a few of a split, on all ranks together."""
        if not self._settings.inside:
            return
        assert self._student is not None
        (batch,) = split.evaluation([np.arange(min(SAMPLES, len(split)))])
        training = self._student[0].training
        self._student[0].eval()
        with torch.no_grad(), self.looking():
            self._objective.call(forward, batch)
        _, theirs = self._answer(batch)
        self._student[0].train(training)
        ours, self._seen = self._seen, {}
        problems = self._student[1].changed(ours)[:1]
        for name, text in _unlike(ours, theirs, len(next(iter(batch.values())))):
            problems.append((("distill", name), text))
        if self._watch.maps and not any(name == MAPS for name, _ in theirs):
            problems.append((("distill", MAPS), f"the teacher {NO_MAPS}"))
        if problems:
            raise SpecError(problems)

    @torch.no_grad()
    def _answer(self, batch: Batch) -> tuple[Any, Seen]:
        device = next(iter(batch.values())).device.type
        with torch.autocast(device, torch.bfloat16, enabled=self._bf16), self._watch.looking() as seen:
            return self._objective.call(self._network, batch), seen

    def _weight(self, name: str) -> float:
        of = getattr(self._settings, name)
        return of if isinstance(of, float) else of.weight


def _unlike(ours: Seen, theirs: Seen, samples: int) -> Iterator[tuple[str, str]]:
    """What of two networks can't be compared, by the setting that it is for: the first of each."""
    told: set[str] = set()
    for name, path in {**ours, **theirs}:
        here, there = ([list(one.shape) for one in seen.get((name, path), [])] for seen in (ours, theirs))
        what = path or "scaled_dot_product_attention"
        if here != there:
            text = f"{what} is {_shapes(here)} here and {_shapes(there)} in the teacher, for {samples} samples"
            hint = "heads are compared one by one; use `attention`" if name == MAPS else "leave it out by patterns"
        elif any(shape[:1] != [samples] or (name == MAPS and len(shape) != 4) for shape in here):
            text, hint = f"{what} is {_shapes(here)} for {samples} samples", "its first axis has to be theirs"
        else:
            continue
        if name not in told:
            told.add(name)
            yield name, f"{text}; {hint}"


def _shapes(shapes: list[list[int]]) -> str:
    return ", ".join(map(str, shapes)) or "never called"


def _apart(given: Tensor, wanted: Tensor, known: Tensor | None) -> Tensor:
    """The sum over samples of each one's mean squared difference, over what is known of it; of [n, ...]."""
    squares = (given.float() - wanted.float()).square()
    if known is not None and known.ndim == 2 and squares.ndim > 2 and squares.shape[:2] == known.shape:
        return spread(squares.flatten(2).mean(2), known)
    each = squares.reshape(len(squares), -1).mean(1)
    return each.sum() if known is None else (each * _good(known)).sum()


def _maps_apart(given: Tensor, wanted: Tensor, known: Tensor | None) -> Tensor:
    """The same of maps [n, heads, t, keys], of which keys are known where queries are."""
    squares = (given.float() - wanted.float()).square().mean(1)
    if known is None or known.ndim != 2 or squares.shape[1:] != (known.shape[1], known.shape[1]):
        each = squares.mean((1, 2))
        return each.sum() if known is None else (each * _good(known)).sum()
    return spread((squares * known[:, None]).sum(2) / known.sum(1, keepdim=True).clamp(min=1), known)


def _good(known: Tensor) -> Tensor:
    return known.reshape(len(known), -1).any(1)
