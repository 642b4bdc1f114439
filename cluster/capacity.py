"""How many workers find room in a cluster, and how waiting tasks share it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

Resources = Mapping[str, float]


@dataclass(frozen=True)
class Shape:
    """What a lane is made of: from `least` to `most` workers, as they find room when it is opened."""

    least: int
    most: int
    cpus: float
    """Of each worker."""
    gpus: float
    """Of each worker."""

    @property
    def worker(self) -> dict[str, float]:
        """What one worker needs."""
        return {"CPU": self.cpus} | ({"GPU": self.gpus} if self.gpus else {})

    @property
    def elastic(self) -> bool:
        """Whether lanes may differ in size."""
        return self.least < self.most


@dataclass(frozen=True)
class Node:
    """A machine of a cluster."""

    identity: str
    total: Resources
    free: Resources
    """What nobody has reserved at present."""
    leaving: bool = False
    """Whether it is going to be taken away, or was, by the cluster's owner and not by a fault."""


def fits(resources: Iterable[Resources], worker: Resources) -> int:
    """How many workers find room; each has to be on one machine."""
    return sum(
        min((int(there.get(name, 0.0) / amount) for name, amount in worker.items() if amount), default=0)
        for there in resources
    )


def shares(free: int, waiting: int, shape: Shape) -> list[int]:
    """Sizes of the lanes to open for `waiting` tasks where `free` workers find room.

    Side by side is faster than one after another on more workers, so there are as many lanes as
    can be, and what is there is shared out among them.
    """
    lanes = min(waiting, free // shape.least)
    sizes = []
    for left in range(lanes, 0, -1):
        sizes.append(min(shape.most, free // left))
        free -= sizes[-1]
    return sizes
