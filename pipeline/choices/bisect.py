"""A search's trials one after the other: which are done, and which is next."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from dualprune.pipeline.choices.base import (
    Choice,
    ChoiceError,
    Decision,
    Manifest,
    Refuse,
    Stored,
    Take,
    Trials,
    Tried,
    Try,
    option,
    worth,
)
from dualprune.pipeline.choices.search import Search, best_factor, next_factor, shrunk
from dualprune.pipeline.node import Node, trial
from dualprune.stages.kinds.prune import PruneSpec
from dualprune.stages.objectives.measures import measures
from dualprune.stages.objectives.table import objective


def bisect(search: Node, parents: Sequence[Node], manifests: Mapping[str, Manifest], stored: Stored) -> Decision:
    """Follow a search through the trials that are done: `manifests` has them by name, or `stored` by key.

    Each trial starts from the one with the largest factor that has held so far, the first from the parent itself.
    """
    spec = search.spec
    assert isinstance(spec, Search)
    of = measures(manifests[parents[0].name])
    metric, unit = of.of("val"), "points" if of.unit == "%" else f"of {of.of('val')}"
    reference = worth(metric, option("", manifests[parents[0].name]))
    done: list[Tried] = []
    factors: list[tuple[float, float]] = []
    try:
        while (factor := next_factor(spec, reference, factors, unit)) is not None:
            start = done[best_factor(spec, reference, factors)].node if done else parents[0]
            node = trial(search, f"{factor:.4g}", shrunk(spec.stage, factor), [start, *parents[1:]])
            manifest = manifests.get(node.name) or stored.artefact(node.key)
            if manifest is None:
                return Try((node,), tuple(done))
            done.append(Tried(node, manifest))
            factors.append((factor, worth(metric, option("", manifest))))
    except ChoiceError as error:
        return Refuse(str(error))
    return Take(done[best_factor(spec, reference, factors)].node.name, tuple(done))


def _stage(search: Search) -> PruneSpec:
    return search.stage


def _most(search: Search) -> int:
    return search.trials


def _harshest(search: Search) -> tuple[PruneSpec, str]:
    return shrunk(search.stage, search.most), f"(at the search's factor {search.most:g})"


def _small(search: Search) -> Search:
    """Whatever a trial loses, it holds: two of them show all that can go wrong."""
    everything = 100.0 if objective(search.stage).measures.unit == "%" else sys.float_info.max
    return search.model_copy(update={"tolerance": everything, "trials": 2})


SEARCH = Choice(
    Search,
    version=1,
    decide=bisect,
    small=_small,
    trials=Trials(kind="prune", stage=_stage, most=_most, harshest=_harshest),
)
