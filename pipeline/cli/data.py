"""`dualprune shards`, `index` and `verify`: data made ready for training, once, before any run."""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import fields
from multiprocessing.resource_tracker import ensure_running
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dualprune.cluster.spared import spared
from dualprune.pipeline.config.problems import ConfigError, argued
from dualprune.pipeline.output import DONE, FAILED, answer, complain, redraws, say
from dualprune.stages.data.format import MANIFEST, SPLITS, DataError
from dualprune.stages.data.make.layout import TABLES as ENDINGS
from dualprune.stages.data.make.layout import is_table, places, whole
from dualprune.stages.files import urls
from dualprune.stages.files.folder import Folder

if TYPE_CHECKING:
    from dualprune.stages.data.make.convert import Options

SHARDS = "write shards: of a tree of pictures (ImageNet's), of other shards, of tables, or of mnist, cifar10 and digits"
INDEX = "index shards of pictures that are there already, so that they can be read; copies nothing"
VERIFY = "read every shard of a folder, and say which are not what was written or indexed"
SHOWN = 5
"""Samples that were left out, and kinds of files that were passed over, that are told each."""
PICTURES = ("resize", "quality", "max_pixels", "no_check", "label_field", "processes", "size", "held", "seed")
"""Options that mean nothing to a table."""
TABLES = ("label", "target", "columns", "tokenizer", "length", "standardise")
"""Options that mean nothing to anything else."""
ENCODED = ("split", "bad", "cut", *PICTURES, *TABLES)
"""Options that mean nothing to a data set of pictures of one shape."""


def add(verbs: Any) -> None:
    """Add `shards`, `index` and `verify` to the command line's."""
    shards, index = (
        verbs.add_parser(name, help=text, description=text) for name, text in (("shards", SHARDS), ("index", INDEX))
    )
    text = "a folder or its URL with train, val and test in it, or all in one (--cut); or mnist, cifar10, digits"
    shards.add_argument("source", metavar="SOURCE", type=_place, help=text)
    index.add_argument("source", metavar="SOURCE", type=_place, help="a folder of shards, or its URL")
    for verb, command in ((shards, _shards), (index, _index)):
        verb.add_argument("dest", metavar="DEST", type=_place, help="the folder to write to, or its fsspec URL")
        text = "where a split lies in SOURCE: a folder of class folders, or a pattern of shards; may be repeated"
        verb.add_argument("--split", metavar="NAME=PLACE", action="append", default=[], type=_split, help=text)
        text = "samples of train that become val; what is called val there is test then (default: none)"
        verb.add_argument("--held", metavar="N", type=_whole, default=None, help=text)
        text = "share of a split's samples that may be left out because they can't be read (default: 0.001)"
        verb.add_argument("--bad", metavar="SHARE", type=_share, default=None, help=text)
        text = (
            "of shards: where in a sample's .json its label is, such as label or annotation.id (default: it is in .cls)"
        )
        verb.add_argument("--label-field", metavar="FIELD", help=text)
        verb.add_argument("--json", action="store_true", help="print one JSON object as the last line of output")
        verb.set_defaults(command=command, resumes=command is _shards, works=True)
    _add_cut_and_tables(shards)
    text = "shrink pictures whose short side is longer to P pixels (default: leave them as they are)"
    shards.add_argument("--resize", metavar="P", type=_whole, help=text)
    text = "encode all pictures as JPEG of this quality, 1 to 100 (default: 90 for those that are resized)"
    shards.add_argument("--quality", metavar="Q", type=_quality, help=text)
    shards.add_argument("--size", metavar="MB", type=_whole, help="megabytes of a shard, about (default: 128)")
    text = "of the order of the samples, and of what is held out (default: 0)"
    shards.add_argument("--seed", metavar="N", type=_natural, help=text)
    text = "leave out pictures of more pixels, as bad ones (default: 67108864)"
    shards.add_argument("--max-pixels", metavar="N", type=_whole, help=text)
    text = "don't decode pictures that need no change, which finds those that are cut or damaged; faster"
    shards.add_argument("--no-check", action="store_true", default=None, help=text)
    shards.add_argument("--processes", metavar="N", type=_whole, help="at work at a time (default: one a core)")
    text = "for mnist and cifar10: where their files are (default: download them)"
    shards.add_argument("--folder", metavar="PATH", type=argued(urls.local), help=text)
    text = "what of a sample to read, if not a picture and a label: how its files end, as in jpg,points.npy"
    index.add_argument("--fields", metavar="END,...", type=_listed, help=text)
    verify = verbs.add_parser("verify", help=VERIFY, description=VERIFY)
    text = "the folder that `shards` or `index` wrote, or its URL"
    verify.add_argument("shards", metavar="SHARDS", type=_place, help=text)
    verify.add_argument("--json", action="store_true", help="print one JSON object as the last line of output")
    verify.set_defaults(command=_verify)


