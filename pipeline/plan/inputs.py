"""What stages read from outside: data and trained weights, brought into the store if they are not there yet."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from dualprune.pipeline import dag
from dualprune.pipeline.choices.table import with_training
from dualprune.pipeline.config.load import Config, Draft
from dualprune.pipeline.config.problems import Problems
from dualprune.pipeline.config.schema import Top
from dualprune.pipeline.config.stage import Stage
from dualprune.pipeline.store.store import Store
from dualprune.stages.data.format import DataError, check_settings, digest, read_manifest
from dualprune.stages.files import source
from dualprune.stages.networks import code
from dualprune.stages.settings.base import SpecError
from dualprune.stages.settings.data import Data
from dualprune.stages.settings.objective import Named
from dualprune.stages.settings.training import Model, StageSpec

if TYPE_CHECKING:
    from dualprune.stages.networks.pretrained import Note

Origin = tuple[str | None, ...]
"""Where data comes from, as settings say."""


@dataclass(frozen=True)
class Shards:
    """A data set's shards."""

    url: str
    manifest: dict[str, Any]

    @property
    def digest(self) -> str:
        """Of all that they hold."""
        return digest(self.manifest)

    @property
    def samples(self) -> int:
        """Of the training split."""
        found: int = self.manifest["splits"]["train"]["samples"]
        return found


def store(top: Top, problems: Problems) -> Store | None:
    """The store, once it was written to; None, and a problem noted, where it can't be."""
    try:
        found = Store(top.store)
        found.probe()
    except Exception as error:  # noqa: BLE001 - each filesystem has errors of its own; all mean the same here
        problems.add(("store",), f"{top.store} can't be written: {error}")
        return None
    return found


def around(draft: Draft) -> None:
    """Note what is wrong with the store and with shards, of a file that has errors of its own already."""
    if draft.top is not None:
        store(draft.top, draft.problems)
    for path, one in draft.data.items():
        if one.shards is not None:
            try:
                read_manifest(one.shards)
            except DataError as error:
                draft.problems.add(path, str(error))


def data(config: Config, there: Store | None, problems: Problems) -> dict[Origin, Shards]:
    """The shards of all stages, by origin; those of built-in data sets are written if they are not in the store yet.

    What is wrong with them, and with stages that can't be trained on them, is noted.
    """
    found: dict[Origin, Shards] = {}
    missing: set[Origin] = set()
    for stage in config.stages:
        spec = dag.trained(stage.spec)
        if spec is None or spec.data.origin in missing or (spec.data.shards is None and there is None):
            continue
        origin = spec.data.origin
        try:
            if origin not in found:
                found[origin] = _resolved(spec.data, there)
            check_settings(found[origin].url, found[origin].manifest, spec.data)
        except SpecError as error:
            for path, text in error.problems:
                problems.add(stage.place(*path), text)
            continue
        except DataError as error:
            problems.add(stage.place("data"), str(error))
            if origin not in found:
                missing.add(origin)  # told once, and not fetched again for each stage
            continue
        _batch(stage, spec, found[origin].samples, config.top, problems)
    return found


def _batch(stage: Stage, spec: StageSpec, samples: int, top: Top, problems: Problems) -> None:
    """Whether a batch can be filled, and divided among workers."""
    used = spec.data.used(samples)
    if spec.batch > used:
        problems.add(stage.place("batch"), f"a batch of {spec.batch} is larger than the {used} training samples")
    parts = top.cluster.workers.max * top.engine.accumulate
    if spec.batch < parts:
        text = f"a batch of {spec.batch} is too small for {parts} parts: cluster.workers times engine.accumulate"
        problems.add(stage.place("batch"), text)


def _resolved(data: Data, there: Store | None) -> Shards:
    """The shards of an origin; a built-in data set is written first if it is not there. Raises DataError."""
    if data.shards is not None:
        return Shards(data.shards, read_manifest(data.shards))
    assert there is not None
    from dualprune.stages.data.make.sources import resolved

    name, write = resolved(data)
    url = f"{there.url}/data/{name}"
    if not there.folder.exists(f"data/{name}/manifest.json"):
        write(url)
    return Shards(url, read_manifest(url))


def by_content(config: Config, there: Store, problems: Problems) -> tuple[list[Stage], dict[str, list[str]]]:
    """The stages with the hashes of the code and the weights that they name, and what is to be told of these by stage.

    The weights are in the store after this.
    """
    models: dict[Model, tuple[Model, list[Note]]] = {}
    notes: dict[str, list[str]] = {}
    stages = []
    for stage in config.stages:
        spec = dag.trained(stage.spec)
        if spec is not None:
            try:
                if spec.model not in models:
                    models[spec.model] = _model(spec.model, there)
                changes = {"model": models[spec.model][0], "objective": _objective(spec.objective)}
            except SpecError as error:
                for path, text in error.problems:
                    problems.add(stage.place(*path), text)
                continue
            told = models[spec.model][1]
            notes[stage.name] = [note.text for note in told if note.kind in (None, spec.kind)]
            stage = replace(stage, spec=with_training(stage.spec, spec.model_copy(update=changes)))
        stages.append(stage)
    return stages, notes


def _objective(objective: Named) -> Named:
    if objective.own is None:
        return objective
    try:
        return objective.model_copy(update={"source": source.source_digest(objective.own)})
    except source.SourceError as error:
        raise SpecError([(("objective",), str(error))]) from error


def _model(model: Model, there: Store) -> tuple[Model, list[Note]]:
    """A network's settings with the hashes of all that they name, and notes on its weights. Raises SpecError."""
    model = code.written_out(model)
    model = model.model_copy(update={"source": code.source_of(model)})
    if model.weights is None:
        return model, []
    from dualprune.stages.networks.pretrained import WeightsError, bring

    told: list[Note] = []
    try:
        return bring(model, there.folder, told.append), told
    except WeightsError as error:
        raise SpecError([(("model", "weights"), str(error))]) from None
