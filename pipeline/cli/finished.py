"""Arguments of verbs that take finished stages: which ones, and what their networks are called with."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dualprune.pipeline.cli.store import RUNS, named
from dualprune.pipeline.config.problems import ConfigError, argued
from dualprune.pipeline.store import inventory
from dualprune.pipeline.store.store import Store
from dualprune.stages.artefacts.manifest import MANIFEST, Damaged, check
from dualprune.stages.files import urls
from dualprune.stages.files.folder import Folder
from dualprune.stages.files.source import importable

if TYPE_CHECKING:
    from dualprune.stages.export.source import Origin

NAMES = "a stage's key, the beginning of it, its name where no other in the store has it, or its folder; or "
NAMES += "CONFIG STAGE, of that configuration and its store"
"""What names a finished stage."""


class Finished(NamedTuple):
    """A stage that is done."""

    store: Store
    key: str
    manifest: dict[str, Any]

    @property
    def name(self) -> str:
        """Its stage's."""
        return str(self.manifest.get("name", self.key))


def finished(words: Sequence[str], url: str | None, verb: str) -> Finished:
    """The stage that one or two words of a command line name, and `url` a store if it says one. Raises ConfigError.

    A user's own modules lie beside the configuration; where none is named, where the command is given.
    """
    if len(words) == 1:
        importable(Path.cwd())
    try:
        if len(words) == 1 and Folder(words[0]).exists(MANIFEST):
            above, _, key = words[0].rstrip("/").rpartition("/")
            store = Store(above or ("/" if words[0].startswith("/") else "."))
        else:
            store, given = named(words, url, verb)
            key = inventory.find(store, given)
        manifest = check(store.folder / key)
    except (inventory.Unknown, Damaged) as error:
        raise ConfigError(verb, [str(error)]) from None
    if manifest is None:
        raise ConfigError(verb, [f"{' '.join(words)}: its stage is not done; {store.url}/{key} has no {MANIFEST}"])
    return Finished(store, key, manifest)


def each(words: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """What names one stage each: a word, or a configuration's file and the word after it."""
    rest = iter(words)
    for word in rest:
        yield (word, *islice(rest, 1)) if word.endswith((".yaml", ".yml")) else (word,)


def dense_of(of: Finished, is_dense: Callable[[Mapping[str, Any]], bool]) -> Finished | None:
    """The nearest stage before it with the same network, of which nothing was pruned, if that is in the store.

    A teacher's network may be another one.
    """
    for one in inventory.lineage(of.store, of.manifest):
        if one.manifest is not None and _network(one.manifest) == _network(of.manifest) and is_dense(one.manifest):
            return Finished(of.store, one.key, dict(one.manifest))
    return None


def _network(manifest: Mapping[str, Any]) -> list[Any]:
    """What names an artefact's network, without the weights that it began with."""
    model = manifest["spec"]["model"]
    return [model.get(what) for what in ("name", "classes", "args")]


def title(of: Finished, taken: set[str], before: str = "") -> str:
    """A stage's name, which is then one of `taken`; with the beginning of its key, where another one has it."""
    name = f"{before}{of.name}"
    name = f"{name} ({of.key[:8]})" if name in taken else name
    taken.add(name)
    return name


def called_with(verb: argparse.ArgumentParser) -> None:
    """Add the arguments that say what networks are called with, and where the store is."""
    inputs = verb.add_argument_group("what it is called with (default: samples of the data that it was trained on)")
    one = inputs.add_mutually_exclusive_group()
    text = "shards whose first samples are taken"
    one.add_argument("--data", metavar="SHARDS", type=argued(urls.checked), help=text)
    text = "an array of samples (.npy), or several by the names of the data's fields (.npz)"
    one.add_argument("--sample", metavar="FILE", type=argued(urls.local), help=text)
    text = "noise of this shape, without the axis of samples, such as 3,224,224"
    one.add_argument("--noise", metavar="N,...", type=_shape, help=text)
    where = verb.add_argument_group("where things are")
    text = f"folder or fsspec URL of the store (default: {RUNS})"
    where.add_argument("--store", metavar="URL", type=argued(urls.checked), help=text)


def origin(options: argparse.Namespace) -> Origin:
    """Where samples come from, by these arguments."""
    from dualprune.stages.export.source import Origin

    return Origin(options.data, Path(options.sample) if options.sample else None, options.noise)


def _shape(given: str) -> tuple[int, ...]:
    try:
        found = tuple(int(part) for part in given.split(","))
    except ValueError:
        found = (0,)
    if min(found) < 1:
        raise argparse.ArgumentTypeError(f"sizes are needed, such as 3,224,224, not {given!r}")
    return found
