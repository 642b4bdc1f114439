"""Weak scaling: an epoch of the same stage on one and on two CPU workers, each with the same batch, against plain DDP.

    python -m tests.bench.weak_scaling [--quick] [--json PATH]

Ours is `stages.training.loop.train`, the loop of every stage, on DeepSpeed: a dense epoch, and one under ADMM with its
update and projection at the end, each without ZeRO and under ZeRO 1. Beside it, in the same processes and in turns,
DistributedDataParallel trains the same network with the same optimizer on the same batches; that both end at the same
weights is checked first. Workers have one thread each and talk over gloo.

Two numbers for each: processor time of a worker, which on a machine that others use too is the one to trust, though it
leaves out what a worker waits for the other; and wall time, which has that in it, and whatever else ran meanwhile.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from dualprune.stages.artefacts.checkpoint import Checkpoints, Progress
from dualprune.stages.data.format import read_manifest
from dualprune.stages.data.order import epoch_order, global_batch, share
from dualprune.stages.data.read.memory import Batches
from dualprune.stages.data.shards import Split, write
from dualprune.stages.engine.engine import Engine
from dualprune.stages.engine.ranks import join
from dualprune.stages.files.folder import Folder
from dualprune.stages.kinds.constrained import targets_of
from dualprune.stages.kinds.job import StageJob
from dualprune.stages.kinds.prune import PruneSpec
from dualprune.stages.kinds.table import KINDS, phases
from dualprune.stages.kinds.train import TrainSpec
from dualprune.stages.networks.build import build_model
from dualprune.stages.networks.builtin import MODELS
from dualprune.stages.networks.parameters import parameters
from dualprune.stages.networks.structure import Structure
from dualprune.stages.objectives.fields import channels_last
from dualprune.stages.objectives.table import objective
from dualprune.stages.settings.data import Data
from dualprune.stages.settings.engine import Engine as EngineSettings
from dualprune.stages.solver import admm
from dualprune.stages.training.loop import train
from dualprune.stages.training.run import Run
from tests.bench.common import Row, options, ratios, report
from tests.ranks import on_ranks

MODEL = "lenet5"
BATCH = 64
"""Of each worker."""
LR = 0.01
CLASSES = 10

Times = dict[str, list[tuple[float, float]]]
"""Processor and wall milliseconds a step, one pair a round, by variant."""


def shards(folder: Path, samples: int) -> None:
    """Pictures of noise: what is in them makes no difference to the time."""
    random = np.random.default_rng(0)
    splits = {
        split: [(random.integers(0, 256, (28, 28), np.uint8), int(n % CLASSES)) for n in range(count)]
        for split, count in (("train", samples), ("val", 2), ("test", 2))
    }
    write(str(folder), "noise", splits)


class Ours:
    """An engine that a stage's loop trains for an epoch at a time."""

    def __init__(self, spec: TrainSpec | PruneSpec, folder: Path, world: int, zero: int | None = None) -> None:
        torch.manual_seed(0)
        model = build_model(spec.model)
        self.spec, self.aims = spec, targets_of(spec, parameters(model))
        self.engine = Engine(model, set(self.aims.names), set(), spec.optimizer, "fp32", EngineSettings(zero=zero))
        admm.start(self.engine, self.aims, {})
        splits, device = read_manifest(str(folder))["splits"], self.engine.engine.device
        self.splits = {
            split: Batches(Split(str(folder), splits[split]), spec.data, spec.seed, device)
            for split in ("train", "val")
        }
        self.job = StageJob(name="x", key="x", store=".", spec=spec, shards=str(folder), data_digest="")
        self.checkpoints = Checkpoints(Folder(str(folder / "none")), dist.get_rank(), world)

    def epoch(self) -> None:
        """All that a stage of one epoch does between its start and its end."""
        rows: list[dict[str, Any]] = []
        kind = KINDS[self.spec.kind]
        run = Run(
            job=self.job,
            spec=self.spec,
            kind=kind,
            objective=objective(self.spec),
            phases=phases(self.spec),
            splits=self.splits,
            structure=Structure(),
            shrunk={},
            macs=None,
            dense_macs=None,
            weights=frozenset(),
            targets=self.aims,
            fixed={},
            masks={},
            inherited=frozenset(),
            masked=False,
            parent=None,
            duals={},
            handed={},
            teacher=None,
            engine=self.engine,
            checkpoints=self.checkpoints,
            progress=Progress(state=kind.state()),
            log=rows.append,
            stopping=lambda: False,
            rank=dist.get_rank(),
            world=dist.get_world_size(),
        )
        if isinstance(self.spec, PruneSpec) and self.spec.admm is not None:
            run.state.rho = self.spec.admm.rho
        ended = train(run)
        assert ended
        assert [row["event"] for row in rows].count("epoch") == 1  # a slow machine tells of steps, too


