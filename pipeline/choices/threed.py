"""Depth, width and resolution chosen together: a choice that tries shrink stages (Wang et al. 2021).

From the parent's network three chains, an axis each, take out a little more at each step and train on. A model of the
metric on validation is fitted to them, and its best point within the budget is made of the parent in one stage. That is
the paper's way; the settings are ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from dualprune.pipeline.choices.base import (
    Choice,
    ChoiceError,
    Decision,
    Manifest,
    Refuse,
    Stored,
    Take,
    Time,
    Trials,
    Tried,
    Try,
)
from dualprune.pipeline.choices.shapes import METRICS, Cost, Measured, Point, Threed, decide
from dualprune.pipeline.node import Node, trial
from dualprune.stages.kinds.shrink import Blocks, ShrinkSpec
from dualprune.stages.objectives.measures import measures
from dualprune.stages.settings.sets import Structured
from dualprune.stages.settings.training import Training


def threed(choice: Node, parents: Sequence[Node], manifests: Mapping[str, Manifest], stored: Stored) -> Decision:
    """Follow the chains through the stages that are done, then the stage that is made of the best point."""
    spec, whole = choice.spec, manifests[parents[0].name]
    assert isinstance(spec, Threed)

    def found(node: Node) -> Manifest | None:
        return manifests.get(node.name) or stored.artefact(node.key)

    done, waiting = _followed(choice, spec, parents, found)
    tried = tuple(done.values())
    if waiting:
        return Try(tuple(waiting), tried)
    nodes = {Point(): parents[0], **{point: one.node for point, one in done.items()}}
    if (shares := _timed(spec, nodes, stored)) is None:
        assert spec.latency is not None
        return Time(tuple(nodes.values()), spec.latency, tried)
    of = measures(whole)
    try:
        samples = [
            _measured(spec, point, manifest, whole, of.of("val"), shares.get(point))
            for point, manifest in [(Point(), whole), *((point, one.manifest) for point, one in done.items())]
        ]
        decided = decide(spec, samples, _side(done, parents[0]), of.higher)
    except ChoiceError as error:
        return Refuse(str(error))
    node = trial(choice, f"best,{decided.point}", _stage_best(spec, decided.point), parents)
    manifest = found(node)
    if manifest is None:
        return Try((node,), tried)
    tried = (*tried, Tried(node, manifest))
    best = {Point(): parents[0], decided.point: node}
    if (shares := _timed(spec, best, stored)) is None:
        assert spec.latency is not None
        return Time(tuple(best.values()), spec.latency, tried)
    facts, said = decided.facts(), decided.said
    if spec.latency is not None:
        facts |= {"latency": {**spec.latency.model_dump(), "share": shares[decided.point]}}
        said += f"; its latency is {shares[decided.point]:.3g} of the parent's ({spec.latency})"
    return Take(node.name, tried, facts, said)


def _timed(spec: Threed, nodes: Mapping[Point, Node], stored: Stored) -> dict[Point, float] | None:
    """The share of the parent's latency that each has; None if there are some that were not timed.

    Each is compared with the dense network that was timed beside it, so that times of other days compare.
    """
    if spec.latency is None:
        return {}
    rows = {point: spec.latency.row(stored.speeds(node.key)) for point, node in nodes.items()}
    faster = {point: row["ratio"]["middle"] for point, row in rows.items() if row is not None and row["ratio"]}
    if len(faster) < len(nodes):
        return None
    return {point: faster[Point()] / ratio for point, ratio in faster.items()}


def _followed(
    choice: Node, spec: Threed, parents: Sequence[Node], found: Callable[[Node], Manifest | None]
) -> tuple[dict[Point, Tried], list[Node]]:
    """The stages of chains and samples that are done, and those that are next."""
    done: dict[Point, Tried] = {}
    waiting = []
    for points in (*spec.chains(), *([Point(**one.model_dump())] for one in spec.samples)):
        start, before = parents[0], Point()
        for point in points:
            node = trial(choice, str(point), _stage_at(spec, point, before), [start, *parents[1:]])
            manifest = found(node)
            if manifest is None:
                waiting.append(node)
                break
            done[point] = Tried(node, manifest)
            start, before = node, point
    return done, waiting


def _stage_at(spec: Threed, point: Point, before: Point) -> ShrinkSpec:
    """A stage that makes of a network at `before` one at `point`; `before` is on the same axis, or the parent's."""
    width = point.width / before.width
    constraints = [_filters(spec, keep=width)] if width < 1 else []
    return _shaped(spec, point.depth - before.depth, constraints, point.resolution, spec.step or spec.stage.retrain)


