"""Conversions of what is damaged or no source: left out, named and counted, or refused before anything is written."""

from __future__ import annotations

import errno
import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dualprune.stages.data.format import SPLITS, DataError
from dualprune.stages.data.make.convert import Options, convert
from tests.stages.conftest import jpeg
from tests.stages.data.test_convert import tree


def broken(folder: Path) -> dict[str, str]:
    """A tree with bad pictures of several kinds, and what is said of them."""
    place = tree(folder, {"train": 30}) / "train" / "ant"
    (place / "text.jpg").write_text("no picture")
    (place / "cut.png").write_bytes(b"\x89PNG\r\n")
    with io.BytesIO() as data:
        Image.new("1", (9000, 9000)).save(data, format="PNG")
        (place / "bomb.png").write_bytes(data.getvalue())
    return {"ant/text.jpg": "neither", "ant/cut.png": "neither", "ant/bomb.png": "9000 x 9000 pixels are more"}


@pytest.mark.usefixtures("in_one_process")
def test_bad_pictures_are_left_out_and_named(tmp_path: Path) -> None:
    """Up to the share that is allowed; beyond that nothing is made."""
    said = broken(tmp_path / "tree")
    train = {"train": str(tmp_path / "tree" / "train"), "test": str(tmp_path / "tree" / "train")}
    made = convert(str(tmp_path / "made"), "b", train, Options(held=10, bad=0.5), processes=1)
    assert sum(made["splits"][split]["samples"] for split in ("train", "val")) == 30
    for splits in (("train", "val"), ("test",)):
        skipped = [made["splits"][split]["skipped"].values() for split in splits]
        reasons = {where: why for parts in skipped for part in parts for where, why in part.items()}
        assert set(reasons) == set(said)
        assert all(said[where] in why for where, why in reasons.items())
    with pytest.raises(DataError, match=r"\d of \d+ samples are bad, such as ant/"):
        convert(str(tmp_path / "other"), "b", train, Options(held=10, bad=0.01), processes=1)
    assert not (tmp_path / "other" / "manifest.json").exists()


def left_out(manifest: dict[str, Any], split: str) -> list[tuple[str, str]]:
    """What was left out of a split, and why."""
    return [bad for part in manifest["splits"][split]["skipped"].values() for bad in part.items()]


@pytest.mark.usefixtures("in_one_process")
@pytest.mark.parametrize("size", [1, 1 << 20], ids=["a shard a sample", "one shard"])
def test_all_that_is_left_out_of_shards_is_counted(size: int, tmp_path: Path) -> None:
    """Where none of a shard is left, where names are cut alike, and what had no label."""
    for name, junk in (("train", 4), ("test", 0)):
        with tarfile.open(tmp_path / f"{name}.tar", "w") as file:
            for number in range(10):
                data = b"junk" if number < junk else jpeg(20, 20, number)
                for kind, content in (("jpg", data), ("cls", b"1")):
                    info = tarfile.TarInfo(f"{'n' * 110}{number}.{kind}")
                    info.size = len(content)
                    file.addfile(info, io.BytesIO(content))
            if junk:
                file.addfile(tarfile.TarInfo("lonely.jpg"))
    where = {"train": f"{tmp_path}/train.tar", "test": f"{tmp_path}/test.tar", "val": f"{tmp_path}/test.tar"}
    made = convert(str(tmp_path / "made"), "s", where, Options(shard_bytes=size, bad=0.46))
    assert (made["splits"]["train"]["samples"], made["splits"]["test"]["samples"]) == (6, 10)
    found = left_out(made, "train")
    assert len(found) == 5
    assert ("train.tar/lonely", "it has no label (.cls)") in found
    assert sum(f"train.tar/{'n' * 90}" in where for where, _ in found) == 4
    assert left_out(made, "val") == left_out(made, "test") == []
    with pytest.raises(DataError, match="5 of 11 samples are bad, such as"):
        convert(str(tmp_path / "other"), "s", where, Options(shard_bytes=size, bad=0.45))


@pytest.mark.usefixtures("in_one_process")
def test_none_may_be_bad(tmp_path: Path) -> None:
    """Where that is asked for; more may be, on the same command again, and no shard is written twice for that."""
    place = tree(tmp_path, {"train": 9}) / "train"
    (place / "ant" / "text.jpg").write_text("no picture")
    where = dict.fromkeys(SPLITS, str(place))
    with pytest.raises(DataError, match=r"1 of 10 samples are bad, such as ant/text\.jpg"):
        convert(str(tmp_path / "made"), "n", where, Options(bad=0))
    before = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "made").glob("*.tar")}
    made = convert(str(tmp_path / "made"), "n", where, Options(bad=0.1))
    after = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "made").glob("*.tar")}
    assert before
    assert before.items() <= after.items()
    assert convert(str(tmp_path / "made"), "n", where, Options(bad=0.2)) == made