def _add_cut_and_tables(shards: argparse.ArgumentParser) -> None:
    text = "make val and test of shares of train, as in 0.1,0.1, where SOURCE is one tree or table with no splits"
    shards.add_argument("--cut", metavar="VAL,TEST", type=_cut, help=text)
    text = "of a table (.csv, .tsv, .jsonl): the column of the classes, numbers or names, by its name or number"
    shards.add_argument("--label", metavar="COLUMN", help=text)
    shards.add_argument("--target", metavar="COLUMN", help="of a table: the column of numbers that are to be predicted")
    text = "of a table: the other columns to take; numbers become one array, text stays text (default: all)"
    shards.add_argument("--columns", metavar="COLUMN,...", type=_listed, help=text)
    text = "of a table: take each column's mean in train from numbers, and divide them by its deviation there"
    shards.add_argument("--standardise", action="store_const", const=True, help=text)
    text = "of a table: make text tokens, by a tokenizer.json or a BERT's vocab.txt (needs dualprune[text])"
    shards.add_argument("--tokenizer", metavar="FILE", type=_place, help=text)
    text = "of a table: tokens of a text at most (default: 128)"
    shards.add_argument("--length", metavar="N", type=_whole, help=text)


def _listed(given: str) -> tuple[str, ...]:
    return tuple(given.split(","))


def _cut(given: str) -> tuple[float, float]:
    try:
        val, test = (float(share) for share in given.split(","))
    except ValueError:
        val = test = 0.0
    if min(val, test) <= 0 or val + test >= 1:
        raise argparse.ArgumentTypeError(f"two shares of train are needed, as in 0.1,0.1, not {given!r}")
    return val, test


def _number(low: float, high: float, convert: Callable[[str], float], wanted: str) -> Callable[[str], Any]:
    def check(given: str) -> float:
        try:
            value = convert(given)
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{wanted} is needed, not {given!r}")
        return value

    return check


_whole = _number(1, float("inf"), int, "a whole number above 0")
_natural = _number(0, float("inf"), int, "a whole number, 0 or more,")
_quality = _number(1, 100, int, "a quality between 1 and 100")
_share = _number(0, 1, float, "a share between 0 and 1")
_place = argued(urls.checked)


def _split(given: str) -> tuple[str, str]:
    name, _, place = given.partition("=")
    if name not in SPLITS or not place:
        raise argparse.ArgumentTypeError(
            f"{', '.join(SPLITS)} and a place are needed, as in train=PLACE, not {given!r}"
        )
    return name, _place(place)


def _shards(options: argparse.Namespace, console: Console) -> int:
    from dualprune.stages.data.make.builtin import SOURCES

    try:
        from_files = [name for name in SOURCES if name != "digits"]
        if options.folder is not None and options.source not in from_files:
            why = "come along" if options.source in SOURCES else "is a folder itself"
            raise DataError(f"--folder is for {' and '.join(from_files)}; {options.source} {why}")
        if options.source in SOURCES:
            manifest = _of_one_shape(options)
        else:
            found = _found(options)
            tables = [place for place in found.values() if is_table(place)]
            manifest = _of_tables(options, found) if tables else _of_pictures(options, found, console)
    except (DataError, ImportError) as error:
        raise ConfigError("shards", [str(error)]) from None
    return _told(manifest, options, console)


