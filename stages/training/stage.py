"""run_stage: one stage on its ranks, from its parents' artefacts to its own."""

from __future__ import annotations

import logging
from typing import Any

from dualprune.stages.artefacts.manifest import Damaged, check
from dualprune.stages.engine.engine import emulates_bf16
from dualprune.stages.engine.ranks import agreed, join
from dualprune.stages.files import source
from dualprune.stages.files.folder import Folder
from dualprune.stages.kinds.base import Stopped
from dualprune.stages.kinds.job import StageJob
from dualprune.stages.training.dry import tried
from dualprune.stages.training.loop import train
from dualprune.stages.training.outcome import committed
from dualprune.stages.training.run import Log, Run, Stopping
from dualprune.stages.training.start import assembled

_log = logging.getLogger(__name__)


def run_stage(job: StageJob, log: Log, stopping: Stopping = lambda: False) -> dict[str, Any] | None:
    """Run `job` on all ranks of this process group together (or on this process alone), and commit it.

    Goes on from the stage's newest checkpoint where there is one. Returns the artefact's manifest;
    `log` is called on rank 0. When `stopping` says so on any rank, all save where they are, within an
    epoch too, and None is returned; the next call goes on from that very step. Raises SpecError,
    DataError, stages.artefacts.manifest.Damaged for a parent that is not what it was,
    stages.networks.pretrained.WeightsError, stages.artefacts.checkpoint.OtherVersion,
    stages.training.step.NonFinite, and stages.files.outage.StoreError and StoreAway.
    """
    source.place(job.code)
    place = rank, _, _ = join(job.engine.threads)
    log = log if rank == 0 else _silent
    store = Folder(job.store).established()
    finished: dict[str, Any] | None = agreed(_finished(store / job.key) if rank == 0 else None)
    if finished is not None:
        return finished
    try:
        run = assembled(job, store, log, stopping, place)
    except Stopped:
        log({"event": "stopped", "steps": 0})
        return None
    try:
        manifest = _carried_out(run, store / job.key)
    except BaseException:
        try:
            _let_go(run)
        except Exception as error:  # noqa: BLE001 - what went wrong first is what is told
            _log.info("%s: after its failure, its engine can't be closed: %s", job.name, error)
        raise
    _let_go(run)
    return manifest


def _carried_out(run: Run[Any], folder: Folder) -> dict[str, Any] | None:
    progress = run.progress
    speeds = {speed["epoch"]: speed for speed in progress.speeds}
    begun: dict[str, Any] = {
        "event": "resumed" if run.resumed else "training",
        "steps": progress.steps,
        "world": run.world,
        "per_epoch": run.per_epoch,
        "rows": [{**row, **speeds.get(row["epoch"], {})} for row in progress.metrics],
        **run.told(),
    }
    if run.spec.precision == "bf16" and emulates_bf16(run.engine.engine.device):
        begun["emulates_bf16"] = True
    run.log(begun)
    if run.spec.objective.name != "classify" and not run.resumed:
        tried(run)
    if not train(run):
        return None
    manifest = committed(run, folder)
    if run.rank == 0:
        _clean(run)
    whole: dict[str, Any] = agreed(manifest)
    return whole


def _let_go(run: Run[Any]) -> None:
    """Let nothing write behind the next attempt's back, and another stage follow in this process."""
    run.checkpoints.abandon()
    run.engine.close()


def _clean(run: Run[Any]) -> None:
    """Remove the checkpoints of a stage that is done."""
    try:
        run.checkpoints.folder.remove("")
    except OSError as error:  # the stage is done all the same
        _log.warning("%s: its checkpoints can't be removed: %s", run.job.name, error)


def _finished(folder: Folder) -> dict[str, Any] | None:
    try:
        return check(folder)
    except Damaged:
        return None


def _silent(event: dict[str, Any]) -> None:
    """The log of ranks other than 0."""
