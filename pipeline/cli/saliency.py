"""`dualprune saliency`: what finished networks look at, dense beside pruned."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from dualprune.pipeline.cli.finished import NAMES, Finished, dense_of, each, finished, title
from dualprune.pipeline.cli.store import RUNS
from dualprune.pipeline.config.problems import ConfigError, argued
from dualprune.pipeline.output import DONE, answer, redraws, say, show
from dualprune.pipeline.reports.saliency import record, table
from dualprune.pipeline.reports.saliency.wording import Wording
from dualprune.stages.artefacts.manifest import Damaged
from dualprune.stages.files import urls
from dualprune.stages.files.outage import StoreError
from dualprune.stages.settings.base import SpecError

if TYPE_CHECKING:
    from dualprune.stages.saliency.look import Look
    from dualprune.stages.saliency.subject import Subject


def add(verbs: Any) -> None:
    """Add the verb to the command line's."""
    text = "show what finished networks look at, beside the dense ones they came from: saliency maps, the input that a "
    text += "class looks like to them, and the samples whose answers changed"
    verb = verbs.add_parser("saliency", help=text, description=text)
    verb.add_argument("artefacts", metavar="ARTEFACT", nargs="+", help=NAMES)
    what = verb.add_argument_group("what is looked at")
    text = "of the data that they were trained on (default: val)"
    what.add_argument("--split", choices=("train", "val", "test"), default="val", help=text)
    text = "that networks are compared on, evenly over the split (default: 200)"
    what.add_argument("--samples", metavar="N", type=_number, default=200, help=text)
    text = "samples that maps are drawn of, half of them changed ones (default: 8)"
    what.add_argument("--show", metavar="N", type=_count, default=8, help=text)
    text = "classes that an input is made for (default: 4); 0: none"
    what.add_argument("--classes", metavar="N", type=_count, default=4, help=text)
    text = "of gradient ascent, for each of them (default: 300)"
    what.add_argument("--steps", metavar="N", type=_number, default=300, help=text)
    words = verb.add_argument_group("what inputs are called")
    text = "letters of sequences in the order of their numbers (default: ACGT, where there are four)"
    words.add_argument("--letters", metavar="ABC", help=text)
    text = "a file with a token a line, in the order of their numbers, such as a BERT's vocab.txt"
    words.add_argument("--vocabulary", metavar="FILE", type=argued(urls.local), help=text)
    where = verb.add_argument_group("where things are")
    text = "shards whose samples are taken (default: those that they were trained on)"
    where.add_argument("--data", metavar="SHARDS", type=argued(urls.checked), help=text)
    text = f"folder or fsspec URL of the store (default: {RUNS})"
    where.add_argument("--store", metavar="URL", type=argued(urls.checked), help=text)
    text = "folder for pictures (SVG) and all numbers (saliency.json)"
    where.add_argument("--out", metavar="FOLDER", type=argued(urls.local), help=text)
    text = "print one JSON object as the last line of output"
    verb.add_argument_group("output").add_argument("--json", action="store_true", help=text)
    verb.set_defaults(command=_saliency, works=True)


def _saliency(options: argparse.Namespace, console: Console) -> int:
    from dualprune.stages.saliency.errors import NotShown
    from dualprune.stages.saliency.look import Asked, look

    stages = [finished(words, options.store, "saliency") for words in dict.fromkeys(each(options.artefacts))]
    wording = _wording(options)
    notes: list[str] = []
    found = []
    for group in _groups(stages, notes):
        asked = Asked(options.samples, options.show, options.classes, options.steps)
        try:
            subjects = [_subject(one, name, options) for name, one in group.items()]
            seen = look(subjects, asked, _noted(console))
        except NotShown as error:
            raise ConfigError("saliency", [str(error)]) from None
        except SpecError as error:
            raise ConfigError("saliency", [text for _, text in error.problems]) from None
        found.append((group, seen))
    for number, (group, seen) in enumerate(found):
        if number:
            say(console, "")
        _told(console, group, seen, wording, options, notes, str(number + 1) if len(found) > 1 else "")
    for text in notes:
        say(console, text)
    if options.json:
        answer({"looks": [record.summary(seen, options.split) for _, seen in found]})
    return DONE


def _groups(stages: Sequence[Finished], notes: list[str]) -> list[dict[str, Finished]]:
    """Stages by name: each dense one first, and after it what came of it."""
    from dualprune.stages.export.subjects import is_dense

    taken: set[str] = set()
    groups: dict[str, dict[str, Finished]] = {}
    for one in stages:
        base = one if is_dense(one.manifest) else dense_of(one, is_dense)
        above = one if base is None else base
        place = f"{above.store.url}/{above.key}"
        if base is None:
            notes.append(f"{one.name}: its dense network is not in the store; there is nothing to compare it with")
        if place not in groups:
            groups[place] = {title(above, taken): above}
        if base is not None and base is not one:
            groups[place][title(one, taken)] = one
    return list(groups.values())


def _subject(one: Finished, name: str, options: argparse.Namespace) -> Subject:
    """A network ready to be looked into. Raises ConfigError."""
    from dualprune.stages.saliency.errors import NotShown
    from dualprune.stages.saliency.subject import subject

    try:
        return subject(one.store.folder, one.key, name, options.split, options.data)
    except SpecError as error:
        raise ConfigError(name, [text for _, text in error.problems]) from None
    except (Damaged, FileNotFoundError, NotShown) as error:
        raise ConfigError(name, [str(error)]) from None


def _told(
    console: Console,
    group: dict[str, Finished],
    seen: Look,
    wording: Wording,
    options: argparse.Namespace,
    notes: list[str],
    number: str,
) -> None:
    """Print the table, write pictures and numbers, and leave a record of each network in its store."""
    show(console, table.table(seen))
    for text in table.told(seen):
        say(console, text)
    if options.out is not None:
        folder = Path(options.out) / number
        try:
            count = record.written(seen, wording, options.split, folder)
        except OSError as error:
            raise ConfigError("--out", [f"{folder} can't be written: {error}"]) from None
        say(console, f"{folder}: {count} pictures, and all numbers in {record.FILE}")
    names = list(group)
    for name in names[1:] or names:
        store, key, _ = group[name]
        try:
            store.folder.write_json(f"saliency/{key}.json", record.kept(seen, wording, options.split, name))
        except (OSError, StoreError) as error:
            notes.append(f"{name}: no record for reports is left in {store.url}: {error}")


def _wording(options: argparse.Namespace) -> Wording:
    """What letters and tokens are called. Raises ConfigError."""
    try:
        words = Path(options.vocabulary).read_text().splitlines() if options.vocabulary else []
    except (OSError, ValueError) as error:
        raise ConfigError("--vocabulary", [f"{options.vocabulary} can't be read: {error}"]) from None
    return Wording(options.letters, tuple(words))


def _noted(console: Console) -> Callable[[str], None]:
    """What is told of what lasts, where somebody watches."""
    return (lambda text: say(console, text, "dim")) if redraws(console) else (lambda text: None)


def _number(given: str) -> int:
    if (found := _count(given)) < 1:
        raise argparse.ArgumentTypeError(f"a whole number from 1 on is needed, not {given!r}")
    return found


def _count(given: str) -> int:
    if not given.isdecimal():
        raise argparse.ArgumentTypeError(f"a whole number is needed, not {given!r}")
    return int(given)
