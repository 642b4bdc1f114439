"""What the runs of a store have at work, and what waits in one: by their locks, and by what they leave of themselves.

Only what a living driver says counts: the last words of one that was killed lie there too.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Literal

from dualprune.pipeline import dag
from dualprune.pipeline.node import Node
from dualprune.pipeline.plan.state import Planned
from dualprune.pipeline.store.locks import Holder, lives, newest, run_lock, stage_lock
from dualprune.pipeline.store.progress import Left, left
from dualprune.pipeline.store.store import Store

Standing = tuple[Literal["running", "queued", "failed", "skipped"], str]
"""A word, and what there is to say beside it."""


@dataclass(frozen=True)
class Scene:
    """The stages that are at work, and those that wait, at one look."""

    run: str = ""
    going: Left | None = None
    """What the run that was asked about has left, while its driver lives."""
    at_work: Mapping[str, tuple[Holder, Left]] = field(default_factory=dict)
    """By key: in whose hands a stage is, and what that run has left."""
    blocked: Collection[str] = ()
    """Names of the stages that the run does not come to, because others failed."""
    done: Collection[str] = ()
    """Names of those that are done."""

    def of(self, planned: Planned, reason: str | None) -> Standing | None:
        """How a stage stands that is not done; None if nobody is at it. `reason` says why it failed last."""
        node = planned.node
        if node.key in self.at_work:
            return _held(node, *self.at_work[node.key], self.run)
        if self.going is None or (self.going.asked is not None and node.name not in self.going.asked):
            return None
        if node.name in self.going.failed:
            return "failed", reason or "its reason is in the log"
        trial = next((name for name in self.going.lines if name.startswith(f"{node.name}@")), None)
        if trial is not None:
            state, text = _told(trial, self.going)
            return state, f"its trial {trial}: {text}"
        if node.name in self.blocked:
            return "skipped", "a stage before it failed"
        if self.going.stopping:
            return "skipped", "not begun, because another stage failed"
        if node.name in self.going.lines:
            return _told(node.name, self.going)
        waits = [name for name in dict.fromkeys(node.parents) if name not in self.done]
        return "queued", f"waits for {', '.join(waits)}" if waits else "waits for its turn"


def _held(node: Node, holder: Holder, said: Left, run: str) -> Standing:
    """A stage that a living process holds, for this `run` or for another one."""
    state, text = _told(next((name for name, key in said.keys.items() if key == node.key), node.name), said)
    return state, text if holder.run == run else f"{text}, in {holder}"


def _told(name: str, said: Left) -> Standing:
    """A stage by what its driver says of it, if anything yet."""
    line, since = said.line(name), said.since.get(name)
    if since is None:
        return "queued", line or "waits for its workers"
    return "running", f"{line or 'training'}{f', since {since}' if since else ''}"


def scene(run: str, plan: Iterable[Planned], store: Store, alive: Callable[[Holder], bool] | None = None) -> Scene:
    """What is at work now. `alive` says whether a holder lives; by default that is told as `lives` does."""
    plan = list(plan)
    living = alive or partial(lives, store.folder, now=cache(store.probe))
    names = set(store.folder.names("locks/names"))
    said: dict[str, Left] = {}

    def held(name: str) -> Holder | None:
        holder = newest(store.folder, name) if name in names else None
        return holder if holder is not None and living(holder) else None

    def of(run: str) -> Left:
        if run not in said:
            said[run] = left(store.folder, run)
        return said[run]

    going = of(run) if held(run_lock(run)) else None
    unfinished = [planned.node for planned in plan if planned.state != "cached"]
    holders = {node.key: holder for node in unfinished if (holder := held(stage_lock(node.key))) is not None}
    failed = going.failed if going is not None else ()
    return Scene(
        run,
        going,
        {key: (holder, of(holder.run)) for key, holder in holders.items()},
        {node.name for node in dag.blocked([planned.node for planned in plan], failed)},
        {planned.node.name for planned in plan if planned.state == "cached"},
    )
