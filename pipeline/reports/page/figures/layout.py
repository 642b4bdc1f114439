"""Where the stages of a DAG stand in a picture: their depth, and their order within it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

BEND = "\0"
"""What names of places begin with at which an edge passes a depth; no stage has such a name."""
SWEEPS = 4
"""Times that the order is improved, down and up in turn."""


def layers(parents: Mapping[str, Sequence[str]]) -> list[list[str]]:
    """Names by depth: below all their parents. Within a depth, as near to parents and children as goes (barycentres,
    Sugiyama et al. 1981). `parents` has parents before children."""
    depths: dict[str, int] = {}
    for name, above in parents.items():
        depths[name] = 1 + max((depths[parent] for parent in above), default=-1)
    found: list[list[str]] = [[] for _ in range(1 + max(depths.values(), default=-1))]
    for name, depth in depths.items():
        found[depth].append(name)
    children: dict[str, list[str]] = {name: [] for name in parents}
    for name, above in parents.items():
        for parent in above:
            children[parent].append(name)
    for sweep in range(SWEEPS):
        beside, levels = (parents, found[1:]) if sweep % 2 == 0 else (children, found[-2::-1])
        for level in levels:
            places = {name: _place(number, names) for names in found for number, name in enumerate(names)}
            level.sort(key=lambda name: _barycentre(beside[name], places, places[name]))
    return found


def with_bends(parents: Mapping[str, Sequence[str]]) -> tuple[dict[str, list[str]], dict[tuple[str, str], list[str]]]:
    """The same graph with a name in each depth that an edge passes, so that it has a place there and crosses nothing;
    and those names of each edge, from its beginning on."""
    depths: dict[str, int] = {}
    found: dict[str, list[str]] = {}
    bends: dict[tuple[str, str], list[str]] = {}
    for name, above in parents.items():
        depths[name] = 1 + max((depths[parent] for parent in above), default=-1)
        found[name] = []
        for parent in above:
            last = parent
            for depth in range(depths[parent] + 1, depths[name]):
                bend = f"{BEND}{parent} {name} {depth}"
                found[bend] = [last]
                bends.setdefault((parent, name), []).append(bend)
                last = bend
            found[name].append(last)
        found[name] = found.pop(name)  # behind its bends
    return found, bends


def _place(number: int, names: Sequence[str]) -> float:
    """A name's place in its layer, from -0.5 to 0.5."""
    return (number + 0.5) / len(names) - 0.5


def _barycentre(names: Sequence[str], places: Mapping[str, float], otherwise: float) -> float:
    return sum(places[name] for name in names) / len(names) if names else otherwise
