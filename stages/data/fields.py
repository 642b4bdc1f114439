"""Fields of a sample: what each is by its extension in a shard, how it is written, read and put into batches.

A sample is a mapping from names to values. In a shard the field NAME of the sample KEY is the member `KEY.NAME.EXT`; a
member `KEY.EXT` has the name that the table gives. To add a kind of member: a line in `FIELDS`.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from dualprune.stages.data.format import DataError
from dualprune.stages.data.read.decoding import BadPicture, decode, look
from dualprune.stages.data.read.decoding import check as whole
from dualprune.stages.data.read.exif import PNG

Value = NDArray[Any]
T = TypeVar("T")
MASK = "_mask"
"""Ends the name of what says where a padded field of a batch has values: bool [n, longest]."""
LARGEST = 1 << 26
"""Pixels of a picture of fixed size, at most."""


class BadValue(ValueError):
    """A member that can't be read as what its extension says, and why."""


@dataclass(frozen=True)
class Field:
    """A kind of member."""

    name: str
    """Of a member that has no name of its own."""
    encode: Callable[[Any], bytes]
    """Raises TypeError and ValueError for what can't be written so."""
    decode: Callable[[bytes], Value]
    """Raises ValueError, and so BadPicture. Pictures are uint8 [3, h, w]."""
    padded: bool = False
    """Whether batches pad values even if all of a data set are of one length."""


def mask_of(batch: Mapping[str, T]) -> T | None:
    """Where a batch's padded field has values, of the first that is padded; None where none is."""
    return next((values for name, values in batch.items() if name.endswith(MASK)), None)


def stack(values: Value | list[Value]) -> Value:
    """Values of one shape along a new first axis."""
    return values if isinstance(values, np.ndarray) else np.stack(values)


def pad(values: Value | list[Value]) -> tuple[Value, NDArray[np.bool_]]:
    """Values that differ along their first axis, with zeros behind the shorter ones, and where there are values."""
    longest = max(len(value) for value in values)
    padded = np.zeros((len(values), longest, *values[0].shape[1:]), dtype=values[0].dtype)
    mask = np.zeros((len(values), longest), dtype=bool)
    for row, value in enumerate(values):
        padded[row, : len(value)] = value
        mask[row, : len(value)] = True
    return padded, mask


def _picture(value: Any) -> bytes:
    """An encoded picture as it is; pixels, uint8 [h, w] or [h, w, 3], or a picture of PIL's as PNG."""
    from PIL import Image

    if isinstance(value, bytes):
        return value
    buffer = io.BytesIO()
    picture = value if isinstance(value, Image.Image) else Image.fromarray(np.asarray(value))
    picture.save(buffer, format="PNG")
    return buffer.getvalue()


def _pixels(data: bytes) -> Value:
    pixels: Value = decode(data, look(data, LARGEST)).transpose(2, 0, 1)
    return pixels


def _array(value: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, _plain(np.asarray(value)), allow_pickle=False)
    return buffer.getvalue()


def _loaded(data: bytes) -> Value:
    found: Value = np.load(io.BytesIO(data), allow_pickle=False)
    return _plain(found)


def _plain(value: Value) -> Value:
    """Numbers as batches have them: floating point of 32 bits or fewer. Raises ValueError for what are no numbers."""
    if value.dtype.kind not in "biuf":
        raise ValueError(f"an array of {value.dtype} holds no numbers")
    return value.astype(np.float32) if value.dtype.kind == "f" and value.dtype.itemsize > 4 else value


def _from_json(data: bytes) -> Value:
    """Numbers, nested lists of them, or text as its UTF-8."""
    value = json.loads(data)
    if isinstance(value, str):
        return _text(value.encode())
    if isinstance(value, dict) or value is None:
        raise ValueError("JSON of a field is a number, text, or a list of numbers")
    return _plain(np.asarray(value))


def _text(data: bytes) -> Value:
    data.decode()  # raises UnicodeDecodeError, a ValueError
    return np.frombuffer(data, dtype=np.uint8)


FIELDS: dict[str, Field] = {
    "jpg": Field("image", _picture, _pixels),
    "jpeg": Field("image", _picture, _pixels),
    "png": Field("image", _picture, _pixels),
    "npy": Field("array", _array, _loaded),
    "txt": Field("text", lambda value: str(value).encode(), _text, padded=True),
    "cls": Field("label", lambda value: b"%d" % int(value), lambda data: np.asarray(int(data), dtype=np.int64)),
    "num": Field("number", lambda value: repr(float(value)).encode(), lambda data: np.float32(float(data))[...]),
    "json": Field("json", lambda value: json.dumps(value).encode(), _from_json),
}
"""By extension. A number (`cls`, `num`) is of shape []."""
PICTURES = ("jpg", "jpeg", "png")


class Member(NamedTuple):
    """A field as members of shards hold it."""

    name: str
    kind: str
    """Its extension."""
    suffix: str
    """What follows a sample's key and a dot."""


def member(suffix: str) -> Member | None:
    """The field that members `KEY.SUFFIX` hold; None if nothing here can read them."""
    name, _, kind = suffix.rpartition(".")
    return Member(name or FIELDS[kind].name, kind, suffix) if kind in FIELDS else None


