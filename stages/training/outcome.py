"""What a trained stage leaves: its network measured, its masks and duals, and the manifest that says so."""

from __future__ import annotations

import math
import platform
from collections.abc import Iterable, Mapping
from importlib import metadata
from typing import Any

import torch
from torch import Tensor

from dualprune.stages.artefacts import artefact
from dualprune.stages.constraints import SETS
from dualprune.stages.files.folder import Folder
from dualprune.stages.solver import snapping
from dualprune.stages.training.evaluate import Score, evaluate
from dualprune.stages.training.loop import first_of, share_bad
from dualprune.stages.training.run import Run
from dualprune.stages.training.step import NonFinite

MEASURED = ("val", "test")
NO_FACTS: Mapping[str, Any] = {"rho": 0.0, "residuals": {}, "budget": {}, "values": {}}
"""What manifests say of kinds that solve nothing."""


def committed(run: Run[Any], folder: Folder) -> dict[str, Any]:
    """Measure what was trained and write it as an artefact; its manifest, on rank 0. On all ranks together.

    Raises DataError, stages.training.step.NonFinite for a network that ended as no numbers, and the folder's errors.
    """
    scores = _scores(run)
    network = _kept(run.engine.tensors(), run.rank)
    duals = _kept(((name, run.engine.get(name, "dual")) for name in run.targets.names), run.rank)
    masks = _kept(((name, run.engine.get(name, "mask")) for name in sorted(run.engine.masked)), run.rank)
    if run.rank != 0:
        return {}
    manifest = _manifest(run, network, scores)
    return artefact.commit(folder, manifest, network, _masks(run, masks, network), {**run.duals, **duals})


def _scores(run: Run[Any]) -> dict[str, Score]:
    size = run.job.engine.evaluated(run.spec.batch, run.world)
    run.engine.module.eval()
    scores = {
        split: evaluate(run.engine.forward, run.objective, run.splits[split], run.rank, run.world, size)
        for split in MEASURED
    }
    for split, score in scores.items():
        share_bad(run.splits[split])
        bad = {name: value for name, value in score.values.items() if not math.isfinite(value)}
        for name, value in bad.items():
            raise NonFinite(f"the trained network's {name} on {split} is {value}: it diverged, or began so")
    # Rows of epochs have told of the others, if there were any epochs.
    test, validation = run.splits["test"], run.splits["val"]
    unnamed = [*test.bad.values(), *(() if run.progress.metrics else validation.bad.values())]
    if unnamed:
        run.log({"event": "left_out", "left_out": first_of(sorted(unnamed))})
    return scores


def _kept(tensors: Iterable[tuple[str, Tensor]], rank: int) -> dict[str, Tensor]:
    """Tensors in the host's memory, on rank 0, which writes them; all ranks gather them together."""
    return {name: tensor.cpu() for name, tensor in tensors if rank == 0}


def _masks(run: Run[Any], trained: Mapping[str, Tensor], network: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Masks of what may be non-zero, for the stages after this one.

    A prune's are those that it has `trained` under. Quantising freezes weights on their values, not at zero: what was
    pruned before it is what is zero after it. Of a low-rank tensor every entry may be non-zero.
    """
    masks = {}
    for name, mask in trained.items():
        sets = run.targets.kinds.get(name) or run.fixed.get(name, ())
        last = SETS[sets[-1]] if sets else None
        if last is None or not last.fixes:
            masks[name] = mask
        elif last.place is not None and (name in run.inherited or len(sets) > 1):
            masks[name] = (network[name] != 0).float()
    return masks


def _counted(run: Run[Any], network: Mapping[str, Tensor]) -> dict[str, dict[str, Any]]:
    """The constrained tensors, or where there are none all weights: how large they are, and what is left of them."""
    return {
        name: {
            "shape": list(network[name].shape),
            "size": network[name].numel(),
            "nonzeros": int(torch.count_nonzero(network[name])),
            "sets": list(run.targets.kinds.get(name, ())),
        }
        for name in sorted(run.targets.names or run.weights)
    }


def _manifest(run: Run[Any], network: Mapping[str, Tensor], scores: Mapping[str, Score]) -> dict[str, Any]:
    job, progress = run.job, run.progress
    tensors = _counted(run, network)
    size, nonzeros = (sum(t[what] for t in tensors.values()) for what in ("size", "nonzeros"))
    kinds = {**run.fixed, **run.targets.kinds}
    facts = run.kind.facts(run)
    structure = {"structure": run.structure.model_dump(mode="json")} if run.structure.edits else {}
    left_out = {split: sorted(data.bad.values()) for split, data in run.splits.items() if data.bad}
    return {
        "name": job.name,
        "kind": run.spec.kind,
        "key": job.key,
        "spec": run.spec.model_dump(mode="json"),
        "objective": run.objective.measures.said(),
        "data": job.data_digest,
        "parents": [parent.model_dump() for parent in job.parents],
        "tensors": tensors,
        **structure,
        **({"shrunk": dict(run.shrunk)} if run.shrunk else {}),
        **NO_FACTS,
        **run.handed,
        **facts,
        "metrics": {
            "rate": size / nonzeros if nonzeros else None,
            "weights": size,
            "nonzeros": nonzeros,
            "macs": run.macs,
            **({} if run.dense_macs is None else {"dense_macs": run.dense_macs}),
            **snapping.whole(network, run.weights, kinds),
            **{f"{split}_{name}": value for split, score in scores.items() for name, value in score.values.items()},
            "residual": (getattr(run.state, "residual", None) or {}).get("total"),
            "steps": progress.steps,
            "seconds": round(progress.seconds, 3),
        },
        "rows": progress.metrics,
        "fixed": {name: list(sets) for name, sets in kinds.items() if SETS[sets[-1]].fixes},
        "storage": snapping.storage(network, kinds) if kinds else None,
        "left_out": left_out,
        "samples": {split: len(data) for split, data in run.splits.items()},
        "world": run.world,
        "engine": job.engine.model_dump(),
        "versions": {
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in ("torch", "deepspeed", "webdataset")},
        },
    }
