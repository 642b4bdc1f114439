"""`dualprune export`: a finished network as a file for those who have no dualprune."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rich.console import Console

from dualprune.pipeline.cli.finished import NAMES, called_with, finished, origin
from dualprune.pipeline.config.problems import ConfigError, argued
from dualprune.pipeline.output import DONE, answer, say
from dualprune.stages.artefacts.manifest import Damaged
from dualprune.stages.files import urls
from dualprune.stages.settings.base import SpecError

FORMATS = ("safetensors", "torch", "onnx", "torch-export", "torch-csr", "sparse")
"""As `stages.export.formats.FORMATS` has them, which imports torch."""


def add(verbs: Any) -> None:
    """Add the verb to the command line's."""
    text = "write a finished network as a file that others load; it is loaded back and compared before it counts"
    verb = verbs.add_parser("export", help=text, description=text)
    verb.add_argument("artefact", metavar="ARTEFACT", nargs="+", help=NAMES)
    text = "safetensors, torch: its weights, zeros and all; torch-export, onnx: all of the network; "
    text += "torch-csr: linear layers as sparse rows where that is faster here; sparse: weights packed to their bits"
    verb.add_argument("--format", choices=FORMATS, required=True, help=text)
    text = "folder to write to (default: this one)"
    verb.add_argument("--out", metavar="FOLDER", type=argued(urls.local), default=".", help=text)
    text = "of sparse: round numbers that are no shared values to fp16"
    verb.add_argument("--half", action="store_true", help=text)
    called_with(verb)
    text = "print one JSON object as the last line of output"
    verb.add_argument_group("output").add_argument("--json", action="store_true", help=text)
    verb.set_defaults(command=_export, works=True)


def _export(options: argparse.Namespace, console: Console) -> int:
    from dualprune.stages.export.errors import NotExported
    from dualprune.stages.export.export import export
    from dualprune.stages.export.source import source

    store, key, _ = finished(options.artefact, options.store, "export")
    try:
        made = export(source(store.folder, key, origin(options)), options.format, Path(options.out), options.half)
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
