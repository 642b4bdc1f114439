"""Labels in the `.json` of samples: read by a field's path, refused by sample, and found where nobody said where."""

from __future__ import annotations

import io
import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest

from dualprune.stages.data.format import DataError, digest, labels, read_manifest
from dualprune.stages.data.make.convert import Options, convert
from dualprune.stages.data.make.index import index, read_index
from dualprune.stages.data.make.labels import Labels, NoLabel
from dualprune.stages.data.make.samples import scan
from tests.stages.data.test_index import PICTURE, sample, tar


def with_json(key: str, value: Any) -> list[tuple[str, bytes]]:
    """A picture and what a `.json` says of it."""
    return [(f"{key}.jpg", PICTURE), (f"{key}.json", json.dumps(value).encode())]


def shards(folder: Path, *values: Any, name: str = "train") -> dict[str, str]:
    """A shard of samples with these in their `.json`, for all splits."""
    members = [member for number, value in enumerate(values) for member in with_json(f"{number:06d}", value)]
    (folder / f"{name}.tar").write_bytes(tar(members))
    return dict.fromkeys(("train", "val", "test"), f"{folder}/{name}.tar")


@pytest.mark.parametrize(
    ("field", "value", "label"),
    [
        ("label", {"label": 7}, 7),
        ("label", {"label": "7"}, 7),
        ("label", {"label": " 007\n"}, 7),
        ("label", {"label": 7.0}, 7),
        ("label", {"label": [7]}, 7),
        ("label", {"label": [0, 0, 1, 0]}, 2),
        ("label", {"label": [0.0, 1.0]}, 1),
        ("label", {"label": [False, True, False]}, 1),
        ("annotations.label", {"annotations": {"label": 3}}, 3),
        ("annotations.0.label", {"annotations": [{"label": 4}]}, 4),
        ("a.b", {"a.b": 5, "a": {"b": 6}}, 5),
        ("1", [8, 9], 9),
    ],
)
def test_a_label_is_a_number_by_itself_as_text_or_one_hot(field: str, value: Any, label: int) -> None:
    assert Labels(field).read(json.dumps(value).encode()) == label


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b'{"label": -1}', "its label is no whole number from 0 on: -1"),
        (b'{"label": 1.5}', "no whole number from 0 on: 1.5"),
        (b'{"label": NaN}', "no whole number from 0 on: NaN"),
        (b'{"label": 1e400}', "no whole number from 0 on: Infinity"),
        (b'{"label": true}', "no number: true"),
        (b'{"label": null}', "no number: null"),
        (b'{"label": ""}', "no number: ''"),
        (b'{"label": "-3"}', "no whole number from 0 on: '-3'"),
        (b'{"label": 1234567890}', "no whole number from 0 on: 1234567890"),
        (b'{"label": {"id": 1}}', 'no number: {"id": 1}'),
        (b'{"label": []}', r"no number: \[\]"),
        (b'{"label": [1, 0, 1]}', "a list, and not of one 1 among zeros"),
        (b'{"label": [0, 0]}', "a list, and not of one 1 among zeros"),
        (b'{"label": [3, 4]}', "a list, and not of one 1 among zeros"),
        (b'{"id": 1, "url": "x"}', "its .json has no label: there are id, url"),
        (b"[]", "its .json has no label: there are no fields"),
        (b"3", "its .json has no label"),
        (b'{"label": 3', "its .json is no JSON"),
        (b"\xff\xfe", "its .json is no JSON"),
        (b"", "its .json is no JSON"),
        (b"[" * 100_000, "its .json is no JSON"),
    ],
)
def test_what_is_no_label_is_refused_with_what_is_there(data: bytes, said: str) -> None:
    with pytest.raises(NoLabel, match=said):
        Labels("label").read(data)


def test_shards_are_indexed_by_a_field(tmp_path: Path) -> None:
    """Whatever a .cls beside it says; a sample without it is bad."""
    members = [*with_json("a", {"x": {"id": 4}}), *with_json("b", {"x": {"id": "1"}}), ("a.cls", b"9")]
    (tmp_path / "train.tar").write_bytes(tar([*members, *with_json("c", {"x": {}}), *sample("d")]))
    where = dict.fromkeys(("train", "val", "test"), f"{tmp_path}/train.tar")
    made = index(str(tmp_path / "out"), "x", where, bad=0.5, label_field="x.id")
    assert read_index(str(tmp_path / "out"), made["splits"]["train"])[:, 3].tolist() == [4, 1]
    assert made["splits"]["train"]["skipped"]["train.tar"] == {
        "c": "its .json has no x.id: there are x",
        "d": "it has no label (.json); there is a .cls with a number in it, which is read without a label field",
    }
    with pytest.raises(DataError, match=r"4 of 4 samples are bad|holds no samples \(jpg, jpeg or png, and json\)"):
        index(str(tmp_path / "none"), "x", where, bad=1, label_field="y")


