"""What a run says of its stages while they run: on the terminal, in the driver's log, and in the event log."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from dualprune.cluster.failures import Failure
from dualprune.pipeline.measured import validated
from dualprune.pipeline.node import Node
from dualprune.pipeline.run.results import advice
from dualprune.pipeline.run.view import View
from dualprune.pipeline.store.events import Events
from dualprune.pipeline.store.locks import Holder
from dualprune.stages.objectives.measures import measures

_log = logging.getLogger(__name__)

EMULATED = "its processor has no bf16: precision fp32 takes a fraction of the time"
"""Said of a stage in bf16 as it begins."""
MEMORY = (
    "a worker was killed because its machine ran out of memory; what helps: fewer lanes or workers a machine, a smaller"
    " batch or more of engine.accumulate, fewer of data.workers, and no engine.offload"
)
"""Ray's own account is in the log."""


class Report:
    """Tells what happens to stages, as it happens."""

    def __init__(self, view: View, events: Events) -> None:
        self._view, self._events = view, events

    def note(self, text: str) -> None:
        """A line of the run's own."""
        self._view.note(text)

    def submitted(self, node: Node) -> None:
        """A stage is given to the lanes."""
        facts = {"kind": node.spec.kind, "parents": list(node.parents), "objective": node.measures.said()}
        self._tell("submitted", node, **facts, material=dict(node.material))
        _log.info("%s: ready", node.name)
        self._view.waiting(node.name, "waits for its workers")

    def elsewhere(self, name: str, holder: Holder) -> None:
        """A stage is at work in another run."""
        self._events.add("elsewhere", name, why=str(holder))
        self._view.waiting(name, f"is at work in another run, {holder}; waits for that")

    def row(self, node: Node, row: dict[str, Any]) -> None:
        """What a stage's ranks tell: that they begin, go on or stop, where they are, and samples that are bad."""
        name = node.name
        self._tell(**row, node=node)
        if row["event"] == "epoch" or row["event"] == "steps":
            self._view.epoch(name, row)
        elif row["event"] == "left_out":
            self._view.left_out(name, row["left_out"])
        elif row["event"] == "stopped":
            _log.info("%s: stopped after step %d", name, row["steps"])
            self._view.ended(name, f"stopped after step {row['steps']}, and saved there")
        else:
            _log.info("%s: trains from step %d on", name, row["steps"])
            slow = f" ({EMULATED})" if row.get("emulates_bf16") else ""
            begins = f"goes on after step {row['steps']}" if row["event"] == "resumed" else "training"
            self._view.begins(name, begins + slow, {"best": node.measures.best, "unit": node.measures.unit, **row})

    def memory(self, account: str) -> None:
        """A worker was killed for memory; `account` is Ray's."""
        self._events.add("memory", why=account)
        _log.warning(account)
        self.note(MEMORY)

    def taken(self, node: Node, chosen: Node, manifest: Mapping[str, Any]) -> None:
        """A choice has taken a stage's result."""
        self._tell("done", node, kind=node.spec.kind, chosen=chosen.name, metrics=manifest["metrics"])
        of = measures(manifest)
        self.note(f"{node.name}: takes {chosen.name}, {validated(manifest['metrics'], of.best, of.unit)}")

    def done(self, node: Node, manifest: Mapping[str, Any]) -> None:
        """A stage has trained to its end, and left this manifest."""
        name = node.name
        metrics, said = manifest["metrics"], advice(manifest)
        self._tell("done", node, metrics=metrics, advice=said)
        rate, network = metrics["rate"], metrics.get("network_rate")
        of_all = "" if network in (None, rate) else f" ({network:.2f}x of the network)"
        of = measures(manifest)
        rates = "" if rate is None else f"{rate:.2f}x{of_all}, "
        self._view.ended(name, f"done: {rates}{validated(metrics, of.best, of.unit)} in {metrics['seconds']:.1f} s")
        if said:
            self._view.note(f"{name}: {said}")

    def lost(self, node: Node, failure: Failure, reason: str, again: bool) -> None:
        """A stage's training broke off; whether it is tried again, and why."""
        name = node.name
        _log.warning("%s: %s\n%s", name, reason, failure.trace)
        if again:
            self._tell("retry", node, reason=reason)
            self._view.again(name, reason)

    def failed(self, node: Node, reason: str, told: str) -> None:
        """A stage has failed for good; of its reason `told` is shown."""
        self._tell("failed", node, kind=node.spec.kind, reason=reason)
        self._view.failed(node.name, told)

    def account(self) -> dict[str, Any]:
        """What stages do, for those who watch."""
        return self._view.account()

    def _tell(self, event: str, node: Node, **facts: Any) -> None:
        self._events.add(event, node.name, key=node.key, **facts)
