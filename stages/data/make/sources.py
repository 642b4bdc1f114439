"""Data sets that are written into shards once: those that come along (`builtin.SOURCES`), and a user's own.

`source: package.module:function` in a configuration names one of a user's own. The function is called with `args`. It
returns a data set for each split, by name (`train`, and `val` and `test` unless they are to be cut out of it), or the
training data alone. A data set has `__len__` and, by number, samples: mappings from names to values
(`fields.kind_of`). torch's data sets and plain lists are such.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from dualprune.stages.data.format import SPLITS, DataError
from dualprune.stages.data.make.builtin import SOURCES, digest
from dualprune.stages.data.order import Indices, epoch_order
from dualprune.stages.files.folder import canonical, sha256
from dualprune.stages.files.source import SourceError, described, load, source_digest
from dualprune.stages.settings.data import Cut, Data

if TYPE_CHECKING:
    from dualprune.stages.data.make.records import Record
    from dualprune.stages.data.shards import Sample


@runtime_checkable
class Source(Protocol):
    """A data set: samples by number."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int, /) -> Mapping[str, Any]: ...


@dataclass(frozen=True)
class Part:
    """Some samples of a source, in order."""

    where: str
    """For people."""
    source: Source
    numbers: Indices

    def __len__(self) -> int:
        return len(self.numbers)

    def __iter__(self) -> Iterator[Record]:
        """Raises DataError for errors of the source's own, with their line."""
        for number in self.numbers.tolist():
            with_number = f"{self.where}: sample {number}"
            yield _asked(with_number, lambda number=number: self.source[number])  # type: ignore[misc]


Writer = Callable[[str], Any]
"""Writes shards into the folder that it is told."""


def resolved(data: Data) -> tuple[str, Writer]:
    """A folder's name for the shards of a configured source, and what writes them. Raises DataError, as that does."""
    source = str(data.source)
    if data.own:
        args, cut = data.args, data.cut
        return name_of(source, args, cut), lambda url: write_source(url, source, opened(source, args, cut))
    # Other files are other shards.
    folder = f"-{digest(source, data.folder)[:12]}" if data.folder is not None else ""
    return source + folder, lambda url: _write_built_in(url, source, data.folder)


def _write_built_in(url: str, source: str, folder: str | None) -> dict[str, Any]:
    from dualprune.stages.data.shards import write

    return write(url, source, SOURCES[source](folder))


def name_of(source: str, args: Mapping[str, Any], cut: Cut) -> str:
    """A folder's name for the shards of a source: another one once its source, its arguments or the cut have changed.

    Raises DataError.
    """
    try:
        code = source_digest(source.partition(":")[0])
    except SourceError as error:
        raise DataError(f"data.source: {error}") from None
    material = [source, code, dict(args), cut.model_dump()]
    return f"{re.sub(r'[^A-Za-z0-9]+', '-', source)}-{sha256(canonical(material))[:12]}"


def opened(source: str, args: Mapping[str, Any], cut: Cut) -> dict[str, Part]:
    """The splits of the source that `package.module:function` names. Raises DataError."""
    try:
        function = load(source)
    except SourceError as error:
        raise DataError(f"data.source: {error}") from error
    made = _asked(source, lambda: function(**args))
    given = dict(made) if isinstance(made, Mapping) else {"train": made}
    strange = sorted(map(str, set(given) - set(SPLITS)))
    if strange or "train" not in given:
        wanted = "a data set by split (train, val, test), or one data set"
        raise DataError(f"{source} returned {', '.join(strange) or 'no train'}, where {wanted} is needed")
    whole: dict[str, Part] = {}
    for split in SPLITS:
        if split in given:
            if not isinstance(given[split], Source):
                what = f"{type(given[split]).__name__} for {split}"
                raise DataError(f"{source} returned {what}: a data set has __len__ and __getitem__")
            count = _asked(f"{source}: {split}", lambda split=split: len(given[split]))  # type: ignore[misc]
            whole[split] = Part(f"{source}: {split}", given[split], np.arange(count))
    return cut_out(whole, cut)


def _asked(where: str, ask: Callable[[], Any]) -> Any:
    """What a user's own code gives. Raises DataError for what it raises, with its line."""
    try:
        return ask()
    except Exception as error:
        raise DataError(f"{where} raised {described(error)}") from error


def cut_out(whole: Mapping[str, Part], cut: Cut) -> dict[str, Part]:
    """All three splits: those that are not there are shares of train, drawn by seed. Raises DataError."""
    train = whole["train"]
    order = epoch_order(len(train), cut.seed, 0)
    found, taken = dict(whole), 0
    for split, share in (("val", cut.val), ("test", cut.test)):
        if split not in whole:
            count = max(1, round(share * len(train)))
            found[split] = Part(train.where, train.source, train.numbers[np.sort(order[taken : taken + count])])
            taken += count
    if taken >= len(train):
        raise DataError(f"{train.where}: {taken} of {len(train)} samples can't be cut out of it for val and test")
    found["train"] = Part(train.where, train.source, train.numbers[np.sort(order[taken:])]) if taken else train
    return {split: found[split] for split in SPLITS}


def write_source(url: str, name: str, splits: Mapping[str, Iterable[Record]]) -> dict[str, Any]:
    """Write splits as shards: one picture `image` and one whole number `label` as shards of pictures, else as fields.

    Returns the manifest. Raises DataError.
    """
    from dualprune.stages.data.make.records import write_records
    from dualprune.stages.data.shards import write

    first = next(iter(splits["train"]), None)
    if not is_labelled(first):
        return write_records(url, name, splits)
    assert first is not None
    shape = getattr(first["image"], "shape", None)
    return write(url, name, {split: _Labelled(f"{name}: {split}", records, shape) for split, records in splits.items()})


class _Labelled:
    """Pictures with labels: encoded, or pixels that are all of one shape."""

    def __init__(self, where: str, records: Iterable[Record], shape: tuple[int, ...] | None) -> None:
        self.where, self.records, self.shape = where, records, shape

    def __iter__(self) -> Iterator[Sample]:
        from dualprune.stages.data.fields import FIELDS

        for number, record in enumerate(self.records):
            where = f"{self.where}: sample {number}"
            if not is_labelled(record):
                raise DataError(f"{where} is no picture `image` with a whole number `label`, as the first one is")
            picture = record["image"]
            shape = getattr(picture, "shape", None)
            if shape != self.shape:
                ways = "give pictures of several sizes encoded (bytes), or as PIL's"
                raise DataError(f"{where} has pixels of shape {shape}, and the first one {self.shape}; {ways}")
            yield FIELDS["png"].encode(picture) if shape is None else np.asarray(picture), int(record["label"])


def is_labelled(record: Any) -> bool:
    """Whether a sample is a picture `image` and a whole number `label`, 0 or more."""
    from dualprune.stages.data.fields import is_picture

    if not isinstance(record, Mapping) or set(record) != {"image", "label"}:
        return False
    label = record["label"]
    number = isinstance(label, (int, np.integer)) and not isinstance(label, bool)
    return bool(number and label >= 0 and is_picture("image", record["image"]))