def _stage_best(spec: Threed, point: Point) -> ShrinkSpec:
    """The stage at the end: of multiply-accumulates as many are left as the budget says, if it is of nothing else."""
    amount = {"macs": spec.budget["macs"]} if set(spec.budget) == {"macs"} else {"keep": point.width}
    constraints = [_filters(spec, **amount)] if point.width < 1 else []
    return _shaped(spec, point.depth, constraints, point.resolution, spec.stage.retrain)


def _filters(spec: Threed, **amount: float) -> Structured:
    settings = {"set": "filter", "tensors": spec.tensors, "coupled": True, "multiple": spec.multiple, **amount}
    return Structured.model_validate(settings)


def _shaped(
    spec: Threed, remove: int, constraints: list[Structured], resolution: int | None, retrain: Training | None
) -> ShrinkSpec:
    changes = {
        "blocks": Blocks(remove=remove) if remove else None,
        "constraints": constraints,
        "resolution": resolution,
        "retrain": retrain,
    }
    return spec.stage.model_copy(update=changes)


def _side(done: Mapping[Point, Tried], parent: Node) -> float:
    """The parent's resolution, as stages that began with its network and changed it found it; 1 if there are none."""
    sides = (
        one.manifest["shrunk"]["resolution"][0]
        for point, one in done.items()
        if point.resolution is not None and one.node.parents[0] == parent.name
    )
    return float(next(sides, 1.0))


def _measured(
    spec: Threed, point: Point, manifest: Manifest, whole: Manifest, best: str, latency: float | None
) -> Measured:
    costs: dict[Cost, float] = {} if latency is None else {"latency": latency}
    for name in spec.budget.keys() - costs.keys():
        now, before = (one["metrics"].get(METRICS[name]) for one in (manifest, whole))
        if not now or not before:
            raise ChoiceError(f"{name} of {point} are not known, so that no budget can be kept")
        costs[name] = now / before
    return Measured(point, float(manifest["metrics"][best]), costs)


def _stage(spec: Threed) -> ShrinkSpec:
    return spec.stage


def _most(spec: Threed) -> int:
    return sum(map(len, spec.chains())) + len(spec.samples) + 1


def _harshest(spec: Threed) -> tuple[ShrinkSpec, str]:
    """All that the chains take out, at once."""
    point = Point(max(spec.depth, default=0), min(spec.width, default=1.0), min(spec.resolution, default=None))
    return _stage_at(spec, point, Point()), f"(at {point}, the ends of the chains)"


def _outline(spec: Threed) -> str:
    chains = [" -> ".join(str(point) for point in points) for points in spec.chains() if points]
    chains += [str(Point(**one.model_dump())) for one in spec.samples]
    within = " and ".join(f"{share:g} of {name}" for name, share in spec.budget.items())
    return f"tries {'; '.join(chains)}; when all are done, the best point within {within}"


def _small(spec: Threed) -> Threed:
    """Two stages of each chain, and a budget that they reach, on any machine."""
    chains = {name: getattr(spec, name)[:2] for name in ("depth", "width", "resolution")}
    budget = dict.fromkeys([name for name in spec.budget if name != "latency"] or ["macs"], 0.99)
    return spec.model_copy(update={**chains, "step": None, "samples": [], "budget": budget, "latency": None})


THREED = Choice(
    Threed,
    version=1,
    decide=threed,
    small=_small,
    trials=Trials(kind="shrink", stage=_stage, most=_most, harshest=_harshest, outline=_outline),
)
