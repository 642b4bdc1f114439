"""`dualprune export`: a finished network as a file for those who have no dualprune."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from dualprune.pipeline.cli.store import RUNS, named
from dualprune.pipeline.config.problems import ConfigError, argued
from dualprune.pipeline.output import DONE, answer, say
from dualprune.pipeline.store import inventory
from dualprune.pipeline.store.store import Store
from dualprune.stages.artefacts.manifest import MANIFEST, Damaged, check
from dualprune.stages.files import urls
from dualprune.stages.files.folder import Folder
from dualprune.stages.settings.base import SpecError

if TYPE_CHECKING:
    from dualprune.stages.export.source import Source

FORMATS = ("safetensors", "torch", "onnx", "torch-export", "sparse")
"""As `stages.export.formats.FORMATS` has them, which imports torch."""


def add(verbs: Any) -> None:
    """Add the verb to the command line's."""
    text = "write a finished network as a file that others load; it is loaded back and compared before it counts"
    verb = verbs.add_parser("export", help=text, description=text)
    text = "a stage's key, the beginning of it, its name where no other in the store has it, or its folder; or "
    text += "CONFIG STAGE, of that configuration and its store"
    verb.add_argument("artefact", metavar="ARTEFACT", nargs="+", help=text)
    text = (
        "safetensors, torch: its weights, zeros and all; torch-export, onnx: all of the network; sparse: its weights, "
    )
    text += "packed to their bits"
    verb.add_argument("--format", choices=FORMATS, required=True, help=text)
    text = "folder to write to (default: this one)"
    verb.add_argument("--out", metavar="FOLDER", type=argued(urls.local), default=".", help=text)
    text = "of sparse: round numbers that are no shared values to fp16"
    verb.add_argument("--half", action="store_true", help=text)
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
    text = "print one JSON object as the last line of output"
    verb.add_argument_group("output").add_argument("--json", action="store_true", help=text)
    verb.set_defaults(command=_export, works=True)


def _export(options: argparse.Namespace, console: Console) -> int:
    from dualprune.stages.export.errors import NotExported
    from dualprune.stages.export.export import export

    store, key = _found(options)
    try:
        made = export(_source(store, key, options), options.format, Path(options.out), options.half)
    except SpecError as error:
        raise ConfigError(key, [text for _, text in error.problems]) from None
    except (NotExported, Damaged, FileNotFoundError) as error:
        raise ConfigError(" ".join(options.artefact), [str(error)]) from None
    except OSError as error:
        raise ConfigError("--out", [f"{options.out} can't be written: {error}"]) from None
    share = f", {made.dense / made.bytes:.3g} times as many" if made.dense > made.bytes else ""
    say(console, f"{made.file}: {made.bytes:,} bytes; the dense network's tensors take {made.dense:,}{share}")
    say(console, f"  loaded back without dualprune; outputs differ by {made.apart:.2g} of the largest at most")
    for note in made.notes:
        say(console, f"  {note}")
    say(console, f"{made.card}: its model card, with how to load it")
    if options.json:
        facts = {"file": str(made.file), "card": str(made.card), "bytes": made.bytes, "dense_bytes": made.dense}
        answer({"key": key, "format": options.format, **facts, "apart": made.apart, "notes": list(made.notes)})
    return DONE


def _found(options: argparse.Namespace) -> tuple[Store, str]:
    """A finished stage's store and key. Raises ConfigError."""
    words = options.artefact
    try:
        if len(words) == 1 and Folder(words[0]).exists(MANIFEST):
            above, _, key = words[0].rstrip("/").rpartition("/")
            store = Store(above or ("/" if words[0].startswith("/") else "."))
        else:
            store, given = named(words, options.store, "export")
            key = inventory.find(store, given)
        manifest = check(store.folder / key)
    except (inventory.Unknown, Damaged) as error:
        raise ConfigError("export", [str(error)]) from None
    if manifest is None:
        raise ConfigError("export", [f"{' '.join(words)}: its stage is not done; {store.url}/{key} has no {MANIFEST}"])
    return store, key


def _source(store: Store, key: str, options: argparse.Namespace) -> Source:
    from dualprune.stages.export.source import Origin, source

    sample = Path(options.sample) if options.sample else None
    return source(store.folder, key, Origin(options.data, sample, options.noise))


def _shape(given: str) -> tuple[int, ...]:
    try:
        found = tuple(int(part) for part in given.split(","))
    except ValueError:
        found = (0,)
    if min(found) < 1:
        raise argparse.ArgumentTypeError(f"sizes are needed, such as 3,224,224, not {given!r}")
    return found
