"""Stores as runs leave them, without the training: plans, events and real artefacts of stages that never ran."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from dualprune.pipeline.store.store import Store
from dualprune.stages.artefacts import artefact
from dualprune.stages.files.folder import sha256
from dualprune.stages.solver import snapping

SHAPES: Mapping[str, tuple[int, ...]] = {"0.weight": (16, 9), "2.weight": (32, 144), "6.weight": (128, 64)}
"""Of the weights of a network."""
BEGAN = 1.7e9
"""Seconds since 1970 at which runs begin."""
LASTS = 60.0
"""Seconds for which a stage is trained."""
ACCURACY = {"accuracy": {"unit": "%", "higher": True}, "loss": {"unit": "", "higher": False}}
SAMPLES = 400
"""Of validation and test."""


@dataclass(frozen=True)
class Made:
    """A stage as it ended."""

    name: str
    parents: tuple[str, ...] = ()
    rate: float = 1.0
    test: float = 99.0
    kind: str = "prune"
    bits: int | None = None
    """Of a stage that puts weights on levels."""
    chosen: str | None = None
    """Of a choice."""
    failed: str | None = None
    retried: str | None = None
    begun: bool = True
    epochs: int = 6
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=lambda: SHAPES)

    @property
    def key(self) -> str:
        """As if of its settings."""
        return sha256(self.name.encode())[:16]


LADDER = (
    Made("dense", kind="train", test=99.25),
    Made("prune-4x", ("dense",), 4, 98.75),
    Made("prune-10x", ("prune-4x",), 10, 99.0),
    Made("prune-25x", ("prune-10x",), 25, 98.5),
)
"""A run of four stages, one after the other."""
CHOICE = (
    *LADDER[:2],
    Made("prune-10x", ("prune-4x",), 10, 99.0, retried="a worker was killed"),
    Made("at-once-10x", ("dense",), 10, 96.25),
    Made("quantize", ("prune-10x",), 10, 98.75, kind="quantize", bits=3),
    Made("harsh", ("prune-10x",), 80, 71.0),
    Made("best", ("quantize", "at-once-10x", "harsh"), kind="select", chosen="quantize"),
)
"""Branches, and a choice among them."""


def ladder(count: int) -> list[Made]:
    """A run of many stages: ten branches from a dense network, each as long as it takes."""
    found = [Made("dense", kind="train", test=99.25)]
    for number in range(count - 1):
        branch, depth = number % 10, number // 10
        parent = "dense" if depth == 0 else f"branch-{branch}-{depth - 1}"
        rate = 2.0 * 1.15 ** (depth + 0.2 * branch)
        found.append(
            Made(f"branch-{branch}-{depth}", (parent,), rate, 99.3 - 0.01 * rate - 0.05 * (branch % 3), epochs=20)
        )
    return found


def make(
    url: str, stages: Sequence[Made], run: str = "made", *, events: bool = True, ended: str | None = "done"
) -> Store:
    """A store with a run of these stages; `ended` None is a driver that was killed after the last."""
    store = Store(url)
    store.folder.establish()
    by_name = {stage.name: stage for stage in stages}
    store.note_plan(run, {stage.name: _planned(stage, by_name) for stage in stages})
    log = _Log(store, run, stages, by_name)
    masks: dict[str, dict[str, torch.Tensor]] = {}
    for number, stage in enumerate(one for one in stages if one.begun):
        if stage.failed is not None:
            log.failed(number, stage)
            store.note_failure(stage.key, stage.failed)
            continue
        masks[stage.name] = masks[stage.chosen] if stage.chosen else _masks(stage, masks)
        found = _committed(store, stage, by_name, masks[stage.name])
        log.done(number, stage, found)
    if events:
        log.write(len(stages), ended)
    return store


def _planned(stage: Made, by_name: Mapping[str, Made]) -> dict[str, Any]:
    parents = [by_name[parent].key for parent in stage.parents]
    return {"key": stage.key, "spec": _spec(stage), "data": "0" * 64, "parents": parents, "method": 1}


def _spec(stage: Made) -> dict[str, Any]:
    """Some of its settings."""
    if stage.chosen is not None:
        return {"kind": stage.kind, "metric": "val_accuracy", "budget": {}}
    admm = {} if stage.kind == "train" else {"admm": {"updates": 3, "rho": 0.01, "tolerance": 0.0}}
    return {"kind": stage.kind, "seed": 0, "batch": 64, "model": {"name": "digits_cnn"}, **admm}


def _masks(stage: Made, before: Mapping[str, Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Of a stage that keeps a share of what its parent kept, as far as that goes."""
    generator = torch.Generator().manual_seed(sum(stage.name.encode()))
    found = {}
    for place, (name, shape) in enumerate(stage.shapes.items()):
        size = math.prod(shape)
        rate = stage.rate if place else 1 + (stage.rate - 1) / 10
        parent = before[stage.parents[0]].get(name) if stage.parents else None
        scores = torch.rand(size, generator=generator)
        if parent is not None and parent.numel() == size:
            scores = scores + parent.flatten()
        mask = torch.zeros(size)
        mask[scores.topk(max(1, int(size / rate))).indices] = 1
        found[name] = mask.view(shape)
    return found


