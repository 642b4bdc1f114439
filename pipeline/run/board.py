"""How the stages of one run stand: which can begin, are at work, wait, are done or have failed. Pure.

Stages of one key are the same work: one of them does it, and the others wait for that one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter
from typing import Any, Literal

from dualprune.pipeline import dag
from dualprune.pipeline.choices.base import Manifest
from dualprune.pipeline.node import Node

BLOCKED = "a stage before it failed"
LEFT_OUT = "not asked for"
STOPPED = "not begun, because another stage failed"


@dataclass(frozen=True)
class Row:
    """How a stage ended, or why it did not begin."""

    node: Node
    state: Literal["done", "cached", "failed", "skipped", "left out", "queued"]
    manifest: Manifest | None = None
    """Of its artefact, if it is done."""
    why: str | None = None


class Board:
    """Stages of a plan by name, and the trials that choices add to them."""

    def __init__(
        self, nodes: Sequence[Node], done: Mapping[str, Manifest], wanted: Collection[str], keep_going: bool = False
    ) -> None:
        self.nodes = {node.name: node for node in nodes}
        self.done = dict(done)
        """Manifests by name."""
        self.active: dict[str, Node] = {}
        """At work in this run, by key."""
        self.elsewhere: dict[str, Node] = {}
        """At work in another run, by key."""
        self.failed: dict[str, str] = {}
        """Reasons by name."""
        self._wanted, self._keep_going = wanted, keep_going
        self._ran: set[str] = set()
        self._same: dict[str, list[Node]] = {}
        """Those that wait for another one of their key."""
        self._choices: dict[str, Node] = {}
        """By the names of their trials."""
        self._order = TopologicalSorter({node.name: node.parents for node in nodes})
        self._order.prepare()

    @property
    def stopping(self) -> bool:
        """Whether nothing new is to begin."""
        return bool(self.failed) and not self._keep_going

    def parents(self, node: Node) -> list[Node]:
        """Of a stage, in their order."""
        return [self.nodes[parent] for parent in node.parents]

    def ready(self) -> Iterator[Node]:
        """Stages that can begin now, each given once."""
        while names := self._order.get_ready():
            for name in names:
                if name in self.done:
                    self._order.done(name)
                elif name in self._wanted and not self.stopping:
                    yield self.nodes[name]

    def waits(self, node: Node) -> bool:
        """Whether a stage of its key is at work already, here or elsewhere: it waits for that one then."""
        if node.key not in self.active and node.key not in self.elsewhere:
            return False
        self._same.setdefault(node.key, []).append(node)
        return True

    def held(self, node: Node) -> bool:
        """A stage is at work in another run; whether that is news."""
        news = node.key not in self.elsewhere
        self.elsewhere.setdefault(node.key, node)
        return news

    def starts(self, node: Node) -> None:
        """A stage is at work here."""
        self.elsewhere.pop(node.key, None)
        self.active[node.key] = node

    def leaves(self, node: Node) -> None:
        """A stage is no longer at work."""
        del self.active[node.key]

    def adds(self, choice: Node, trial: Node, manifest: Manifest | None = None) -> bool:
        """A choice has a trial, done if there is a manifest; whether that is news."""
        if manifest is not None:
            self.done[trial.name] = manifest
        if trial.name in self.nodes:
            return False
        self.nodes[trial.name], self._choices[trial.name] = trial, choice
        return True

    def ends(self, node: Node, manifest: Manifest) -> list[Node]:
        """A stage is done, and so are those that waited for it. Returns the choices of which it was a trial."""
        choices: dict[str, Node] = {}
        for one in (node, *self._same.pop(node.key, [])):
            self._ran.add(one.name)
            self.done[one.name] = manifest
            if one.name in self._choices:
                choice = self._choices[one.name]
                choices[choice.name] = choice
            else:
                self._order.done(one.name)
        return list(choices.values())

    def fails(self, node: Node, reason: str) -> list[tuple[Node, Node]]:
        """A stage has failed for good, and so have those that waited for it. Returns trials among them, each with its
        choice, of which it is the first that failed."""
        choices: dict[str, tuple[Node, Node]] = {}
        for one in (node, *self._same.pop(node.key, [])):
            self.failed[one.name] = reason
            choice = self._choices.get(one.name)
            if choice is not None and choice.name not in self.failed:
                choices.setdefault(choice.name, (one, choice))
        return list(choices.values())

    def rows(self) -> list[Row]:
        """One for each stage, a choice's trials before it."""
        blocked = self._blocked()
        trials: dict[str, list[str]] = {}
        for trial, choice in self._choices.items():
            trials.setdefault(choice.name, []).append(trial)
        stages = [name for name in self.nodes if name not in self._choices]
        names = [one for stage in stages for one in (*trials.get(stage, []), stage)]
        return [self._row(name, name in blocked) for name in names]

    def standing(self) -> list[Row]:
        """The same while it runs: what is to be done is queued. Another thread may ask."""
        blocked = self._blocked()
        rows = [self._row(name, name in blocked) for name in list(self.nodes)]
        return [self._queued(row.node) if row.why == STOPPED and not self.stopping else row for row in rows]

    def _queued(self, node: Node) -> Row:
        waits = [parent for parent in dict.fromkeys(node.parents) if parent not in self.done]
        return Row(node, "queued", why=f"waits for {', '.join(waits)}" if waits else None)

    def _blocked(self) -> set[str]:
        return {node.name for node in dag.blocked(list(self.nodes.values()), set(self.failed))}

    def _row(self, name: str, blocked: bool) -> Row:
        node = self.nodes[name]
        if name in self.done:
            return Row(node, "done" if name in self._ran else "cached", self.done[name])
        if name in self.failed:
            return Row(node, "failed", why=self.failed[name])
        if blocked:
            return Row(node, "skipped", why=BLOCKED)
        return Row(node, "skipped", why=STOPPED) if name in self._wanted else Row(node, "left out", why=LEFT_OUT)

    def account(self) -> dict[str, Any]:
        """What others are to know of it while it runs; another thread may ask."""
        everything = set(self.nodes) - set(self._choices) <= set(self._wanted)
        return {
            "keys": {node.name: key for key, node in list(self.active.items())},
            "asked": None if everything else sorted(self._wanted),
            "failed": sorted(self.failed),
            "stopping": self.stopping,
            "done": sorted({self.nodes[name].key for name in list(self._ran)}),
        }
