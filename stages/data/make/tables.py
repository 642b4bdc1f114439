"""Shards made of tables: CSV (with quotes), TSV (without), or JSON objects, one a line; each may be compressed (.gz).

The first line of a CSV or TSV names its columns. Columns of numbers become one array, `numbers`; of text each becomes
text, or tokens. A row that can't be read is left out and counted.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import re
import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from dualprune.stages.data.format import MANIFEST, SPLITS, DataError
from dualprune.stages.data.make.convert import PARTS, begin
from dualprune.stages.data.make.index import allowed
from dualprune.stages.data.make.records import records_manifest
from dualprune.stages.data.make.sources import Part, cut_out
from dualprune.stages.data.make.tokens import Tokenizer
from dualprune.stages.files.folder import Folder, sha256
from dualprune.stages.settings.data import Cut


@dataclass(frozen=True)
class Wanted:
    """What is read of a table. A column is given by its name, or by its number from 1 on."""

    label: str | None = None
    """The column of classes: whole numbers, or names, which are numbered in alphabetical order. Field `label`."""
    target: str | None = None
    """The column of numbers to predict. Field `target`."""
    columns: tuple[str, ...] = ()
    """Other columns; all, if none is given."""
    tokenizer: str | None = None
    """A tokenizer.json or vocab.txt; columns of text become tokens by it."""
    length: int = 128
    """Tokens of a text, at most."""
    standardise: bool = False
    """Whether the field `numbers` has each column less its mean in train, over its deviation there."""
    bad: float = 0.001
    """Share of a table's rows that may be left out because they can't be read."""


class BadRow(ValueError):
    """A row that is no sample, and why."""


@dataclass(frozen=True)
class Table:
    """Rows of a file, by their lines, and why which lines are none."""

    place: str
    sha256: str
    header: list[str]
    rows: dict[int, list[Any]]
    bad: dict[int, str]

    def column(self, wanted: str) -> int:
        """The place of a column in rows. Raises DataError."""
        if wanted in self.header:
            return self.header.index(wanted)
        if wanted.isdecimal() and 1 <= int(wanted) <= len(self.header):
            return int(wanted) - 1
        there = ", ".join(self.header[:20])
        raise DataError(f"{self.place} has no column {wanted}; it has {there} (or its number, from 1 on)")


@dataclass(frozen=True)
class Schema:
    """What becomes of the columns of all splits, as train has them."""

    numbers: tuple[str, ...]
    text: tuple[str, ...]
    lists: tuple[str, ...]
    """Of JSON: lists of numbers."""
    classes: list[str] | None
    """Names of classes; None for numbers, or no label."""


def convert_tables(url: str, name: str, where: Mapping[str, str], wanted: Wanted, cut: Cut | None) -> dict[str, Any]:
    """Write shards of the tables at `where`, by split, into the folder `url`; val and test may be `cut` out of train.

    Returns the manifest. Raises DataError, also for a folder that holds anything else.
    """
    tables = {split: table(where[split]) for split in SPLITS if split in where}
    tokenizer = Tokenizer(wanted.tokenizer, wanted.length) if wanted.tokenizer is not None else None
    plan: dict[str, Any] = {"name": name, "source": {split: one.sha256 for split, one in tables.items()}}
    plan |= {**asdict(wanted), "columns": list(wanted.columns), "cut": cut.model_dump() if cut else None}
    plan |= {"tokenizer": tokenizer.sha256 if tokenizer else None}
    del plan["bad"]
    if not wanted.standardise:  # shards that were made before there was this are still what is asked for
        del plan["standardise"]
    folder = Folder(url)
    schema = _schema(tables, wanted)
    skipped: dict[str, dict[str, str]] = {}
    splits: dict[str, Part] = {}
    if MANIFEST not in folder.names():  # so that tables that can't be read leave nothing there
        for split, one in tables.items():
            samples, skipped[split] = _samples(one, wanted, schema, tokenizer)
            splits[split] = Part(one.place, samples, np.arange(len(samples)))
    finished = begin(folder, plan)
    if finished is not None:
        return finished
    padded = _text_fields(schema, tokenizer is not None)
    parts = splits if cut is None else cut_out(splits, cut)
    parts, said = _standardised(parts, schema) if wanted.standardise else (parts, {})
    manifest = {**records_manifest(url, name, parts, padded=padded), **said}
    for split, bad in skipped.items():
        manifest["splits"][split]["skipped"] = {where[split]: bad} if bad else {}
    if tokenizer is not None:
        for entry in manifest["splits"].values():
            entry["tokenizer"] = tokenizer.sha256
    if schema.classes:
        manifest["classes"] = schema.classes
    folder.write_json(MANIFEST, {**manifest, "made": plan})
    folder.remove(PARTS)
    return {**manifest, "made": plan}


def table(place: str) -> Table:
    """Read a table. Raises DataError."""
    base, _, name = place.rpartition("/")
    try:
        data = Folder(base or ".").read(name)
        plain = gzip.decompress(data) if name.lower().endswith(".gz") else data
        text = plain.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = plain[: error.start].count(b"\n") + 1
        raise DataError(f"{place} is not UTF-8 in line {line}: {error.reason}; save it as UTF-8") from None
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{place} can't be read: {error}") from None
    kind = name.lower().removesuffix(".gz").rpartition(".")[2]
    try:
        header, rows, bad = _objects(text) if kind == "jsonl" else _lines(text, kind)
    except (csv.Error, ValueError) as error:
        raise DataError(f"{place}: {error}") from None
    if not rows:
        raise DataError(f"{place} has no rows" + (f"; {next(iter(bad.values()))}" if bad else ""))
    return Table(place, sha256(data), header, rows, bad)


Read = tuple[list[str], dict[int, list[Any]], dict[int, str]]
"""Names of columns, rows by line, and why which lines are no rows."""


def _lines(text: str, kind: str) -> Read:
    csv.field_size_limit(sys.maxsize)
    lines = io.StringIO(text, newline="")
    reader = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE) if kind == "tsv" else csv.reader(lines)
    header = [name.strip() for name in next(reader, [])]
    twice = next((name for name in header if header.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"two columns are called {twice!r}")
    rows: dict[int, list[Any]] = {}
    bad: dict[int, str] = {}
    for row in reader:
        if len(row) == len(header):
            rows[reader.line_num] = list(row)
        elif row:
            bad[reader.line_num] = f"it has {len(row)} columns, and the first line {len(header)}"
    return header, rows, bad


def _objects(text: str) -> Read:
    header: list[str] = []
    rows: dict[int, list[Any]] = {}
    bad: dict[int, str] = {}
    for number, line in enumerate(io.StringIO(text, newline=None), 1):  # strings may have other ends of lines in them
        if not line.strip():
            continue
        try:
            found = json.loads(line)
        except ValueError as error:
            bad[number] = f"it is no JSON: {error}"
            continue
        if not isinstance(found, dict):
            bad[number] = "it is no JSON object"
            continue
        header = header or list(found)
        lacking = [name for name in header if name not in found]
        if lacking:
            bad[number] = f"it has no {lacking[0]}"
        else:
            rows[number] = [found[name] for name in header]
    return header, rows, bad


def _schema(tables: Mapping[str, Table], wanted: Wanted) -> Schema:
    """Raises DataError for columns that are not there, in any of the tables."""
    train = tables["train"]
    special = {train.column(one) for one in (wanted.label, wanted.target) if one is not None}
    others = [name for n, name in enumerate(train.header) if n not in special]
    columns = wanted.columns or tuple(others)
    for one in tables.values():
        for name in (wanted.label, wanted.target, *columns):
            if name is not None:
                one.column(name)
    sorts: dict[str, list[str]] = {"numbers": [], "text": [], "lists": []}
    for name in columns:
        values = [row[train.column(name)] for row in train.rows.values()]
        few = allowed(wanted.bad, len(values))
        if sum(isinstance(value, list) for value in values) > few:
            sorts["lists"].append(name)
        else:
            sorts["numbers" if sum(_number(value) is None for value in values) <= few else "text"].append(name)
    classes = None
    if wanted.label is not None:
        labels = [row[train.column(wanted.label)] for row in train.rows.values()]
        if sum(_whole(label) is None for label in labels) > allowed(wanted.bad, len(labels)):
            classes = sorted({str(label) for label in labels})
    if wanted.standardise and not sorts["numbers"]:
        raise DataError(f"{train.place} has no columns of numbers to standardise")
    if wanted.tokenizer is not None and not sorts["text"]:
        raise DataError(f"{train.place} has no column of text for the tokenizer")
    found = Schema(tuple(sorts["numbers"]), tuple(sorts["text"]), tuple(sorts["lists"]), classes)
    names = _names(wanted, found)
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{train.place}: two of its columns would be the field {twice}; rename one, or leave it out")
    return found


def _names(wanted: Wanted, schema: Schema) -> list[str]:
    """The names of all fields that a table's columns become."""
    given = {"label": wanted.label is not None, "target": wanted.target is not None, "numbers": bool(schema.numbers)}
    text = _text_fields(schema, wanted.tokenizer is not None)
    return [*(name for name, there in given.items() if there), *text, *map(_plain, schema.lists)]


