"""The label of a sample in a shard: in its `.cls`, or in a field of its `.json`; and where it may be if not there."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from dualprune.stages.data.format import DataError
from dualprune.stages.data.order import Indices

MOST = 1 << 20
"""Bytes of a `.json` that are read."""
USUAL = (
    "label",
    "cls",
    "class",
    "class_id",
    "category_id",
    "label_id",
    "class_index",
    "target",
    "y",
    "category",
    "labels",
)
"""Names of fields that are looked at first, to say where labels may be."""
SHOWN = 5
"""Fields that are named, at most."""


_NUMERIC = re.compile(r"\s*[-+]?[\d.]+(e[-+]?\d+)?\s*", re.IGNORECASE)


class NoLabel(ValueError):
    """What is no label, and why."""


class Labels:
    """Where labels are in a sample: in the file that ends with `kind`; of `json`, in `field` (`annotation.label`)."""

    def __init__(self, field: str | None = None) -> None:
        self.field, self.kind, self.most = field, "cls" if field is None else "json", 20 if field is None else MOST
        self.names: list[str] = []
        """Labels that are text. They are numbered -2, -3, ... as they come, until `by_name` knows all of them."""
        self._numbers: dict[str, int] = {}
        self._alone = threading.Lock()

    def read(self, data: bytes) -> int:
        """The label in the bytes of such a file, of which no more than `most` are needed. Raises NoLabel."""
        if self.field is None:
            return _number(data.decode(errors="backslashreplace"))
        try:
            found = json.loads(data)
        except (ValueError, RecursionError):
            large = len(data) >= self.most
            what = f"of more than {self.most:,} bytes, which are not read" if large else "no JSON"
            raise NoLabel(f"its .json is {what}") from None
        value = _at(found, self.field)
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if not isinstance(value, str) or not value.strip() or re.fullmatch(r"\s*[-+.\d]+\s*", value):
            return _number(value)
        with self._alone:  # shards are read several at a time
            if value not in self._numbers:
                self._numbers[value] = -2 - len(self.names)
                self.names.append(value)
            return self._numbers[value]


def by_name(rows: Mapping[str, Sequence[Indices]], shards: Mapping[str, str], labels: Labels) -> list[str]:
    """Number labels that are text by their alphabetical order in train, in index rows by pattern; the classes' names.

    `shards` has the patterns by split. Raises DataError for names that train lacks, and for numbers beside names.
    """
    if not labels.names:
        return []
    own = {pattern: np.unique(np.concatenate([some[:, 3] for some in found])) for pattern, found in rows.items()}
    for pattern, numbers in own.items():
        if numbers.size and numbers[-1] >= 0:
            both = f"{labels.names[0]!r} and {numbers[-1]}"
            raise DataError(f"{pattern}: {labels.field} of some samples is text and of others a number: {both}")
    named = {pattern: {labels.names[-2 - number] for number in numbers} for pattern, numbers in own.items()}
    classes = sorted(named[shards["train"]] if "train" in shards else set(labels.names))
    order = {name: number for number, name in enumerate(classes)}
    for pattern, found in rows.items():
        strange = sorted(named[pattern] - order.keys())
        if strange:
            raise DataError(f"{pattern} has the class {strange[0]}, which train does not have")
        numbers = np.array([order.get(name, 0) for name in labels.names])
        for some in found:
            some[:, 3] = numbers[-2 - some[:, 3]]
    return classes


def _at(value: Any, field: str) -> Any:
    """What is at a path in a JSON value. Raises NoLabel."""
    if isinstance(value, dict) and field in value:
        return value[field]
    whole = value
    for part in field.split("."):
        if isinstance(value, dict) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        else:
            there = ", ".join(list(whole)[:8]) if isinstance(whole, dict) and whole else "no fields"
            raise NoLabel(f"its .json has no {field}: there are {there}")
    return value


def _number(value: Any) -> int:
    """A whole number, 0 or more, by itself, as text or as the place of the only 1 among zeros. Raises NoLabel."""
    if isinstance(value, list) and len(value) > 1 and all(type(one) in (int, float, bool) for one in value):
        if sorted(value) == [0] * (len(value) - 1) + [1]:
            return value.index(1)
        raise NoLabel("its label is no number but a list, and not of one 1 among zeros")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = value if isinstance(value, str) else str(value) if type(value) is int else ""
    if not re.fullmatch(r"\s*\d{1,9}\s*", text, re.ASCII):
        shown = json.dumps(value, ensure_ascii=False) if not isinstance(value, str) else repr(value)
        what = "no whole number from 0 on" if type(value) in (int, float) or _NUMERIC.fullmatch(text) else "no number"
        raise NoLabel(f"its label is {what}: {shown if len(shown) < 40 else shown[:36] + ' ...'}")
    return int(text)


def clue(files: Sequence[tuple[str, bytes]]) -> str:
    """Where labels may be, of the kinds of files that lie beside a picture and the content of one such; or nothing."""
    for kind, data in files:
        if kind == "json":
            fields = _fields(data)
            if fields:
                ways = f"`--label-field {fields[0]}`"
                return f"its .json has numbers in {', '.join(fields)}: if one is the label, {ways} reads it"
    for kind, data in files:
        if re.fullmatch(rb"\s*\d{1,9}\s*", data):
            way = "is read without a label field" if kind == "cls" else "has to be written as .cls, if it is the label"
            return f"there is a .{kind} with a number in it, which {way}"
    return f"there are {', '.join(f'.{kind}' for kind, _ in files[:SHOWN])}" if files else ""


def _fields(data: bytes) -> list[str]:
    """Paths in a JSON file at which there is a label, the usual ones first."""
    try:
        found = list(_labels(json.loads(data), ""))
    except (ValueError, RecursionError):
        return []
    usual = [path for name in USUAL for path in found if path.rpartition(".")[2].lower() == name]
    return usual[:SHOWN] or found[:SHOWN]


def _labels(value: Any, path: str) -> Iterator[str]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _labels(inner, f"{path}.{name}" if path else name)
        return
    try:
        _number(value)
    except NoLabel:
        return
    if path:
        yield path
