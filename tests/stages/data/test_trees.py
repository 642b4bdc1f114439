"""Trees as people have them: hidden and system folders, many formats, odd names, what is no picture."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
from PIL import Image

from dualprune.stages.data.format import SPLITS, DataError, digest, read_manifest
from dualprune.stages.data.make.convert import Options, convert
from dualprune.stages.data.make.trees import tree as listed
from dualprune.stages.files.folder import Folder
from tests.stages.conftest import jpeg
from tests.stages.data.test_convert import inside, tree

SYSTEMS = (
    *(".ipynb_checkpoints", ".git", "__MACOSX", "@eaDir", "#recycle", "lost+found", "$RECYCLE.BIN"),
    *("@sharebin", "@tmp", "CVS", "Network Trash Folder", "Temporary Items", "TheVolumeSettingsFolder", "RECYCLER"),
    *("~snapshot", "FOUND.001"),
    *("System Volume Information", ".Trash-1000", "__pycache__"),
)
LEFT_ABOUT = (".DS_Store", "Thumbs.db", "desktop.ini", "._picture.0.JPEG", ".hidden.jpg", "notes.txt", "no_ending")


def littered(place: Path) -> None:
    """What systems and people leave in a tree, with and without pictures in it."""
    for name in SYSTEMS:
        for folder in (place / name, place / name / "ant", place / "ant" / name):
            folder.mkdir()
            (folder / "picture.jpg").write_bytes(jpeg(20, 20, 0))
    for name in LEFT_ABOUT:
        for folder in (place, place / "ant"):
            (folder / name).write_bytes(b"\0\5\x16\7")
    (place / "stray.jpg").write_bytes(jpeg(20, 20, 0))


@pytest.mark.usefixtures("in_one_process")
def test_what_is_hidden_or_a_systems_is_no_class_and_no_sample(tmp_path: Path, place: Folder) -> None:
    """On a disk and on a service: shards are those of a clean tree, and what was passed over is counted."""
    clean = tree(tmp_path / "clean", {"train": 9}) / "train"
    made = convert(str(tmp_path / "made"), "t", dict.fromkeys(SPLITS, str(clean)), Options())
    assert "passed" not in made
    littered(clean)
    root = str(clean)
    if not place.local:
        for file in clean.rglob("*"):
            if file.is_file():
                place.write(f"train/{file.relative_to(clean).as_posix()}", file.read_bytes())
        root = f"{place.url}/train"
    again = convert(str(tmp_path / "again"), "t", dict.fromkeys(SPLITS, root), Options())
    assert again["classes"] == made["classes"]
    assert digest(again) == digest(made)
    passed = read_manifest(str(tmp_path / "again"))["passed"]["train"]
    assert passed.keys() == {
        *(f"{name}/" for name in SYSTEMS),
        *(".DS_Store", "Thumbs.db", "desktop.ini", "._picture.0.JPEG", ".hidden.jpg"),
        *("*.txt", "files without an ending", "pictures in no class's folder"),
    }
    assert (passed["*.txt"], passed["Thumbs.db"], passed["pictures in no class's folder"]) == (2, 2, 1)


@pytest.mark.usefixtures("in_one_process")
def test_a_tree_of_nothing_but_systems_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train" / ".git").mkdir(parents=True)
    (tmp_path / "train" / "1.jpg").write_bytes(jpeg(20, 20, 0))
    with pytest.raises(DataError, match=r"no tree of a folder for each class: .*: there are .*pictures in no class's"):
        listed(str(tmp_path / "train"), [])


@pytest.mark.usefixtures("in_one_process")
def test_pictures_by_any_name(tmp_path: Path) -> None:
    """Those that can be read are, whatever their names end with; the others are bad samples, by name."""
    place = tmp_path / "train"
    picture = Image.open(io.BytesIO(jpeg(30, 40, 1)))
    names = {
        "a.jfif": "JPEG",
        "b.JPE": "JPEG",
        "c.GIF": "GIF",
        "d.Webp": "WEBP",
        "e.bmp": "BMP",
        "f.TIF": "TIFF",
        "g.pnm": "PPM",
        "h.avif": "AVIF",
        "i.jp2": "JPEG2000",
        "j.jpg": "PNG",
        "k.png": "JPEG",
        "l.jpeg": "WEBP",
        "m.Apng": "PNG",
    }
    for label in ("ant", "bee"):
        (place / label).mkdir(parents=True)
        for name, kind in names.items():
            picture.save(place / label / name, format=kind)
    bad = {"bee/n.heic": "neither", "bee/o.SVG": "neither", "bee/p.jpg": "it is empty", "bee/q.CR2": "neither"}
    for name in bad:
        (place / name).write_bytes(b"" if name.endswith("jpg") else b"\0\0\0\x18ftypheic")
    made = convert(str(tmp_path / "made"), "p", dict.fromkeys(SPLITS, str(place)), Options(bad=0.2))
    split = made["splits"]["train"]
    assert split["samples"] == 2 * len(names)
    found = {where: why for part in split["skipped"].values() for where, why in part.items()}
    assert found.keys() == bad.keys()
    assert all(bad[where] in why for where, why in found.items())
    kinds = {key[9]: data[:3] for key, data, _ in inside(tmp_path / "made", made, "train")}
    assert {name for name, start in kinds.items() if start == b"\xff\xd8\xff"} == set("abk")
    assert {name for name, start in kinds.items() if start == b"\x89PN"} == set("cdefghijlm")
    with pytest.raises(DataError, match="4 of 30 samples are bad"):
        convert(str(tmp_path / "other"), "p", dict.fromkeys(SPLITS, str(place)), Options(bad=0.1))


@pytest.mark.usefixtures("in_one_process")
@pytest.mark.parametrize("resize", [None, 128])
def test_cut_pictures_are_found_when_shards_are_made(tmp_path: Path, resize: int | None) -> None:
    """Though they need no change. Who is in a hurry goes without, and gets them; a folder is of one of the two."""
    place = tree(tmp_path, {"train": 12}) / "train"
    whole = convert(str(tmp_path / "whole"), "c", dict.fromkeys(SPLITS, str(place)), Options(resize=resize))
    assert "check" not in whole["made"]
    for number, kind in enumerate(("JPEG", "PNG")):
        data = jpeg(60, 60, number, kind=kind)
        (place / "ant" / f"z.{kind}").write_bytes(data[: len(data) // 2])
    where = dict.fromkeys(SPLITS, str(place))
    made = convert(str(tmp_path / "made"), "c", where, Options(resize=resize, bad=0.2))
    found = {where for part in made["splits"]["train"]["skipped"].values() for where in part}
    assert found == {"ant/z.JPEG", "ant/z.PNG"}
    assert made["splits"]["train"]["samples"] == 12
    fast = convert(str(tmp_path / "fast"), "c", where, Options(resize=resize, check=False))
    assert fast["splits"]["train"]["samples"] == 14
    with pytest.raises(DataError, match="with other options"):
        convert(str(tmp_path / "made"), "c", where, Options(resize=resize, check=False))


def test_a_tree_that_is_a_folder_deeper_is_no_tree_of_one_class(tmp_path: Path) -> None:
    """As some archives are unpacked: `train/train/ant`. One class by itself may be."""
    place = tree(tmp_path / "there", {"train": 9}) / "train"
    (tmp_path / "train").mkdir()
    place.rename(tmp_path / "train" / "train")
    with pytest.raises(
        DataError, match=r"one folder, train, with others in it, such as ant and bee.*, give .*/train/train"
    ):
        listed(str(tmp_path / "train"), [])
    assert listed(str(tmp_path / "train" / "train"), [])[1] == ["ant", "bee.eater", "cat"]
    (tmp_path / "one" / "ant").mkdir(parents=True)
    (tmp_path / "one" / "ant" / "1.png").touch()
    assert listed(str(tmp_path / "one"), [])[1] == ["ant"]


def test_links_that_lead_nowhere_are_told(tmp_path: Path) -> None:
    (tmp_path / "ant").mkdir()
    (tmp_path / "ant" / "1.jpg").symlink_to("nowhere.jpg")
    with pytest.raises(DataError, match=r"ant/1\.jpg is a link to nothing; remove it"):
        listed(str(tmp_path), [])
    os.unlink(tmp_path / "ant" / "1.jpg")
    (tmp_path / "bee").symlink_to("nowhere")
    with pytest.raises(DataError, match="/bee is a link to nothing; remove it"):
        listed(str(tmp_path), [])
    os.unlink(tmp_path / "bee")
    (tmp_path / "ant" / "1.npy").touch()
    with pytest.raises(DataError, match=r"holds no pictures: there are \*\.npy"):
        listed(str(tmp_path), [])
