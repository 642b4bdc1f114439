"""One stage, ready to run, and what its key is the hash of."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, SerializeAsAny

from dualprune.stages.kinds.table import KINDS, parse
from dualprune.stages.settings.base import Settings
from dualprune.stages.settings.data import AROUND
from dualprune.stages.settings.engine import Engine
from dualprune.stages.settings.training import StageSpec


class Parent(Settings):
    """Where a parent's artefact lies."""

    name: str
    key: str


class StageJob(Settings):
    """One stage, ready to run: all that crosses from the driver to the ranks."""

    name: str
    key: str
    store: str
    """fsspec URL under which artefacts lie by key."""
    spec: Annotated[SerializeAsAny[StageSpec], BeforeValidator(parse)]
    parent: Parent | None = None
    """The stage to start from."""
    teacher: Parent | None = None
    """The stage to learn from, if that is not the parent."""
    shards: str
    """fsspec URL of the data that `spec.data` resolved to."""
    data_digest: str
    engine: Engine = Engine()
    code: dict[str, bytes] = Field(default={})
    """Files of the user's own modules that the stages of its run name, by path (stages.files.source)."""

    @property
    def parents(self) -> list[Parent]:
        """All stages before it, in the order in which keys and manifests have them."""
        return [one for one in (self.parent, self.teacher) if one is not None]


def key_material(spec: StageSpec, data_digest: str, parents: list[str]) -> dict[str, Any]:
    """What a stage's key is the hash of: settings, version of the method, data by content, parents' keys.

    Settings that have their default are left out, so that a new setting does not change old keys; a
    changed default is a change of method, and its version says so.
    """
    settings = spec.model_dump(mode="json", exclude_defaults=True)
    for name in AROUND:
        settings["data"].pop(name, None)
    settings["model"].pop("weights", None)  # their hash is what counts, not where they lie
    if spec.model.skip:
        settings["model"]["skip"] = list(spec.model.skip)
    return {"spec": settings, "method": KINDS[spec.kind].version, "data": data_digest, "parents": parents}
