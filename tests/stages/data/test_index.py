"""Shards that are there already: indexed where they lie; what is no sample is left out by name, or refused."""

from __future__ import annotations

import gzip
import io
import os
import re
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from dualprune.stages.data.format import DataError, digest, read_manifest
from dualprune.stages.data.format import labels as classes_there
from dualprune.stages.data.make.index import index, read_index
from dualprune.stages.data.make.samples import scan
from dualprune.stages.files.folder import Folder
from tests.stages.conftest import jpeg

PICTURE = jpeg(20, 20, 0)


def tar(members: Sequence[tuple[str, bytes]]) -> bytes:
    """A tar file as other programs write it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as file:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def sample(key: str, label: object = 3, kind: str = "jpg") -> list[tuple[str, bytes]]:
    """The members of a good sample."""
    return [(f"{key}.{kind}", PICTURE), (f"{key}.cls", str(label).encode())]


def plain(folder: Path, counts: Sequence[int] = (7, 1, 4)) -> Path:
    """A folder of plain WebDataset shards."""
    folder.mkdir()
    for number, n in enumerate(counts):
        members = [member for i in range(n) for member in sample(f"{number}-{i}", i)]
        (folder / f"train-{number}.tar").write_bytes(tar(members))
    (folder / "val-0.tar").write_bytes(tar(sample("v") + sample("w")))
    return folder


def patterns(folder: Path) -> dict[str, str]:
    """What `index` is told of such a folder."""
    return {split: f"{folder}/{name}-*.tar" for split, name in [("train", "train"), ("val", "val"), ("test", "val")]}


def test_shards_are_described_where_they_lie(tmp_path: Path) -> None:
    there = plain(tmp_path / "there")
    manifest = index(str(tmp_path / "here"), "plain", patterns(there))
    assert read_manifest(str(tmp_path / "here")) == manifest
    train = manifest["splits"]["train"]
    assert (train["samples"], train["format"]) == (12, "jpeg")
    assert [shard["samples"] for shard in train["shards"]] == [7, 1, 4]
    rows = read_index(str(tmp_path / "here"), train)
    assert rows[:, 0].tolist() == [0] * 7 + [1] + [2] * 4
    assert rows[:, 3].tolist() == [*range(7), 0, *range(4)]
    for shard, offset, size, _ in rows:
        assert (there / f"train-{shard}.tar").read_bytes()[offset : offset + size] == PICTURE


def test_the_sides_of_pictures_are_noted(tmp_path: Path) -> None:
    """Of some of train's, the least, the median and the largest: no part of the digest. What can't be read has none."""
    there = plain(tmp_path / "there")
    sizes = [(30, 9), (12, 40), (50, 50)]
    data = [jpeg(*size, 0, kind=kind) for size, kind in zip(sizes, ("JPEG", "PNG", "JPEG"), strict=True)]
    members = [m for n, one in enumerate([*data, b"bad"]) for m in ((f"{n}.jpg", one), (f"{n}.cls", b"3"))]
    (there / "train-0.tar").write_bytes(tar(members))
    where = patterns(there) | {"train": f"{there}/train-0.tar"}
    manifest = index(str(tmp_path / "here"), "sides", where)
    assert manifest["short_sides"] == [9, 12, 50]
    assert digest(manifest) == digest({**manifest, "short_sides": None})


def test_the_digest_is_of_what_shards_hold_and_not_of_where(tmp_path: Path) -> None:
    one = index(str(tmp_path / "1"), "a", patterns(plain(tmp_path / "a")))
    same = index(str(tmp_path / "2"), "b", patterns(plain(tmp_path / "b")))
    other = index(str(tmp_path / "3"), "c", patterns(plain(tmp_path / "c", (7, 1, 5))))
    assert digest(one) == digest(same) != digest(other)


def test_validation_is_held_out_of_training(tmp_path: Path) -> None:
    there = plain(tmp_path / "there")
    only = {split: pattern for split, pattern in patterns(there).items() if split != "val"}
    manifest = index(str(tmp_path / "a"), "plain", only, held=5)
    train, val = (read_index(str(tmp_path / "a"), manifest["splits"][split]) for split in ("train", "val"))
    assert (len(train), len(val)) == (7, 5)
    both = np.concatenate([train, val])
    assert len({tuple(row) for row in both}) == 12
    assert index(str(tmp_path / "b"), "plain", only, held=5) == manifest
    with pytest.raises(DataError, match="held"):
        index(str(tmp_path / "c"), "plain", patterns(there), held=5)
    for held in (12, 50):
        with pytest.raises(DataError, match=f"{held} samples can't be held out of 12"):
            index(str(tmp_path / "c"), "plain", only, held=held)


@pytest.mark.parametrize(
    ("members", "key", "why"),
    [
        ([("k.jpg", PICTURE)], "k", "no label"),
        ([("k.cls", b"1")], "k", "no picture"),
        (sample("k", "cat"), "k", "no number"),
        (sample("k", -1), "k", "no whole number from 0 on"),
        (sample("k", ""), "k", "no number"),
        (sample("k") + sample("k"), "k", "more than once"),
        (sample("../k"), "../k", "leads out"),
        (sample("a/../../k"), "a/../../k", "leads out"),
        (sample("/etc/k"), "/etc/k", "leads out"),
        ([("k.webp", PICTURE), ("k.json", b"1")], "k", "no picture or label of a kind that is read: webp, json"),
        ([("k.image.jpg", PICTURE), ("k.label.cls", b"1")], "k", "a kind that is read: image.jpg, label.cls"),
        ([*sample("k.1"), ("k.2.txt", b"")], "k", "a kind that is read: 1.jpg, 1.cls, 2.txt"),
    ],
)
def test_what_is_no_sample_is_left_out_by_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, members: list[tuple[str, bytes]], key: str, why: str
) -> None:
    rows, bad = scan(io.BytesIO(tar([*sample("good"), *members, *sample("other", 1, "PNG")])), 7)
    assert rows[:, [0, 3]].tolist() == [[7, 3], [7, 1]]
    assert list(bad) == [key]
    assert why in bad[key]
    there = plain(tmp_path / "there")
    (there / "train-9.tar").write_bytes(tar(members))
    manifest = index(str(tmp_path / "here"), "plain", patterns(there))
    assert manifest["splits"]["train"]["samples"] == 12
    assert f"train-9.tar: {key} is left out" in caplog.text
    (there / "train-8.tar").write_bytes(tar(sample("x", "dog")))
    with pytest.raises(DataError, match=r"2 of 2 samples are bad, such as x in .*train-8\.tar: its label"):
        index(str(tmp_path / "here"), "plain", {"train": f"{there}/train-[89].tar"})
    with pytest.raises(DataError, match="1 of 13 samples are bad"):
        index(str(tmp_path / "here"), "plain", {"train": f"{there}/train-[0129].tar"}, bad=0)


@pytest.mark.parametrize(
    ("members", "told"),
    [
        ([("d.1/a.txt", b""), ("b.json", b""), ("c", b"")], r"there are files without an ending, json, txt$"),
        ([("a.webp", b""), ("a.json", b"")], r"there are json, webp; a in .*/train-0\.tar: no picture or label"),
        ([], "there are no files$"),
    ],
)
def test_a_split_without_samples_is_refused_with_what_is_there(
    tmp_path: Path, members: list[tuple[str, bytes]], told: str
) -> None:
    """Even where all may be bad."""
    (tmp_path / "train-0.tar").write_bytes(tar(members))
    with pytest.raises(DataError, match=rf"train-\*\.tar holds no samples \(jpg, jpeg or png, and cls\): {told}"):
        index(str(tmp_path / "here"), "plain", {"train": f"{tmp_path}/train-*.tar"}, bad=1)


def test_other_members_and_long_names_are_no_trouble() -> None:
    members = [*sample("d/" + "n" * 200), ("d/readme", b"x"), ("k.json", b"{}"), *sample("k", " 5\n")]
    rows, bad = scan(io.BytesIO(tar(members)), 0)
    assert rows[:, 3].tolist() == [3, 5]
    assert bad == {}


def test_what_macos_puts_into_a_tar_file_is_passed_over() -> None:
    """AppleDouble files are named for those that they are beside, and hold no picture."""
    beside = [(name, b"\0\5\x16\7") for name in ("./._k.jpg", "./._k.cls", "__MACOSX/._k.jpg", "./.DS_Store")]
    rows, bad = scan(io.BytesIO(tar([*beside, *sample("./k")])), 0)
    assert rows[:, 3].tolist() == [3]
    assert bad == {}


def test_pictures_with_dots_in_their_names_are_counted_each(tmp_path: Path) -> None:
    """Though WebDataset's rule gives them all one key; what is said of one is short."""
    dotted = [member for i in range(200) for member in sample(f"img.{i:03d}")]
    rows, bad = scan(io.BytesIO(tar([*sample("good"), *dotted])), 0)
    assert len(rows) == 1
    assert list(bad) == [f"img.{i:03d}.jpg" for i in range(200)]
    assert max(map(len, bad.values())) < 200
    (tmp_path / "train.tar").write_bytes(tar([*sample("good"), *dotted]))
    with pytest.raises(DataError, match=r"200 of 201 samples are bad, such as img\.000\.jpg in "):
        index(str(tmp_path / "here"), "dotted", {"train": f"{tmp_path}/train.tar"}, bad=0.5)


