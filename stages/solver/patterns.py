"""Which tensors a constraint is for: its patterns and types of layers meet a network's parameters."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

from dualprune.stages.networks.parameters import Parameters, weights
from dualprune.stages.settings.base import Problem
from dualprune.stages.settings.sets import Pattern


def matching(settings: Pattern, parameters: Parameters) -> Parameters:
    """The tensors that a constraint is for. An embedding, or what is tied to one, it has to name, or its type."""
    found = _all(settings, parameters)
    return {
        name: one
        for name, one in found.items()
        if not any(_matches(one.names, pattern) for pattern in settings.excluded)
    }


def unmatched(settings: Pattern, parameters: Parameters, model: str) -> list[Problem]:
    """What of a constraint's patterns and types of layers matches nothing, with its place in the constraint.

    `model` is what the network is called.
    """
    able = weights(parameters)
    problems: list[Problem] = []
    for number, layer in enumerate(settings.types):
        if not any(one.of_types([layer]) for one in able.values()):
            text = f"no layer of {model} that has weights is a {layer!r}; {_kinds(able)}"
            problems.append((_place("layers", settings.layers, number), text))
    typed = not problems
    for number, pattern in enumerate(settings.patterns):
        if pattern.startswith("!"):
            missed = not any(_matches(one.names, pattern[1:]) for one in parameters.values())
        else:
            missed = typed and not any(_matches(one.names, pattern) for one in _all(settings, able).values())
        if missed:
            text = _unmatched(pattern, settings, parameters, model)
            problems.append((_place("tensors", settings.tensors, number), text))
    if not problems and not matching(settings, parameters):
        text = f"what is left out is all that there would be: {listed(_all(settings, able))}"
        problems.append((("tensors",), text))
    return problems


def shown(names: Iterable[str], parameters: Parameters) -> str:
    """Tensors with their shapes, for a message."""
    return ", ".join(f"{name} {tuple(parameters[name].shape)}" for name in names)


def listed(parameters: Parameters) -> str:
    """Tensors with the types of their layers, for a message."""
    return ", ".join(f"{name} ({one.layer})" if one.layer else name for name, one in parameters.items())


def _all(settings: Pattern, parameters: Parameters) -> Parameters:
    """The same, with those that are excluded."""
    found = {}
    for name, one in weights(parameters).items():
        hits = [pattern for pattern in settings.included if _matches(one.names, pattern)]
        typed = not settings.types or one.of_types(settings.types)
        meant = not one.embedding or set(hits) & set(one.names) or one.embedding & set(settings.types)
        if hits and typed and meant:
            found[name] = one
    return found


def _matches(names: Iterable[str], pattern: str) -> bool:
    return any(fnmatchcase(name, pattern) for name in names)


def _place(setting: str, given: object, number: int) -> tuple[str | int, ...]:
    return (setting, number) if isinstance(given, list) else (setting,)


def _unmatched(pattern: str, settings: Pattern, parameters: Parameters, model: str) -> str:
    there = {name: one for name, one in parameters.items() if _matches(one.names, pattern.removeprefix("!"))}
    able = weights(there)
    typed = {name: one for name, one in able.items() if not settings.types or one.of_types(settings.types)}
    if typed:
        way = "embeddings, and what is tied to them, are constrained where named in full, or by `layers: Embedding`"
        return f"{pattern!r} matches only {listed(typed)} of {model}; {way}"
    if able:
        hint = f"matches no tensor of {model} in a layer of {' or '.join(settings.types)}"
    elif there:
        hint = f"matches nothing that can be constrained ({shown(there, parameters)}) of {model}"
    else:
        hint = f"matches no tensor of {model}"
    return f"{pattern!r} {hint}; its weights are {listed(weights(parameters))}"


def _kinds(able: Parameters) -> str:
    """Types of layers and their weights, for a message."""
    names: dict[str, list[str]] = {}
    for name, one in able.items():
        names.setdefault(one.layer, []).append(name)
    return "there are " + "; ".join(f"{layer}: {', '.join(of)}" for layer, of in names.items())