REFUSED: dict[str, tuple[Callable[[Path], dict[str, str]], Options, str]] = {
    "a class that train lacks": (
        lambda folder: {"train": str(folder / "a"), "test": str(folder / "b")},
        Options(held=1),
        "b has the class dog, which train does not have",
    ),
    "no folders of classes": (
        lambda folder: {"train": str(folder / "a" / "cat"), "test": str(folder / "a")},
        Options(held=1),
        "is no tree of a folder for each class",
    ),
    "nothing there": (
        lambda folder: {"train": str(folder / "none"), "test": str(folder / "a")},
        Options(held=1),
        "is no tree of a folder for each class",
    ),
    "folders without pictures": (
        lambda folder: {"train": str(folder / "empty"), "test": str(folder / "a")},
        Options(held=1),
        "holds no pictures",
    ),
    "more held out than there are": (
        lambda folder: {"train": str(folder / "a"), "test": str(folder / "a")},
        Options(held=2),
        "2 samples can't be held out of 2",
    ),
    "no shard of that name": (
        lambda folder: {"train": str(folder / "a"), "test": f"{folder}/*.tar"},
        Options(held=1),
        "matches no file",
    ),
    "a tree beside train's shards": (
        lambda folder: {"train": f"{folder}/*.tar", "val": str(folder / "a"), "test": f"{folder}/*.tar"},
        Options(),
        r"\*\.tar say nothing of the class folders in .*/a; give shards for val too",
    ),
    "a class without a picture": (
        lambda folder: {"train": str(folder / "bare"), "test": str(folder / "a")},
        Options(held=1),
        "bare/bee holds no pictures, but would count as a class",
    ),
    "a link to a folder above": (
        lambda folder: {"train": str(folder / "a"), "test": str(folder / "circle")},
        Options(held=1),
        r"circle/ant/more/loop is a link to a folder that it is in",
    ),
    "a link to the tree": (
        lambda folder: {"train": str(folder / "round"), "test": str(folder / "a")},
        Options(held=1),
        r"round/whole is a link to a folder that it is in",
    ),
    "a picture that is not there": (
        lambda folder: {"train": str(folder / "lost"), "test": str(folder / "a")},
        Options(held=1),
        r"lost/ant/gone\.jpg is a link to nothing; remove it",
    ),
    "a pipe": (
        lambda folder: {"train": str(folder / "pipe"), "test": str(folder / "a")},
        Options(held=1),
        r"pipe/ant/2\.jpg is no regular file",
    ),
}


@pytest.mark.usefixtures("in_one_process")
@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case: str, tmp_path: Path) -> None:
    """With the reason, before anything is written."""
    pictures = ("a/ant/1.jpg", "a/cat/2.jpg", "b/ant/1.jpg", "b/dog/1.jpg", "bare/ant/1.jpg", "round/ant/1.jpg")
    for name in (
        *pictures,
        "circle/ant/more/1.jpg",
        "lost/ant/1.jpg",
        "pipe/ant/1.jpg",
        "empty/ant/readme.txt",
        "bare/bee/readme.txt",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(jpeg(20, 20, 0))
    links = {"circle/ant/more/loop": "..", "round/whole": ".", "lost/ant/gone.jpg": "/nowhere/1.jpg"}
    for name, target in links.items():
        (tmp_path / name).symlink_to(target)
    os.mkfifo(tmp_path / "pipe" / "ant" / "2.jpg")
    where, options, why = REFUSED[case]
    with pytest.raises(DataError, match=why):
        convert(str(tmp_path / "made"), "r", where(tmp_path), options, processes=1)
    assert not list((tmp_path / "made").glob("*.tar"))


@pytest.mark.parametrize("lost", ["ant", "more"])
def test_a_folder_that_cannot_be_read_is_refused(lost: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A class, or a folder in one: its pictures would be missing without a word."""
    place = tree(tmp_path / "tree", {"train": 9}) / "train"
    (place / "ant" / "more").mkdir()
    scandir = os.scandir

    def refusing(place: str) -> Any:
        if os.path.basename(place) == lost:
            raise PermissionError(errno.EACCES, "Permission denied", place)
        return scandir(place)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(DataError, match=rf"train/.*{lost} can't be read: Permission denied"):
        convert(str(tmp_path / "made"), "n", dict.fromkeys(SPLITS, str(place)), Options())