def test_labels_that_are_text_are_numbered_as_folders_are(tmp_path: Path) -> None:
    """By the alphabetical order of train's, however they come; names that it lacks, or numbers beside, are refused."""
    names = ["cat", "ant", "bee eater", "ant"]
    where = shards(tmp_path, *({"label": name} for name in names))
    where["val"] = shards(tmp_path, {"label": "cat"}, name="val")["val"]
    made = index(str(tmp_path / "out"), "x", where, label_field="label")
    assert read_manifest(str(tmp_path / "out"))["classes"] == ["ant", "bee eater", "cat"]
    assert labels(made) == 3
    assert read_index(str(tmp_path / "out"), made["splits"]["train"])[:, 3].tolist() == [2, 0, 1, 0]
    assert read_index(str(tmp_path / "out"), made["splits"]["val"])[:, 3].tolist() == [2]
    where["test"] = shards(tmp_path, {"label": "dog"}, name="test")["test"]
    with pytest.raises(DataError, match=r"test\.tar has the class dog, which train does not have"):
        index(str(tmp_path / "out"), "x", where, label_field="label")
    where["test"] = shards(tmp_path, {"label": "ant"}, {"label": 3}, name="test")["test"]
    with pytest.raises(DataError, match=r"label of some samples is text and of others a number: 'cat' and 3"):
        index(str(tmp_path / "out"), "x", where, label_field="label")


@pytest.mark.usefixtures("in_one_process")
def test_shards_are_made_of_others_by_a_field(tmp_path: Path) -> None:
    """They have .cls then, and the names of the classes."""
    where = shards(tmp_path, *({"label": name} for name in ("cat", "ant", "bee")))
    made = convert(str(tmp_path / "made"), "x", where, Options(), label_field="label")
    assert made["classes"] == ["ant", "bee", "cat"]
    assert sorted(read_index(str(tmp_path / "made"), made["splits"]["train"])[:, 3]) == [0, 1, 2]
    assert digest(read_manifest(str(tmp_path / "made"))) == digest(made)


@pytest.mark.parametrize(
    ("beside", "said"),
    [
        ([("json", b'{"width": 5, "meta": {"label": 3}}')], "in meta.label: if one is the label, `--label-field m"),
        ([("txt", b"a cat"), ("json", b'{"id": 3, "w": 5}')], "its .json has numbers in id, w: if one is the label"),
        (
            [("json", b'{"caption": "a"}'), ("txt", b"12\n")],
            "a .txt with a number in it, which has to be written as .cls",
        ),
        ([("json", b'{"caption": "a cat"}'), ("txt", b"a cat")], r"; there are \.json, \.txt"),
        ([("json", b"{")], r"; there are \.json"),
        ([], r"no label \(\.cls\)$"),
    ],
)
@pytest.mark.parametrize("cls", [False, True])
def test_where_labels_seem_to_be_is_told(beside: list[tuple[str, bytes]], said: str, cls: bool) -> None:
    """Of samples without one, and of those whose .cls holds no number."""
    members = [("k.jpg", PICTURE), *((f"k.{kind}", data) for kind, data in beside)]
    _, bad = scan(io.BytesIO(tar([*members, *([("k.cls", b"cat")] if cls else [])])), 0)
    why = "its label is no number: 'cat'" if cls else "it has no label (.cls)"
    assert bad["k"].startswith(why)
    assert (cls and not beside) or re.search(said, bad["k"])


def test_many_bad_samples_are_a_few_lines(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """And how many there are, with what to do, however many shards they are in."""
    where = shards(tmp_path, *({"label": number} for number in range(300)))
    with (
        caplog.at_level(logging.WARNING),
        pytest.raises(DataError, match=r"300 of 300 .*: it has no label \(\.cls\); its \.json .*`--label-field label`"),
    ):
        index(str(tmp_path / "out"), "x", where)
    assert len(caplog.records) == 6
    assert caplog.messages[-1].endswith("295 more are left out")