@pytest.mark.parametrize(("labels", "bad", "count"), [([5, 0, 2], 0, 6), ([5, 0, 2], 0.4, 3), ([5], 1, 6)])
def test_classes_are_counted_by_labels_that_are_not_bad(
    tmp_path: Path, labels: list[int], bad: float, count: int
) -> None:
    """A wrong label among many is no class; the digest is of the shards alone."""
    (tmp_path / "train.tar").write_bytes(tar([m for n, label in enumerate(labels) for m in sample(str(n), label)]))
    manifest = index(str(tmp_path), "l", {"train": f"{tmp_path}/train.tar"}, bad=bad)
    assert classes_there(manifest) == count
    assert digest(manifest) == digest({**manifest, "labels": 1})


@pytest.mark.parametrize(("zeros", "more"), [(0, True), (300_000, True), (300_000, False)])
def test_what_follows_the_end_mark_is_zeros(tmp_path: Path, zeros: int, more: bool) -> None:
    """Files that were put together (`cat a.tar b.tar`) would be read in part; long padding is none of that."""
    data = tar(sample("a")) + bytes(zeros) + (tar(sample("b")) if more else b"")
    (tmp_path / "train.tar").write_bytes(data)
    if more:
        with pytest.raises(
            DataError, match=r"train\.tar is no whole tar file: it has an end mark .*, and more follows"
        ):
            index(str(tmp_path), "cat", {"train": f"{tmp_path}/train.tar"})
    else:
        assert index(str(tmp_path), "a", {"train": f"{tmp_path}/train.tar"})["splits"]["train"]["samples"] == 1