def written(name: str, value: Any) -> tuple[str, bytes]:
    """The suffix and the bytes of a field's member. Raises TypeError and ValueError for what no kind can hold."""
    kind = kind_of(name, value)
    return f"{name}.{kind}", FIELDS[kind].encode(value)


def kind_of(name: str, value: Any) -> str:
    """The extension that a value is written with: numbers, text, encoded pictures and pixels by what they are."""
    if isinstance(value, bytes):
        return "png" if value.startswith(PNG) else "jpg"
    if isinstance(value, str):
        return "txt"
    if isinstance(value, (bool, int, np.integer, np.bool_)):
        return "cls"
    if isinstance(value, (float, np.floating)):
        return "num"
    return "png" if is_picture(name, value) else "npy"


def is_picture(name: str, value: Any) -> bool:
    """Whether a value is an encoded picture or one of PIL's, or, as the field `image`, pixels: uint8 [h, w(, 3)]."""
    if isinstance(value, bytes):
        return True
    if not hasattr(value, "dtype"):
        return hasattr(value, "getbands")  # PIL's
    shape = tuple(value.shape)
    flat = len(shape) == 2 or (len(shape) == 3 and shape[2] == 3)
    return name == "image" and flat and str(value.dtype).endswith("uint8")


class Seen:
    """What all values of a field have in common, as they come in."""

    def __init__(self, kind: str, padded: bool = False) -> None:
        """`padded` says that it is, even if all are of one length."""
        self.kind, self.padded = kind, padded or FIELDS[kind].padded
        self.dtypes: set[str] = set()
        self.shapes: dict[tuple[int, ...] | None, tuple[int, ...]] = {}
        """One shape for each that the axes but the first have; None stands for no axis."""
        self.lengths: set[int] = set()

    def add(self, dtype: str, shape: tuple[int, ...]) -> None:
        """Take in a value's."""
        self.dtypes.add(dtype)
        self.shapes.setdefault(shape[1:] if shape else None, shape)
        self.lengths.update(shape[:1])

    def merge(self, other: Seen) -> None:
        """Take in all that another has."""
        self.dtypes |= other.dtypes
        self.shapes = other.shapes | self.shapes
        self.lengths |= other.lengths

    def entry(self, name: str) -> dict[str, Any]:
        """Of a manifest: kind, dtype and shape. A padded field has `longest`, and its shape is that of the other axes.

        Pictures of several sizes have no shape. Raises DataError for what batches can't be made of.
        """
        dtypes, shapes = sorted(self.dtypes), list(self.shapes.values())
        if len(dtypes) > 1:
            raise DataError(f"the field {name} is {dtypes[0]} in some samples and {dtypes[1]} in others; use one")
        found: dict[str, Any] = {"kind": self.kind, "dtype": dtypes[0]}
        if len(shapes) == 1 and len(self.lengths) < 2 and not self.padded:
            return {**found, "shape": list(shapes[0])}
        if self.kind in PICTURES:
            return found
        if len(shapes) > 1:
            only = "only the first axis may vary"
            raise DataError(f"the field {name} has values of shapes {shapes[0]} and {shapes[1]}: {only}")
        return {**found, "shape": list(shapes[0][1:]), "longest": max(self.lengths)}


def measured(kind: str, data: bytes, grey: bool = False, check: bool = False) -> tuple[str, tuple[int, ...]]:
    """The dtype and shape of a member's value; of a picture from its header, decoded to `check` it. Raises BadValue."""
    try:
        if kind in PICTURES:
            header = look(data, LARGEST)
            if check:
                whole(data, header)
            return "uint8", (1 if grey else 3, header.height, header.width)
        value = FIELDS[kind].decode(data)
    except (ValueError, TypeError) as error:
        raise BadValue(_said(kind, error)) from None
    return str(value.dtype), value.shape


def read(entry: Mapping[str, Any], data: bytes) -> Value:
    """A member's value, as its field's entry in the manifest has it. Raises BadValue for any other."""
    kind = entry["kind"]
    try:
        value = FIELDS[kind].decode(data)
    except (ValueError, TypeError) as error:
        raise BadValue(_said(kind, error)) from None
    wanted = tuple(entry["shape"])
    if kind in PICTURES and wanted[0] == 1:
        value = value[:1]
    shape = value.shape[1:] if "longest" in entry else value.shape
    if shape != wanted or str(value.dtype) != entry["dtype"] or ("longest" in entry and not value.ndim):
        raise BadValue(f"it is {value.dtype} of shape {value.shape}, and not {entry['dtype']} of shape {wanted}")
    return value


def _said(kind: str, error: Exception) -> str:
    return str(error) if isinstance(error, BadPicture) else f"it can't be read as {kind}: {error}"


def collated(name: str, entry: Mapping[str, Any], values: Value | list[Value]) -> dict[str, Value]:
    """What a batch has of a field: its values with samples along the first axis and, of a padded one, a mask."""
    if "longest" not in entry:
        return {name: stack(values)}
    padded, mask = pad(values)
    return {name: padded, f"{name}{MASK}": mask}