def _committed(
    store: Store, stage: Made, by_name: Mapping[str, Made], masks: Mapping[str, torch.Tensor]
) -> dict[str, Any]:
    """Write an artefact like that of a stage that has trained; its manifest."""
    generator = torch.Generator().manual_seed(1)
    weights = {name: mask * (torch.rand(mask.shape, generator=generator) + 0.5) for name, mask in masks.items()}
    if stage.bits is not None:
        weights = {
            name: torch.round(one * 2**stage.bits / 1.5) / 2**stage.bits * masks[name] for name, one in weights.items()
        }
    kinds = {} if stage.kind == "train" else {name: ["levels" if stage.bits else "cardinality"] for name in weights}
    size, left = sum(one.numel() for one in weights.values()), sum(int(one.count_nonzero()) for one in weights.values())
    source = by_name[stage.chosen] if stage.chosen else stage
    manifest = {
        "name": stage.name,
        "kind": stage.kind,
        "key": stage.key,
        "spec": _spec(source),
        "objective": {"best": "accuracy", "metrics": ACCURACY},
        "data": "0" * 64,
        "parents": [{"name": parent, "key": by_name[parent].key} for parent in stage.parents],
        "tensors": {
            name: {
                "shape": list(one.shape),
                "size": one.numel(),
                "nonzeros": int(one.count_nonzero()),
                "sets": kinds.get(name, []),
            }
            for name, one in weights.items()
        },
        "residuals": dict.fromkeys(kinds, 0.02),
        "rho": 0.01,
        "metrics": {
            "rate": size / left,
            "weights": size,
            "nonzeros": left,
            "macs": 370944.0,
            **snapping.whole(weights, list(weights), kinds),
            "val_accuracy": stage.test - 0.5,
            "test_accuracy": stage.test,
            "residual": 0.02 if kinds else None,
            "steps": 0 if stage.chosen else 16 * stage.epochs,
            "seconds": 0.0 if stage.chosen else LASTS,
        },
        "rows": rows(source),
        "storage": snapping.storage(weights, kinds) if kinds else None,
        "left_out": {},
        "samples": {"train": 1000, "val": SAMPLES, "test": SAMPLES},
        "world": 2,
        "versions": {"python": "3.11.7", "torch": "2.14.1"},
    }
    if stage.chosen is not None:
        manifest |= {"chosen": {"name": stage.chosen, "key": source.key}}
    return artefact.commit(
        store.folder / stage.key, manifest, weights, {} if stage.kind == "train" else dict(masks), {}
    )


def rows(stage: Made) -> list[dict[str, Any]]:
    """Of the epochs of a stage; a prune updates its Z and U in every other one of the first half."""
    found = []
    for epoch in range(1, stage.epochs + 1):
        row: dict[str, Any] = {"epoch": epoch, "phase": "train", "steps": 16 * epoch, "lr": 0.002, "loss": 1 / epoch}
        row["val_accuracy"] = stage.test - 0.5 - 20 / epoch**2
        if stage.kind != "train" and epoch % 2 == 0:
            row |= {"phase": "admm", "rho": 0.01 * epoch, "residual": 0.5 / epoch**1.5, "change": 0.3 / epoch}
            row |= {"left": 1000, "churn": 0.2 / epoch**2, "tensors": {"0.weight": {"primal": 0.1, "dual": 0.1}}}
        found.append(row)
    return found


class _Log:
    """The events of a run whose stages come one after the other."""

    def __init__(self, store: Store, run: str, stages: Sequence[Made], by_name: Mapping[str, Made]) -> None:
        self.store, self.run = store, run
        listed = {
            stage.name: {
                "key": stage.key,
                "kind": stage.kind,
                "parents": list(stage.parents),
                "teacher": None,
                "spec": _spec(stage),
            }
            for stage in stages
        }
        settings = {"name": run, "store": store.url, "cluster": {"workers": {"min": 2, "max": 2}, "gpus": 0}}
        self.events: list[dict[str, Any]] = []
        self.add(0, "begun", run=run, settings=settings, stages=listed, host="a-machine", pid=7, version="0.1.0")

    def add(self, number: float, event: str, stage: Made | None = None, **facts: Any) -> None:
        named = {} if stage is None else {"stage": stage.name, "key": stage.key}
        self.events.append({"at": BEGAN + (LASTS + 5) * number, "event": event, **named, **facts})

    def trained(self, number: int, stage: Made, epochs: int) -> None:
        """A stage, as far as an epoch."""
        self.add(number, "submitted", stage, kind=stage.kind)
        self.add(number + 0.05, "training", stage, steps=0, world=2, per_epoch=16, rows=[])
        told = {"epochs": stage.epochs, "best": "accuracy", "unit": "%"}
        for row in rows(stage)[:epochs]:
            self.add(number + 0.05 + 0.9 * row["epoch"] / stage.epochs, "epoch", stage, **told, **row)

    def done(self, number: int, stage: Made, manifest: Mapping[str, Any]) -> None:
        """A stage to its end."""
        if stage.chosen is not None:
            self.add(number + 0.95, "done", stage, chosen=stage.chosen, metrics=manifest["metrics"])
            return
        self.trained(number, stage, stage.epochs)
        if stage.retried is not None:
            self.events = [event for event in self.events if event["event"] != "epoch" or event["key"] != stage.key]
            self.add(number + 0.4, "retry", stage, reason=stage.retried)
            self.add(number + 0.5, "resumed", stage, steps=16, world=2, rows=rows(stage)[:1])
            for row in rows(stage)[1:]:
                self.add(number + 0.5 + 0.4 * row["epoch"] / stage.epochs, "epoch", stage, **row)
        self.add(number + 0.95, "done", stage, metrics=manifest["metrics"])

    def failed(self, number: int, stage: Made) -> None:
        """A stage that is not tried again."""
        self.trained(number, stage, 2)
        self.add(number + 0.95, "failed", stage, kind=stage.kind, reason=stage.failed)

    def write(self, number: int, ended: str | None) -> None:
        """Leave what was told in the store, as `Events` does."""
        if ended is not None:
            self.add(number, "ended", how=ended)
        lines = "".join(json.dumps(event) + "\n" for event in self.events)
        (self.store.folder / f"events/{self.run}").write("20231114-221320-aaaa-000000.jsonl", lines.encode())