def test_labels_beyond_those_of_train_are_refused(tmp_path: Path) -> None:
    """Up to as many as may be bad: a network of train's classes could not be measured on them."""
    there = plain(tmp_path / "there")
    (there / "val-0.tar").write_bytes(tar([*sample("v"), *sample("w", 7)]))
    index(str(tmp_path / "here"), "plain", patterns(there))
    (there / "val-0.tar").write_bytes(tar([*sample("v"), *sample("w", 7), *sample("x", 9)]))
    beyond = r"val-\*\.tar: 2 of 3 samples have labels from 7 to 9, and those of train end at 6$"
    with pytest.raises(DataError, match=beyond):
        index(str(tmp_path / "here"), "plain", patterns(there))
    index(str(tmp_path / "here"), "plain", patterns(there), bad=0.7)


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("pipe", "can't be read: it is no regular file"),
        ("folder", "can't be read: it is no regular file"),
        ("link", "can't be read: No such file or directory"),
        ("gzip", "is compressed by gzip; unpack it"),
    ],
)
def test_what_is_no_tar_file_is_refused_by_name(tmp_path: Path, kind: str, why: str) -> None:
    """And not waited for."""
    there = plain(tmp_path / "there")
    file = there / "train-9.tar"
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "folder":
        file.mkdir()
    elif kind == "link":
        file.symlink_to("nowhere")
    else:
        file.write_bytes(gzip.compress(tar(sample("a"))))
    with pytest.raises(DataError, match=f"{re.escape(str(file))} {why}"):
        index(str(tmp_path / "here"), "plain", patterns(there))


@pytest.mark.parametrize("cut", [100, 600, 1024, 2000, "in the middle", "the end mark", "a header"])
def test_a_damaged_shard_is_refused_by_name(tmp_path: Path, cut: int | str) -> None:
    there = plain(tmp_path / "there")
    file = there / "train-0.tar"
    data = bytearray(file.read_bytes())
    rows, _ = scan(io.BytesIO(data), 0)
    if cut == "a header":
        data[int(rows[3, 1]) - 400] ^= 1
    else:
        # Its last member is a label, of one block.
        ends = {
            "in the middle": int(rows[3, 1]),
            "the end mark": int(rows[-1, 1]) + 512 * (-(-len(PICTURE) // 512) + 2),
        }
        del data[ends[cut] if isinstance(cut, str) else cut :]
    file.write_bytes(data)
    with pytest.raises(DataError, match=r"train-0\.tar is no whole tar"):
        index(str(tmp_path / "here"), "plain", patterns(there))
    assert not (tmp_path / "here" / "manifest.json").exists()


def test_no_shards_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing-\*\.tar matches no file"):
        index(str(tmp_path), "none", {"train": f"{tmp_path}/nothing-*.tar"})


def test_shards_in_memory_or_on_s3_are_described_alike(tmp_path: Path, place: Folder) -> None:
    there = plain(tmp_path / "there")
    for file in there.iterdir():
        place.write(file.name, file.read_bytes())
    remote = {split: f"{place.url}/{pattern.rpartition('/')[2]}" for split, pattern in patterns(there).items()}
    index(str(tmp_path / "here"), "plain", remote)
    assert digest(read_manifest(str(tmp_path / "here"))) == digest(index(str(tmp_path / "2"), "p", patterns(there)))
    place.remove("train-1.tar")
    with pytest.raises(DataError, match=r"train-1\.tar is missing"):
        read_manifest(str(tmp_path / "here"))
