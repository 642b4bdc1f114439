"""What stages are measured by, as facts, without torch: names, units, directions. The pipeline chooses by them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple


class Measure(NamedTuple):
    """One metric of an objective."""

    unit: str = "%"
    """`%`, or what stands behind the number; nothing for numbers without one."""
    higher: bool = True
    """Whether more is better."""


@dataclass(frozen=True)
class Measures:
    """All metrics of an objective."""

    best: str
    """The one that is chosen by and shown."""
    metrics: Mapping[str, Measure]

    @property
    def unit(self) -> str:
        """Of the best."""
        return self.metrics[self.best].unit

    @property
    def higher(self) -> bool:
        """Whether more of the best is better."""
        return self.metrics[self.best].higher

    def of(self, split: str) -> str:
        """The name that the best goes by on a split, in manifests and rows."""
        return f"{split}_{self.best}"

    def said(self) -> dict[str, Any]:
        """As manifests say it."""
        return {"best": self.best, "metrics": {name: one._asdict() for name, one in self.metrics.items()}}


CLASSIFY = Measures("accuracy", {"accuracy": Measure(), "loss": Measure("", higher=False)})
"""What artefacts were measured by that do not say it: they are older."""


def measures(manifest: Mapping[str, Any]) -> Measures:
    """What a manifest says its stage was measured by."""
    said = manifest.get("objective")
    if said is None:
        return CLASSIFY
    return Measures(said["best"], {name: Measure(one["unit"], one["higher"]) for name, one in said["metrics"].items()})
