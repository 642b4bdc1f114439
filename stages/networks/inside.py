"""Modules within a network whose outputs others can be compared with: by patterns, or those of a transformer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn

from dualprune.stages.networks.edits import Passed
from dualprune.stages.settings.base import Problem, SpecError
from dualprune.stages.settings.distill import Compared, Distill
from dualprune.stages.settings.patterns import excluded, included, listed

LISTS = (nn.ModuleList, nn.Sequential)
ATTENTION = ("attention", "attn")
"""In the name of a class of attention, in any case."""

THEIRS = "in the teacher "
"""What problems of its network begin with."""


@dataclass(frozen=True)
class Inside:
    """Where to look into a network."""

    given: tuple[str, ...]
    """Modules whose first input counts."""
    gives: tuple[str, ...]
    """Modules whose output, or the first of several, counts."""


def places(network: nn.Module, settings: Distill, whose: str = "") -> dict[str, Inside]:
    """Where to look into a network, by the setting that asks for it. Raises SpecError where there is nothing; `whose`
    network that is not, problems begin with."""
    found, problems = dict[str, Inside](), list[Problem]()
    for name, compared, where in (("hidden", settings.hidden, hidden), ("attention", settings.attention, attention)):
        if compared is not None:
            try:
                found[name] = where(network, compared)
            except ValueError as error:
                problems.append((("distill", name), f"{whose}{error}"))
    if problems:
        raise SpecError(problems)
    return found


def unlike(here: Mapping[str, Inside], there: Mapping[str, Inside]) -> list[Problem]:
    """Modules that are looked at in a network and not in its teacher, or the other way round: a setting's first."""
    found = list[Problem]()
    for name, ours in here.items():
        theirs = there[name].gives
        for path in ours.gives + theirs:
            if (path in ours.gives) != (path in theirs):
                where = "here, and in the teacher" if path in ours.gives else "in the teacher, and here"
                text = f"{path} is {where} it is not, or of another type: networks as deep are needed"
                found.append((("distill", name), text))
                break
    return found


def hidden(network: nn.Module, settings: Compared) -> Inside:
    """Hidden states. Raises ValueError where there are none.

    By default those of transformers: what each layer gives, and what the first one is given. Layers are the members of
    lists (`ModuleList`, `Sequential`) of one class that have attention in them, and no other such list.
    """
    if not settings.default:
        return Inside((), _matching(network, settings))
    found = _layers(network)
    return Inside(tuple(layers[0] for layers in found), tuple(path for layers in found for path in layers))


def attention(network: nn.Module, settings: Compared) -> Inside:
    """What attention gives: of each layer as above the outermost modules of a class that is called so. Raises
    ValueError where there are none."""
    if not settings.default:
        return Inside((), _matching(network, settings))
    found = _layers(network)
    return Inside((), tuple(path for layers in found for layer in layers for path in _attends(network, layer)))


def _matching(network: nn.Module, settings: Compared) -> tuple[str, ...]:
    """Modules that settings name. Raises ValueError for a pattern or type that there is none of."""
    every = {path: module for path, module in network.named_modules() if path}
    types, patterns = listed(settings.layers), listed(settings.modules) or ["*"]
    for one in types:
        if not any(one in _types(module) for module in every.values()):
            raise ValueError(f"no module is a {one!r}; there are {', '.join(_kinds(every))}")
    for one in patterns:
        if not any(fnmatchcase(path, one.removeprefix("!")) for path in every):
            raise ValueError(f"no module is called {one!r}; there are {', '.join(_few(every))}")
    wanted, without = included(patterns), excluded(patterns)
    found = tuple(
        path
        for path, module in every.items()
        if (not types or _types(module) & set(types))
        and any(fnmatchcase(path, one) for one in wanted)
        and not any(fnmatchcase(path, one) for one in without)
    )
    if not found:
        raise ValueError("no module is of these names and types")
    return found


def _types(module: nn.Module) -> set[str]:
    return {kind.__name__ for kind in type(module).__mro__}


def _kinds(every: Mapping[str, nn.Module]) -> list[str]:
    return sorted({type(module).__name__ for module in every.values()})


def _few(every: Mapping[str, nn.Module], most: int = 12) -> list[str]:
    return [*list(every)[:most], *([f"and {len(every) - most} more"] if len(every) > most else [])]


def _layers(network: nn.Module) -> list[list[str]]:
    """Paths of the layers of each list of them. Raises ValueError where there is none."""
    found = list(_lists(network))
    if not found:
        raise ValueError("no list of layers has attention in them; name `modules`, or their types as `layers`")
    return found


def _lists(network: nn.Module) -> Iterator[list[str]]:
    for path, module in network.named_modules():
        if not isinstance(module, LISTS) or not _layered(module):
            continue
        if not any(isinstance(one, LISTS) and _layered(one) for one in list(module.modules())[1:]):
            every = [(name, one) for name, one in module.named_children() if not isinstance(one, Passed)]
            yield [f"{path}.{name}" if path else name for name, _ in every]


def _layered(module: nn.Module) -> bool:
    """Whether its members, but for those that were removed, are of one class and have attention in them."""
    children = [one for one in module.children() if not isinstance(one, Passed)]
    return len({type(one).__name__ for one in children}) == 1 and all(
        any(_is_attention(one) for one in list(child.modules())[1:]) for child in children
    )


def _is_attention(module: nn.Module) -> bool:
    return any(word in name.lower() for name in _types(module) for word in ATTENTION)


def _attends(network: nn.Module, layer: str) -> Iterator[str]:
    """Paths of the outermost attention modules in a layer."""
    for name, child in network.get_submodule(layer).named_children():
        path = f"{layer}.{name}"
        if _is_attention(child):
            yield path
        else:
            yield from _attends(network, path)