def _samples(
    one: Table, wanted: Wanted, schema: Schema, tokenizer: Tokenizer | None
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """The samples of a table, and why which lines are none. Raises DataError for too many of these."""
    bad = {f"{one.place}, line {line}": why for line, why in one.bad.items()}
    samples = []
    for line, row in one.rows.items():
        try:
            samples.append(dict(_fields(one, row, wanted, schema, tokenizer is not None)))
        except BadRow as error:
            bad[f"{one.place}, line {line}"] = str(error)
    if len(bad) > allowed(wanted.bad, len(one.rows) + len(one.bad)) or not samples:
        first, why = next(iter(bad.items()))
        share = f"{len(bad)} of {len(one.rows) + len(one.bad)} rows are bad, such as {first}: {why}"
        raise DataError(f"{share}; `bad` allows a share of {wanted.bad}")
    if tokenizer is not None:
        for field in _text_fields(schema, tokens=True):
            for sample, tokens in zip(samples, tokenizer([sample[field] for sample in samples]), strict=True):
                sample[field] = tokens
    return samples, bad


def _standardised(parts: Mapping[str, Part], schema: Schema) -> tuple[dict[str, Part], dict[str, Any]]:
    """With numbers of mean 0 and deviation 1 in train; and what is said of that, by column."""
    rows = np.array([sample["numbers"] for sample in parts["train"]], np.float64)
    mean, deviation = rows.mean(0), rows.std(0)
    deviation[deviation == 0] = 1
    found = {}
    for split, part in parts.items():
        samples = [{**one, "numbers": ((one["numbers"] - mean) / deviation).astype(np.float32)} for one in part]
        found[split] = Part(part.where, samples, np.arange(len(samples)))
    by_column = dict(zip(schema.numbers, np.stack([mean, deviation], 1).tolist(), strict=True))
    return found, {"standardised": by_column}


def _text_fields(schema: Schema, tokens: bool) -> list[str]:
    """Fields of the columns of text: the one's by what it is, several by their columns' names."""
    if len(schema.text) == 1:
        return ["tokens" if tokens else "text"]
    return [_plain(name) for name in schema.text]


def _plain(name: str) -> str:
    """A column's name as a field can have it."""
    return re.sub(r"\W", "_", name)


def _fields(one: Table, row: Sequence[Any], wanted: Wanted, schema: Schema, tokens: bool) -> Iterator[tuple[str, Any]]:
    """A row's fields; text as it is. Raises BadRow and DataError."""
    if wanted.label is not None:
        yield "label", _label(row[one.column(wanted.label)], schema.classes)
    if wanted.target is not None:
        yield "target", _needed(wanted.target, row[one.column(wanted.target)])
    if schema.numbers:
        values = [_needed(name, row[one.column(name)]) for name in schema.numbers]
        yield "numbers", np.array(values, dtype=np.float32)
    for name, field in zip(schema.text, _text_fields(schema, tokens), strict=True):
        yield field, str(row[one.column(name)])
    for name in schema.lists:
        yield _plain(name), _list(name, row[one.column(name)])


def _label(value: Any, classes: list[str] | None) -> int:
    if classes is not None:
        if str(value) not in classes:
            raise BadRow(f"its label is {value!r}, which train does not have")
        return classes.index(str(value))
    number = _whole(value)
    if number is None:
        raise BadRow(f"its label is {value!r}, and no whole number")
    return number


def _needed(name: str, value: Any) -> float:
    number = _number(value)
    if number is None:
        raise BadRow(f"{name} is {value!r}, and no number")
    return number


def _list(name: str, value: Any) -> Any:
    try:
        found = np.asarray(value)
    except ValueError as error:
        raise BadRow(f"{name}: {error}") from None
    if found.dtype.kind not in "biuf":
        raise BadRow(f"{name} is no list of numbers")
    return found


def _number(value: Any) -> float | None:
    """A finite number, if a value is one."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _whole(value: Any) -> int | None:
    """A whole number from 0 on, if a value is one."""
    number = _number(value)
    return int(number) if number is not None and number >= 0 and number == int(number) else None
