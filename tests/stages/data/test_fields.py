"""Fields: every kind is written and read back, batches stack or pad, and what does not fit is refused by name."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dualprune.stages.data.fields import FIELDS, BadValue, Seen, collated, measured, member, read, written
from dualprune.stages.data.format import DataError
from tests.stages.conftest import jpeg

VALUES: dict[str, Any] = {
    "jpg": jpeg(8, 6, 3),
    "jpeg": jpeg(8, 6, 4),
    "png": np.arange(48, dtype=np.uint8).reshape(8, 6),
    "npy": np.linspace(0, 1, 5),
    "txt": "Häuser",
    "cls": 7,
    "num": 0.1,
    "json": [[1, 2], [3, 4]],
}
READ: dict[str, np.ndarray] = {
    "npy": np.linspace(0, 1, 5).astype(np.float32),
    "txt": np.frombuffer("Häuser".encode(), np.uint8),
    "cls": np.array(7),
    "num": np.array(0.1, np.float32),
    "json": np.array([[1, 2], [3, 4]]),
}


@pytest.mark.parametrize("kind", FIELDS)
def test_every_kind_is_written_and_read_back(kind: str) -> None:
    data = FIELDS[kind].encode(VALUES[kind])
    seen = Seen(kind)
    seen.add(*measured(kind, data))
    entry = seen.entry("it")
    value = read(entry, data)
    assert value.dtype == np.dtype(entry["dtype"])
    assert (
        [len(value), *entry["shape"]] == list(value.shape)
        if "longest" in entry
        else entry["shape"] == list(value.shape)
    )
    if kind in READ:
        np.testing.assert_array_equal(value, READ[kind])
        assert value.dtype == READ[kind].dtype
    else:
        picture = Image.open(io.BytesIO(data)).convert("RGB")
        np.testing.assert_array_equal(value, np.asarray(picture).transpose(2, 0, 1))
    assert collated("it", entry, [value, value])["it"].shape == (2, *value.shape)


@pytest.mark.parametrize("kind", FIELDS)
def test_what_is_no_such_value_is_refused(kind: str) -> None:
    with pytest.raises(BadValue):
        measured(kind, b"\xff\xfe nonsense")


@pytest.mark.parametrize(
    ("value", "suffix"),
    [
        (3, "x.cls"),
        (np.int8(3), "x.cls"),
        (True, "x.cls"),
        (0.5, "x.num"),
        (np.float32(0.5), "x.num"),
        ("a", "x.txt"),
        ([1, 2], "x.npy"),
        (torch.zeros(2, 2), "x.npy"),
        (np.zeros((4, 4), np.uint8), "x.npy"),
        (jpeg(8, 8, 0), "x.jpg"),
        (Image.new("L", (3, 3)), "x.png"),
    ],
)
def test_what_a_value_is_says_how_it_is_written(value: Any, suffix: str) -> None:
    assert written("x", value)[0] == suffix


def test_pixels_are_a_picture_by_their_name() -> None:
    pixels = np.zeros((4, 4, 3), np.uint8)
    assert written("image", pixels)[0] == "image.png"
    assert written("image", pixels.astype(np.float32))[0] == "image.npy"


def test_a_member_without_a_name_has_its_kinds() -> None:
    assert [member(suffix) for suffix in ("jpg", "cls", "a.b.npy", "zip")] == [
        ("image", "jpg", "jpg"),
        ("label", "cls", "cls"),
        ("a.b", "npy", "a.b.npy"),
        None,
    ]


def seen_of(kind: str, *shapes: tuple[int, ...], dtypes: tuple[str, ...] = ("int64",)) -> Seen:
    seen = Seen(kind)
    for shape in shapes:
        for dtype in dtypes:
            seen.add(dtype, shape)
    return seen


def test_lengths_that_differ_are_padded_with_a_mask() -> None:
    entry = seen_of("npy", (3, 2), (1, 2)).entry("it")
    assert entry == {"kind": "npy", "dtype": "int64", "shape": [2], "longest": 3}
    batch = collated("it", entry, [np.full((1, 2), 5), np.full((3, 2), 6)])
    assert batch["it"].tolist() == [[[5, 5], [0, 0], [0, 0]], [[6, 6]] * 3]
    assert batch["it_mask"].tolist() == [[True, False, False], [True] * 3]


def test_text_is_padded_though_all_is_of_one_length() -> None:
    assert seen_of("txt", (3,), dtypes=("uint8",)).entry("it")["longest"] == 3


def test_pictures_of_several_sizes_have_no_shape() -> None:
    assert seen_of("jpg", (3, 5, 6), (3, 6, 5), dtypes=("uint8",)).entry("it") == {"kind": "jpg", "dtype": "uint8"}


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        (seen_of("npy", (3, 2), (3, 4)), r"the field it has values of shapes \(3, 2\) and \(3, 4\)"),
        (seen_of("npy", (), (3,)), r"shapes \(\) and \(3,\)"),
        (seen_of("npy", (3,), dtypes=("int64", "float32")), "the field it is float32 in some samples and int64"),
    ],
)
def test_what_no_batch_can_be_made_of_is_refused(seen: Seen, said: str) -> None:
    with pytest.raises(DataError, match=said):
        seen.entry("it")


def test_a_value_of_another_shape_than_the_manifest_says_is_bad() -> None:
    entry = seen_of("npy", (3,)).entry("it")
    with pytest.raises(BadValue, match=r"it is int64 of shape \(2,\), and not int64 of shape \(3,\)"):
        read(entry, FIELDS["npy"].encode([1, 2]))


def test_pickles_are_never_read(tmp_path: Path) -> None:
    np.save(tmp_path / "it.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(BadValue, match="can't be read as npy"):
        measured("npy", (tmp_path / "it.npy").read_bytes())
