"""Which tensors the constraints of a plan's stages hold, and what of each may stay: as a table, and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from dualprune.pipeline import dag
from dualprune.pipeline.config.problems import ConfigError
from dualprune.pipeline.plan.state import Planned
from dualprune.stages.data.format import planned_manifest
from dualprune.stages.kinds.constrained import constrained
from dualprune.stages.settings.base import SpecError
from dualprune.stages.settings.sets import Pattern

if TYPE_CHECKING:
    from dualprune.stages.solver.targets import Held


def held(plan: Sequence[Planned]) -> dict[str, list[Held]]:
    """What the constraints of each stage hold, by the stage's name; of a search, those of one trial.

    Raises ConfigError where a stage that is done has a network that can't be built any more.
    """
    from dualprune.stages.training.cuts import cuts

    found = {}
    for planned in plan:
        spec = dag.trained(planned.node.spec)
        if spec is None or planned.search is not None:
            continue
        try:
            manifest = planned_manifest(planned.node.shards, planned.node.data_digest)
            found[planned.node.name] = constrained(spec, cuts(spec, manifest))
        except SpecError as error:
            raise ConfigError(planned.node.name, [text for _, text in error.problems]) from None
    return {name: constraints for name, constraints in found.items() if constraints}


def as_json(found: Mapping[str, Sequence[Held]]) -> dict[str, Any]:
    """By stage, its constraints in order. `most` entries beside zero may stay of a tensor, `together` of all; the other
    of the two is None."""
    return {
        name: [
            {
                "set": one.settings.set,
                "settings": _settings(one.settings),
                "together": one.total,
                "tensors": [
                    {
                        "name": tensor,
                        "shape": list(parameter.shape),
                        "size": parameter.shape.numel(),
                        "layer": parameter.layer,
                        "most": one.most.get(tensor),
                    }
                    for tensor, parameter in one.tensors.items()
                ],
            }
            for one in constraints
        ]
        for name, constraints in found.items()
    }


def as_table(found: Mapping[str, Sequence[Held]]) -> Table:
    """A row for each tensor of each constraint, and one for the budget of several."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in ("stage", "set", "tensor", "shape", "layer"):
        table.add_column(title, overflow="fold")
    for title in ("weights", "may stay"):
        table.add_column(title, justify="right", no_wrap=True)
    for stage, constraints in found.items():
        for one in constraints:
            said = ", ".join(f"{name} {value}" for name, value in _settings(one.settings).items())
            kind = f"{one.settings.set}: {said}"
            for name, parameter in one.tensors.items():
                shape, most = " x ".join(map(str, parameter.shape)), one.most.get(name)
                stay = "" if most is None else f"{most:,}"
                size = f"{parameter.shape.numel():,}"
                table.add_row(escape(stage), escape(kind), escape(name), shape, escape(parameter.layer), size, stay)
            if one.total is not None:
                size = f"{sum(parameter.shape.numel() for parameter in one.tensors.values()):,}"
                table.add_row(escape(stage), escape(kind), "all of these", "", "", size, f"{one.total:,}")
    return table


def _settings(settings: Pattern) -> dict[str, Any]:
    """How much stays, as a constraint says."""
    return settings.model_dump(mode="json", exclude_defaults=True, exclude={"set", "tensors", "layers"})