class Plain:
    """DistributedDataParallel as its users write it, on the same batches."""

    def __init__(self, data: Batches, batch: int) -> None:
        torch.manual_seed(0)
        self.model = DistributedDataParallel(MODELS[MODEL](CLASSES))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=LR, momentum=0.9, foreach=True)
        self.data, self.batch = data, batch

    def epoch(self) -> None:
        """The same samples in the same order."""
        order, rank, world = epoch_order(len(self.data), 0, 0), dist.get_rank(), dist.get_world_size()
        self.model.train()
        for step in range(len(self.data) // self.batch):
            pictures, labels = self.data.train(share(global_batch(order, self.batch, step), rank, world), 0)
            # As our engine does it, and for the same reason: convolutions run faster so.
            loss = F.cross_entropy(self.model(channels_last(pictures)), labels)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()


def specs(batch: int) -> dict[str, TrainSpec | PruneSpec]:
    """The stages that are timed, by variant."""
    common: dict[str, Any] = {
        "model": {"name": MODEL},
        "data": Data(shards="."),
        "batch": batch,
        "optimizer": {"name": "sgd"},
    }
    phase = {"epochs": 1, "lr": LR, "schedule": "constant"}
    pruned = {"set": "cardinality", "tensors": "*", "rate": 10.0}
    return {
        "dense": TrainSpec.model_validate({"kind": "train", "train": phase, **common}),
        "admm": PruneSpec.model_validate(
            {
                "kind": "prune",
                "constraints": [pruned],
                "admm": {"updates": 1, "lr": LR, "rho": 1e-3},
                "retrain": {"epochs": 0, "lr": LR},
                **common,
            }
        ),
    }


def measured(folder: Path, rounds: int) -> Times:
    """What each variant takes on this rank of the group, in turns."""
    join(threads=1)
    world = dist.get_world_size()
    batch = BATCH * world
    ours = {name: Ours(spec, folder, world) for name, spec in specs(batch).items()}
    ours |= {f"{name}, ZeRO 1": Ours(spec, folder, world, 1) for name, spec in specs(batch).items()}
    plain = Plain(ours["dense"].splits["train"], batch)
    variants: dict[str, Callable[[], None]] = {"ddp": plain.epoch} | {name: one.epoch for name, one in ours.items()}
    for call in variants.values():
        call()
    for name in ("dense", "dense, ZeRO 1"):
        check_same(ours[name].engine, plain)
    steps = len(plain.data) // batch
    times: Times = {name: [] for name in variants}
    names = list(variants)
    for number in range(rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            dist.barrier()
            wall, processor = time.perf_counter(), time.process_time()
            variants[name]()
            spent = (time.process_time() - processor, time.perf_counter() - wall)
            times[name].append((1000 * spent[0] / steps, 1000 * spent[1] / steps))
    for one in ours.values():
        one.engine.close()
    return times


def check_same(engine: Engine, plain: Plain) -> None:
    """After an epoch from the same weights, ours and DDP's must be the same but for rounding."""
    torch.manual_seed(0)
    begin = dict(MODELS[MODEL](CLASSES).named_parameters())
    theirs = dict(plain.model.module.named_parameters())
    apart = max(float((engine.get(name) - theirs[name].detach()).abs().max()) for name in begin)
    moved = max(float((theirs[name] - begin[name]).detach().abs().max()) for name in begin)
    if not apart < 0.01 * moved:
        raise RuntimeError(f"ours ends {apart:.2g} from DDP, which moved by {moved:.2g}")


def summary(name: str, found: dict[int, list[Times]]) -> Row:
    """One variant's row: medians over rounds, of the ranks' mean processor time and of the slowest's wall time."""
    row: Row = {"variant": name}
    for number, clock in enumerate(("cpu", "wall")):
        together = statistics.mean if clock == "cpu" else max
        of: dict[int, dict[str, list[float]]] = {
            world: {
                variant: [
                    together(pair[number] for pair in rank) for rank in zip(*(t[variant] for t in ranks), strict=True)
                ]
                for variant in ("ddp", name)
            }
            for world, ranks in found.items()
        }
        one, two = (statistics.median(of[world][name]) for world in (1, 2))
        row |= {f"{clock} 1": one, f"{clock} 2": two, f"{clock} 1/2": one / two}
        for world in (1, 2):
            row[f"{clock}/ddp {world}"] = ratios(of[world][name], of[world]["ddp"])[1]
    return row


def main() -> None:
    """Measure on one and on two workers, and report."""
    asked = options(__doc__.splitlines()[0])
    steps, rounds = (12, 4) if asked.quick else (40, 12)
    found: dict[int, list[Times]] = {}
    for world in (1, 2):
        with tempfile.TemporaryDirectory(prefix="dualprune-weak-") as folder:
            shards(Path(folder), steps * BATCH * world)
            found[world] = on_ranks(world, measured, Path(folder), rounds)
    rows = [summary(name, found) for name in found[1][0]]
    report(f"ms a step of {MODEL} on one and on two CPU workers, {BATCH} samples each: processor and wall", rows, asked)


if __name__ == "__main__":
    main()