def _found(options: argparse.Namespace) -> dict[str, str]:
    """Where the splits lie. Raises DataError."""
    if options.cut is not None:
        if options.held:
            raise DataError("--held and --cut both take samples of train: leave one out")
        return whole(options.source, dict(options.split))
    if is_table(options.source) and not dict(options.split):
        raise DataError(f"{options.source} is one table: `--cut 0.1,0.1` makes val and test of some of its rows")
    return places(options.source, dict(options.split), bool(options.held))


def _refuse(options: argparse.Namespace, names: Sequence[str], why: str) -> None:
    """Raise DataError for the first of these options that is given."""
    given = [name.replace("_", "-") for name in names if getattr(options, name) not in (None, [])]
    if given:
        raise DataError(f"--{given[0]} {why}")


def _of_pictures(options: argparse.Namespace, found: dict[str, str], console: Console) -> dict[str, Any]:
    """The manifest of shards that are made of trees and other shards."""
    from dualprune.stages.data.make.convert import convert

    _refuse(options, TABLES, f"is for tables ({', '.join(ENDINGS)}), and {options.source} is none")
    wanted = _options(options)
    if options.label_field is not None and not any(place.endswith(".tar") for place in found.values()):
        raise DataError(f"--label-field is for shards; {options.source} is a tree, whose folders are the labels")
    _make(options.dest)
    with _bar(console) as bar:
        task = bar.add_task("samples", total=None)

        def show(done: int, samples: int) -> None:
            bar.update(task, completed=done, total=samples)

        with spared():  # of the pool's processes, Python's own would end of a warning, and say so
            ensure_running()
        return convert(options.dest, _name(options), found, wanted, options.processes, show, options.label_field)


def _of_tables(options: argparse.Namespace, found: dict[str, str]) -> dict[str, Any]:
    """The manifest of shards that are made of tables."""
    from dualprune.stages.data.make.tables import Wanted, convert_tables
    from dualprune.stages.settings.data import Cut

    _refuse(options, PICTURES, "is for pictures, and not for tables")
    other = next((place for place in found.values() if not is_table(place)), None)
    if other is not None:
        raise DataError(f"{other} is no table ({', '.join(ENDINGS)}), and others are: give --split NAME=PLACE")
    if options.label is None and options.target is None:
        raise DataError("say which column is to be learnt: --label COLUMN (classes) or --target COLUMN (a number)")
    given = {name: getattr(options, name) for name in (*TABLES, "bad") if getattr(options, name) is not None}
    cut = Cut(val=options.cut[0], test=options.cut[1]) if options.cut is not None else None
    _make(options.dest)
    return convert_tables(options.dest, _name(options), found, Wanted(**given), cut)


def _of_one_shape(options: argparse.Namespace) -> dict[str, Any]:
    """A built-in data set's manifest, written unless it is there."""
    from dualprune.stages.data.format import read_manifest
    from dualprune.stages.data.make.builtin import SOURCES
    from dualprune.stages.data.make.convert import PARTS, PLAN
    from dualprune.stages.data.make.index import noted
    from dualprune.stages.data.shards import write

    _refuse(options, ENCODED, f"is for trees and shards; {options.source} has splits and a shape of its own")
    dest, plan = Folder(options.dest), {"name": options.source}
    names = dest.names()
    begun = noted(dest, PLAN)
    if MANIFEST in names:
        manifest = read_manifest(options.dest)
        if manifest.get("name") != options.source:
            raise DataError(f"{options.dest} holds shards of {manifest.get('name')}; give an empty folder")
    elif begun != plan and not (begun is None and set(names) <= {PARTS}):
        what = f"{names[0]} and more" if begun is None else "what was begun with another source"
        raise DataError(f"{options.dest} holds {what}; give an empty folder")
    else:
        samples = SOURCES[options.source](options.folder)
        _make(options.dest)
        dest.write_json(PLAN, plan)  # a folder in which this was cut off is told by it from one of other files
        for name in names:
            if name.endswith(".part"):
                dest.remove(name)
        manifest = write(options.dest, options.source, samples)
    dest.remove(PARTS)
    return manifest


