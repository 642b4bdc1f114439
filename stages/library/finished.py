"""A finished stage's network, for a user's own code."""

from __future__ import annotations

from torch import nn

from dualprune.stages.artefacts import artefact
from dualprune.stages.artefacts.manifest import MANIFEST, Damaged, read
from dualprune.stages.files.folder import Folder


def load(place: str, stage: str | None = None) -> nn.Module:
    """The network of an artefact's folder, by path or URL; or of the stage of a store that has this name.

    It is on the CPU and in evaluation mode. A network of a user's own is built by its module, which has to be where
    Python looks for modules. Raises FileNotFoundError where there is none, ValueError for a name that several artefacts
    have, SpecError (one too) for code that is not what the artefact was made with,
    stages.artefacts.manifest.Damaged, and stages.files.outage.StoreError and StoreAway.
    """
    folder = Folder(str(place))
    if stage is not None:
        folder = folder / _key(folder, stage)
    return artefact.network(artefact.load(folder))


def _key(store: Folder, stage: str) -> str:
    """Of the one finished stage of a store that is called so."""
    names: dict[str, list[str]] = {}
    for key in store.names():
        if store.exists(f"{key}/{MANIFEST}"):
            try:
                manifest = read(store / key)
            except Damaged:
                continue
            if manifest is not None:
                names.setdefault(manifest["name"], []).append(key)
    found = sorted(names.get(stage, []))
    if not found:
        known = ", ".join(sorted(names)) or "none"
        raise FileNotFoundError(f"{store.url} holds no finished stage {stage!r}; there are {known}")
    if len(found) > 1:
        raise ValueError(f"{store.url} holds several stages {stage!r}; load one by its folder: {', '.join(found)}")
    return found[0]