def _index(options: argparse.Namespace, console: Console) -> int:
    from dualprune.stages.data.make.index import index, noted
    from dualprune.stages.data.make.records import index_records

    try:
        found = places(options.source, dict(options.split), bool(options.held))
        trees = [place for place in found.values() if not place.endswith(".tar")]
        if trees:
            raise DataError(f"{trees[0]} is no pattern of shards (*.tar); `dualprune shards` makes shards of pictures")
        dest = Folder(options.dest)
        there = noted(dest, MANIFEST)
        if there is not None and "at" not in there:
            raise DataError(f"{options.dest} holds shards with a manifest of their own; give another folder")
        _make(options.dest)
        kept = {"bad": options.bad} if options.bad is not None else {}
        target, held = (options.dest, _name(options), found), options.held or 0
        if options.fields is None:
            manifest = index(*target, held, label_field=options.label_field, **kept)
        elif options.label_field is not None:
            raise DataError("--label-field is for pictures with a label each: leave it or --fields out")
        else:
            manifest = index_records(*target, options.fields, held, **kept)
    except (DataError, ImportError) as error:
        raise ConfigError("index", [str(error)]) from None
    return _told(manifest, options, console)


def _verify(options: argparse.Namespace, console: Console) -> int:
    from dualprune.stages.data.make.verify import verify

    try:
        with _bar(console) as bar:
            task = bar.add_task("files", total=None)
            files, damages = verify(options.shards, lambda done, of: bar.update(task, completed=done, total=of))
    except DataError as error:
        raise ConfigError("verify", [str(error)]) from None
    for damage in damages:
        complain(damage)
    text = f"{options.shards}: {files} files, {len(damages) or 'nothing'} damaged"
    say(console, text)
    if options.json:
        answer({"shards": Folder(options.shards).absolute, "files": files, "damages": damages})
    return FAILED if damages else DONE


def _make(dest: str) -> None:
    """Make the folder, so that one that can't be made is told before long work. Raises DataError."""
    folder = Folder(dest)
    if folder.local:
        try:
            os.makedirs(folder.path(), exist_ok=True)
        except OSError as error:
            raise DataError(f"the folder {dest} can't be made: {error.strerror}") from None


def _options(given: argparse.Namespace) -> Options:
    from dualprune.stages.data.make.convert import Options

    names = {field.name for field in fields(Options)}
    values = {name: value for name, value in vars(given).items() if name in names and value is not None}
    size = {"shard_bytes": given.size << 20} if given.size else {}
    return Options(**values, **size, check=not given.no_check)


def _name(options: argparse.Namespace) -> str:
    return str(options.source).rstrip("/").rpartition("/")[2] or "pictures"


def _bar(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True, disable=not redraws(console))


def _some(counted: dict[str, int]) -> str:
    """Things with how many there are of each, the first ones of many."""
    rest = f", and {len(counted) - SHOWN} other kinds" if len(counted) > SHOWN else ""
    return ", ".join(f"{what} ({count})" for what, count in list(counted.items())[:SHOWN]) + rest


def _told(manifest: dict[str, Any], options: argparse.Namespace, console: Console) -> int:
    for split in SPLITS:
        entry = manifest["splits"][split]
        size, count = sum(shard["bytes"] for shard in entry["shards"]) / (1 << 20), len(entry["shards"])
        text = f"{split}: {entry['samples']} samples in {count} {'shard' if count == 1 else 'shards'} ({size:.1f} MB)"
        skipped = [bad for reasons in entry.get("skipped", {}).values() for bad in reasons.items()]
        lines = [f"{split}: left out {where}: {why}" for where, why in skipped[:SHOWN]]
        if skipped[SHOWN:]:
            lines.append(f"{split}: left out {len(skipped) - SHOWN} more, which {options.dest}/{MANIFEST} lists")
        passed = manifest.get("passed", {}).get(split)
        if passed:
            lines.append(f"{split}: passed over, by their names: {_some(passed)}")
        for line in lines:
            say(console, line, "yellow")
        left = f", {len(skipped)} left out" if skipped else ""
        say(console, text + left)
    where = Folder(options.dest).absolute
    shown = where if re.fullmatch(r"(\w+://)?[\w./-]+", where) else json.dumps(where)  # as YAML wants it
    say(console, f"to train on them: data: {{shards: {shown}}}")
    if options.json:
        found = {split: entry["samples"] for split, entry in manifest["splits"].items()}
        answer({"shards": where, "samples": found})
    return DONE
