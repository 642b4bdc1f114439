"""`dualprune shards` and `dualprune index`: where splits are looked for, what is refused, and what is told."""

from __future__ import annotations

import io
import json
import logging
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from dualprune.pipeline import output
from dualprune.pipeline.cli import main as cli
from dualprune.stages.data.format import digest, read_manifest
from dualprune.stages.data.make.builtin import digits
from dualprune.stages.data.shards import Split, write
from dualprune.stages.files.folder import Folder
from tests.stages.conftest import jpegs


def told(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = output.DONE) -> tuple[list[str], str]:
    """What a command prints: lines, and what goes to the error output in one line."""
    assert cli.main([str(argument) for argument in arguments]) == code
    printed = capsys.readouterr()
    return printed.out.splitlines(), " ".join(printed.err.split())


def pictures(folder: Path, split: str, count: int = 6) -> None:
    """A folder of class folders."""
    for number, (data, label) in enumerate(jpegs(count)):
        place = folder / split / f"n{label}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number}.jpg").write_bytes(data)


def plain(folder: Path, *names: str) -> None:
    """Shards as others write them, of nine samples each, under these names."""
    made = folder.parent / "made"
    write(str(made), "plain", dict.fromkeys(("train", "val", "test"), jpegs(9)))
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes((made / "train-000000.tar").read_bytes())


@pytest.mark.usefixtures("in_one_process")
def test_a_tree(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As ImageNet's, with a picture that can't be read; the same command again has nothing to do."""
    pictures(tmp_path / "tree", "train", 30)
    pictures(tmp_path / "tree", "val")
    (tmp_path / "tree" / "train" / "n0" / "bad.jpg").write_text("bad")
    command = ("shards", tmp_path / "tree", tmp_path / "out", "--held", 8, "--resize", 32, "--processes", 1, "--json")
    for _ in range(2):
        lines, _ = told(capsys, *command)
        shown = read_manifest(str(tmp_path / "out"))["splits"]
        assert json.loads(lines[-1]) == {
            "shards": str(tmp_path / "out"),
            "samples": {split: shown[split]["samples"] for split in ("train", "val", "test")},
        }
        assert shown["train"]["samples"] + shown["val"]["samples"] == 30
        assert shown["test"]["samples"] == 6


@pytest.mark.usefixtures("in_one_process")
def test_what_was_left_out_and_passed_over_is_told_in_a_few_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first ones, and how many more; without a check, cut pictures go in."""
    for split in ("train", "val", "test"):
        pictures(tmp_path / "tree", split, 30)
    (tmp_path / "tree" / "train" / ".ipynb_checkpoints").mkdir()
    place = tmp_path / "tree" / "train" / "n0"
    for number in range(8):
        (place / f"cut{number}.jpg").write_bytes(jpegs(1)[0][0][:-300])
        (place / f"note.{number}txt").touch()
    lines, _ = told(capsys, "shards", tmp_path / "tree", tmp_path / "out", "--processes", 1, "--bad", 0.3)
    text = [line for line in lines if line.startswith("train: ")]
    assert sum("left out n0/cut" in line for line in text) == 5
    assert f"train: left out 3 more, which {tmp_path}/out/manifest.json lists" in text
    passed = next(line for line in text if "passed over, by their names: " in line)
    assert ".ipynb_checkpoints/ (1), " in passed
    assert passed.endswith(", and 4 other kinds")
    assert text[-1].startswith("train: 30 samples")
    assert text[-1].endswith(", 8 left out")
    lines, _ = told(capsys, "shards", tmp_path / "tree", tmp_path / "fast", "--processes", 1, "--no-check")
    assert any(line.startswith("train: 38 samples") for line in lines)


@pytest.mark.usefixtures("in_one_process")
def test_pictures_of_more_pixels_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As many as asked for; of one that is larger it says how large it is."""
    for split in ("train", "val", "test"):
        pictures(tmp_path / "tree", split)
    Image.new("RGB", (300, 200)).save(tmp_path / "tree" / "train" / "n0" / "large.jpg")
    command = ("shards", tmp_path / "tree", tmp_path / "out", "--processes", 1, "--bad", 0.2, "--max-pixels")
    lines, _ = told(capsys, *command, 59_999)
    assert "n0/large.jpg: 300 x 200 pixels are more than max_pixels (59999)" in " ".join(lines)
    assert "train: 6 samples" in " ".join(lines)
    _, said = told(capsys, *command, 60_000, code=output.BAD_INPUT)
    assert "with other options; give another folder" in said
    lines, _ = told(capsys, *command[:2], tmp_path / "all", *command[3:], 60_000)
    assert "train: 7 samples" in " ".join(lines)


@pytest.mark.parametrize(
    ("names", "options"),
    [
        (["a-train-0.tar", "a-train-1.tar", "a-val-0.tar", "a-test-0.tar"], []),
        (["latest-train-0.tar", "latest-train-1.tar", "latest-Validation-0.tar", "latest-test-0.tar"], []),
        (["train-0.tar", "train-1.tar", "val.tar", "test.tar", "trainval-0.tar", "latest.tar"], []),
        (["train/0.tar", "train/1.tar", "val/0.tar", "test/0.tar"], []),
        (
            ["0.tar", "1.tar", "2.tar", "3.tar"],
            ["--split", "train=[01].tar", "--split", "val=2.tar", "--split", "test=3.tar"],
        ),
    ],
    ids=["by name", "by a whole word", "with others there", "by folder", "as given"],
)
def test_an_index_of_shards(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], names: list[str], options: list[str]
) -> None:
    """Beside them or elsewhere; nothing is copied."""
    plain(tmp_path / "there", *names)
    lines, _ = told(capsys, "index", tmp_path / "there", tmp_path / "here", *options)
    assert [line.split(" (")[0] for line in lines[:3]] == [
        "train: 18 samples in 2 shards",
        "val: 9 samples in 1 shard",
        "test: 9 samples in 1 shard",
    ]
    assert lines[3] == f"to train on them: data: {{shards: {tmp_path}/here}}"
    assert not list((tmp_path / "here").glob("*.tar"))


def test_an_index_of_labels_in_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where they seem to be is told in a few lines, and read from there if that is asked for."""
    for name in ("train", "val", "test"):
        (tmp_path / "there").mkdir(exist_ok=True)
        with tarfile.open(tmp_path / "there" / f"{name}.tar", "w") as file:
            for number, (data, label) in enumerate(jpegs(200)):
                for kind, content in (("jpg", data), ("json", json.dumps({"w": 9, "ann": {"label": label}}).encode())):
                    info = tarfile.TarInfo(f"{number}.{kind}")
                    info.size = len(content)
                    file.addfile(info, io.BytesIO(content))
    _, error = told(capsys, "index", tmp_path / "there", tmp_path / "here", code=output.BAD_INPUT)
    assert "200 of 200 samples are bad, such as 0 in " in error
    assert (
        "it has no label (.cls); its .json has numbers in ann.label: if one is the label, `--label-field ann.label`"
        in error
    )
    assert len(error) < 3000
    lines, _ = told(capsys, "index", tmp_path / "there", tmp_path / "here", "--label-field", "ann.label")
    assert lines[0].startswith("train: 200 samples in 1 shard")
    told(capsys, "shards", tmp_path / "there", tmp_path / "made", "--label-field", "ann.label", "--processes", 1)
    assert read_manifest(str(tmp_path / "made"))["labels"] == 3


def test_held_out_of_shards(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is called val is for the test then."""
    plain(tmp_path / "there", "train-0.tar", "val-0.tar")
    lines, _ = told(capsys, "index", tmp_path / "there", tmp_path / "there", "--held", 2, "--json")
    assert json.loads(lines[-1])["samples"] == {"train": 7, "val": 2, "test": 9}


@pytest.mark.usefixtures("in_one_process")
@pytest.mark.parametrize("options", [["test=val"], ["test=val", "train=train"]])
def test_held_where_the_test_has_no_labels(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As ImageNet's on Kaggle: what is given for the test is not looked for, nor is val."""
    pictures(tmp_path / "tree", "train", 9)
    pictures(tmp_path / "tree", "val")
    (tmp_path / "tree" / "test").mkdir()
    (tmp_path / "tree" / "test" / "1.jpg").write_bytes(jpegs(1)[0][0])
    splits = [part for option in options for part in ("--split", option)]
    command = ("shards", tmp_path / "tree", tmp_path / "out", "--held", 2, "--json", "--processes", 1, *splits)
    lines, _ = told(capsys, *command)
    assert json.loads(lines[-1])["samples"] == {"train": 7, "val": 2, "test": 6}


@pytest.mark.usefixtures("in_one_process")
@pytest.mark.parametrize(("given", "count"), [("train=train", 9), ("train=train/*.tar", 18)])
def test_shards_beside_class_folders(
    given: str, count: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Which are meant has to be said: a tar file may be left over from when it was unpacked."""
    pictures(tmp_path / "tree", "train", 9)
    plain(tmp_path / "tree", "train/0.tar", "train/1.tar", "val-0.tar", "test-0.tar")
    command = ("shards", tmp_path / "tree", tmp_path / "out", "--processes", 1)
    _, error = told(capsys, *command, code=output.BAD_INPUT)
    assert "tree/train holds shards (*.tar) and folders, such as n0; `--split train=train` takes" in error
    lines, _ = told(capsys, *command, "--split", given)
    assert any(line.startswith(f"train: {count} samples") for line in lines)


@pytest.mark.parametrize("name", ["[v2]", "[/v2]", "a, b: c", "é"])
def test_any_folder_is_told_as_yaml_wants_it(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain(tmp_path / "there", "train-0.tar", "val-0.tar", "test-0.tar")
    lines, _ = told(capsys, "index", tmp_path / "there", tmp_path / name)
    assert yaml.safe_load(lines[-1].removeprefix("to train on them: ")) == {"data": {"shards": f"{tmp_path}/{name}"}}


@pytest.mark.parametrize("content", ["hello", "", "[1]", "{}"])
@pytest.mark.parametrize(
    "source", [["index", "tars", "--held", "2"], ["shards", "tree", "--held", "2"], ["shards", "digits"]]
)
def test_a_manifest_of_others_is_refused(
    content: str, source: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it is, and it is left as it is."""
    monkeypatch.chdir(tmp_path)
    pictures(tmp_path / "tree", "train")
    pictures(tmp_path / "tree", "val")
    plain(tmp_path / "tars", "train-0.tar", "test-0.tar")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "manifest.json").write_text(content)
    _, error = told(capsys, *source, "out", code=output.BAD_INPUT)
    assert "out/manifest.json" in error or "out holds shards" in error
    assert (tmp_path / "out" / "manifest.json").read_text() == content


def test_a_built_in_data_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The shards are those that a run would write itself."""
    lines, _ = told(capsys, "shards", "digits", tmp_path / "out")
    assert lines[0].startswith("train: 1077 samples in 1 shard (")
    manifest = read_manifest(str(tmp_path / "out"))
    assert digest(manifest) == digest(write(str(tmp_path / "own"), "digits", digits(None)))
    assert np.array_equal(
        Split(str(tmp_path / "out"), manifest["splits"]["val"]).labels, [label for _, label in digits(None)["val"]]
    )
    again, _ = told(capsys, "shards", "digits", tmp_path / "out")
    assert again == lines


def test_a_built_in_data_set_that_was_cut_off_is_written_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over what it left; the shards of others, under the same names, stay as they are."""

    def cut_off(url: str, *_: object) -> None:
        for name in ("train-000000.tar", "val-000000.tar.0123abcd.part"):
            (Path(url) / name).write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("dualprune.stages.data.shards.write", cut_off)
        told(capsys, "shards", "digits", tmp_path / "out", code=output.STOPPED)
    told(capsys, "shards", "digits", tmp_path / "out")
    told(capsys, "shards", "digits", tmp_path / "whole")
    files = [{file.name: file.read_bytes() for file in (tmp_path / name).iterdir()} for name in ("out", "whole")]
    assert files[0] == files[1]
    plain(tmp_path / "theirs", "train-000000.tar")
    before = (tmp_path / "theirs" / "train-000000.tar").read_bytes()
    told(capsys, "shards", "digits", tmp_path / "theirs", code=output.BAD_INPUT)
    assert {file.name: file.read_bytes() for file in (tmp_path / "theirs").iterdir()} == {"train-000000.tar": before}


def test_all_that_is_left_out_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Though it has one name in two shards, and that is no UTF-8."""
    caplog.set_level(logging.ERROR)  # pytest-xdist can't carry the name from its processes
    plain(tmp_path / "there", "train-0.tar", "train-1.tar", "val-0.tar", "test-0.tar")
    for number in range(2):
        with tarfile.open(tmp_path / "there" / f"train-{number}.tar", "a") as file:
            file.addfile(tarfile.TarInfo(os.fsdecode(b"caf\xe9.jpg")))
    out = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(out, encoding="utf-8", write_through=True))
    arguments = ["index", str(tmp_path / "there"), str(tmp_path / "here"), "--bad"]
    assert cli.main([*arguments, "0.5"]) == output.DONE
    lines = out.getvalue().decode().splitlines()
    assert lines[:2] == ["train: left out caf\\udce9: it has no label (.cls)"] * 2
    assert lines[2].endswith(", 2 left out")
    assert cli.main([*arguments, "0"]) == output.BAD_INPUT


SECRET = "http://joe:secret@127.0.0.1/x"

REFUSED: dict[str, tuple[list[str], list[str]]] = {
    "no test": (
        ["shards", "tree", "out"],
        ["tree has nothing for test: it holds a, train, val.", "--split test=", "--held N"],
    ),
    "no val": (["index", "tars", "out"], ["has nothing for val", "--held N"]),
    "nothing": (["shards", "nowhere", "out"], ["there is no folder nowhere"]),
    "nothing in it": (["shards", "bare", "out"], ["nothing for train and val and test", "it holds nothing"]),
    "a file": (["index", "tars/train-0.tar", "out"], ["tars/train-0.tar is a file; give the folder that it is in"]),
    "val twice": (
        ["index", "tars", "out", "--held", "3", "--split", "val=train-0.tar"],
        ["leave out --held, or say with"],
    ),
    "an index of a tree": (["index", "tree", "out", "--held", "3"], ["tree/train is no pattern of shards"]),
    "an index over a manifest": (["index", "made", "made"], ["made holds shards with a manifest of their own"]),
    "resized digits": (["shards", "digits", "out", "--resize", "9"], ["--resize is for trees and shards"]),
    "unchecked digits": (["shards", "digits", "out", "--no-check"], ["--no-check is for trees and shards"]),
    "labels of a tree": (
        ["shards", "tree", "out", "--held", "3", "--label-field", "x"],
        ["--label-field is for shards; tree is a tree"],
    ),
    "bounded digits": (["shards", "digits", "out", "--max-pixels", "9"], ["--max-pixels is for trees and shards"]),
    "a folder of a tree": (
        ["shards", "tree", "out", "--folder", "x"],
        ["--folder is for mnist and cifar10; tree is a"],
    ),
    "a folder of digits": (["shards", "digits", "out", "--folder", "x"], ["--folder is for mnist and cifar10; digits"]),
    "mnist that is not there": (["shards", "mnist", "out", "--folder", "tree"], ["train-images-idx3-ubyte"]),
    "a name of two splits": (
        ["index", "mixed", "out"],
        ["mixed/train-or-val.tar may be of train or val", "--split NAME=PATTERN"],
    ),
    "a folder that can't be made": (["index", "tars", "tars/train-0.tar/x", "--held", "2"], ["can't be made: Not a"]),
    "a folder below a file": (["shards", "tree", "tree/a/x", "--held", "2"], ["the folder tree/a/x can't be made"]),
    "digits below a file": (["shards", "digits", "tree/a/x"], ["the folder tree/a/x can't be made"]),
    "another one's folder": (["shards", "digits", "tree"], ["tree holds a and more; give an empty folder"]),
    "a table without a label": (["shards", "tables", "out"], ["--label COLUMN (classes) or --target COLUMN"]),
    "a table alone": (["shards", "tables/train.csv", "out", "--label", "y"], ["is one table: `--cut 0.1,0.1`"]),
    "a resized table": (["shards", "tables", "out", "--label", "y", "--resize", "9"], ["--resize is for pictures"]),
    "a label of a tree": (
        ["shards", "tree", "out", "--held", "3", "--label", "y"],
        ["--label is for tables (.csv, .tsv, .jsonl), and tree is none"],
    ),
    "two tables of a split": (["shards", "twice", "out", "--label", "y"], ["twice/dev.csv or val.csv may be of val"]),
    "a table beside a tree": (
        ["shards", "tables", "out", "--label", "y", "--split", "val=../tree/val"],
        ["tables/../tree/val is no table (.csv, .tsv, .jsonl), and others are"],
    ),
    "cut and held": (["shards", "tree", "out", "--cut", "0.1,0.1", "--held", "3"], ["--held and --cut both"]),
    "cut with splits": (["shards", "tree", "out", "--cut", "0.1,0.1"], ["tree has train and val already"]),
    "cut and a test": (
        ["shards", "tree", "out", "--cut", "0.1,0.1", "--split", "test=val"],
        ["--cut makes val and test of samples of train: leave out test="],
    ),
    "a cut of nothing": (["shards", "nowhere", "out", "--cut", "0.1,0.1"], ["there is no nowhere"]),
    "cut digits": (["shards", "digits", "out", "--cut", "0.1,0.1"], ["--cut is for trees and shards"]),
    "what was begun": (["shards", "digits", "begun"], ["begun holds what was begun with another source"]),
}


def rows(folder: Path, *names: str, count: int = 10) -> None:
    """Tables with a column of numbers and one of classes."""
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_text("x,y\n" + "".join(f"{n / 2},{'ab'[n % 2]}\n" for n in range(count)))


def test_an_index_of_other_fields(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain(tmp_path / "tars", "train-0.tar", "test-0.tar")
    command = ("index", tmp_path / "tars", tmp_path / "out", "--held", 2, "--fields", "jpg")
    lines, _ = told(capsys, *command)
    assert lines[0].startswith("train: 7 samples")
    assert list(read_manifest(str(tmp_path / "out"))["splits"]["val"]["fields"]) == ["image"]
    assert "leave it or --fields out" in told(capsys, *command, "--label-field", "x", code=cli.BAD_INPUT)[1]


def test_one_table_is_cut_into_three(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows(tmp_path, "all.csv")
    command = ("shards", tmp_path / "all.csv", tmp_path / "out", "--label", "y", "--cut", "0.2,0.3", "--json")
    for _ in range(2):
        lines, _ = told(capsys, *command)
        assert json.loads(lines[-1])["samples"] == {"train": 5, "val": 2, "test": 3}
    manifest = read_manifest(str(tmp_path / "out"))
    assert manifest["classes"] == ["a", "b"]


def test_tables_of_three_splits_are_found_by_their_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows(tmp_path / "in", "train.csv", "dev.csv", "my-test.csv")
    (tmp_path / "in" / "train.csv").write_text((tmp_path / "in" / "train.csv").read_text() + "1,2,3\n")
    lines, _ = told(capsys, "shards", tmp_path / "in", tmp_path / "out", "--label", "2", "--bad", "0.1")
    assert f"train: left out {tmp_path}/in/train.csv, line 12: it has 3 columns, and the first line 2" in lines[0]
    assert [line for line in lines if "samples" in line][2].startswith("test: 10 samples")


@pytest.mark.usefixtures("in_one_process")
def test_one_tree_is_cut_into_three(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each picture is in one split, and the same command again has nothing to do."""
    pictures(tmp_path, "all", 30)
    command = ("shards", tmp_path / "all", tmp_path / "out", "--cut", "0.1,0.2", "--processes", 1, "--json")
    for _ in range(2):
        lines, _ = told(capsys, *command)
        assert json.loads(lines[-1])["samples"] == {"train": 21, "val": 3, "test": 6}
    keys = []
    for file in sorted((tmp_path / "out").glob("*.tar")):
        with tarfile.open(file) as tar:
            keys += [name.partition("-")[2] for name in tar.getnames() if name.endswith(".jpg")]
    assert sorted(keys) == sorted(f"{n}.jpg" for n in range(30))
    assert read_manifest(str(tmp_path / "out"))["classes"] == ["n0", "n1", "n2"]
    command = ("shards", tmp_path / "all", tmp_path / "other", "--cut", "0.5,0.49", "--processes", 1)
    assert "15 and 15 samples can't be cut out of 30" in told(capsys, *command, code=cli.BAD_INPUT)[1]


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a sentence that says what to do, and nothing is written."""
    monkeypatch.chdir(tmp_path)
    pictures(tmp_path / "tree", "train")
    pictures(tmp_path / "tree", "val")
    plain(tmp_path / "tars", "train-0.tar", "test-0.tar")
    plain(tmp_path / "mixed", "train-or-val.tar", "val-0.tar", "test-0.tar")
    rows(tmp_path / "tables", "train.csv", "val.csv", "test.csv")
    rows(tmp_path / "twice", "train.csv", "val.csv", "dev.csv", "test.csv")
    (tmp_path / "tree" / "a").write_text("a file")
    (tmp_path / "bare").mkdir()
    (tmp_path / "begun" / "parts").mkdir(parents=True)
    (tmp_path / "begun" / "parts" / "plan.json").write_text('{"name": "mnist"}')
    arguments, said = REFUSED[case]
    _, error = told(capsys, *arguments, code=output.BAD_INPUT)
    assert all(text in error for text in said), error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--held", "0"),
        ("--quality", "101"),
        ("--bad", "2"),
        ("--split", "train"),
        ("--split", "all=x"),
        ("--size", "x"),
        ("--seed", "-1"),
    ],
)
def test_values_that_make_no_sense(option: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Are refused with the option's name."""
    with pytest.raises(SystemExit):
        cli.main(["shards", "a", "b", option, value])
    assert f"argument {option}: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("url", "words"),
    [
        (SECRET, "holds a password, which would be written to logs and manifests"),
        ("foo://x", "there is no scheme foo://"),
        ("s3:/bucket/x", "a URL reads s3://bucket/x"),
    ],
)
@pytest.mark.parametrize(
    ("verb", "before", "after"),
    [
        *((verb, before, after) for verb in ("shards", "index") for before, after in (("", " b"), ("a ", ""))),
        ("shards", "a b --split train=", ""),
        ("index", "a b --split train=", ""),
        ("verify", "", ""),
        ("store ls", "--store ", ""),
        ("store gc", "a.yaml --store ", ""),
        ("store show", "a --store ", ""),
        ("store verify", "--store ", ""),
    ],
)
def test_a_url_that_can_not_be_meant_is_refused(
    verb: str, before: str, after: str, url: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Wherever the command line takes one, before anything is read or made; a password is not printed either."""
    with pytest.raises(SystemExit) as ended:
        cli.main(f"{verb} {before}{url}{after}".split())
    printed = capsys.readouterr().err
    assert ended.value.code == output.BAD_INPUT
    assert words in printed
    assert "secret" not in printed


def test_a_data_sets_own_files_are_on_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["shards", "mnist", "out", "--folder", "s3://bucket/mnist"])
    assert ended.value.code == output.BAD_INPUT
    assert "not the URL s3://bucket/mnist" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["shards", "index"])
def test_verify(kind: str, place: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What was written is as it was, until a byte of a picture is another: that is told, though the picture is read."""
    write(place.url, "written", dict.fromkeys(("train", "val", "test"), jpegs(9)))
    folder = place.url
    if kind == "index":
        for name in ("train", "val", "test"):
            (place / "others").write(f"{name}.tar", place.read(f"{name}-000000.tar"))
        place, folder = Folder((place / "others").absolute), str(tmp_path / "index")
        told(capsys, "index", place.url, folder)
    lines, said = told(capsys, "verify", folder, "--json")
    assert json.loads(lines[-1]) == {"shards": Folder(folder).absolute, "files": 6, "damages": []}
    assert "6 files, nothing damaged" in said
    file = next(name for name in place.names() if name.startswith("val") and name.endswith(".tar"))
    data = bytearray(place.read(file))
    data[len(data) // 2] ^= 1
    place.write(file, data)
    lines, said = told(capsys, "verify", folder, code=output.FAILED)
    assert lines == [f"{folder}: 6 files, 1 damaged"]
    assert said == f"{place.url}/{file} is not what the manifest says: its sha256 differs"


def test_verify_what_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No manifest is told as a run would tell it; of shards, all that are missing are, and what else is damaged."""
    _, said = told(capsys, "verify", tmp_path, code=output.BAD_INPUT)
    assert f"{tmp_path} holds no manifest.json" in said
    write(str(tmp_path), "written", dict.fromkeys(("train", "val", "test"), jpegs(9)))
    (tmp_path / "test-000000.tar").unlink()
    (tmp_path / "val-index.npy").unlink()
    (tmp_path / "train-000000.tar").write_bytes(b"")
    lines, said = told(capsys, "verify", tmp_path, code=output.FAILED)
    assert lines == [f"{tmp_path}: 6 files, 3 damaged"]
    for name in ("test-000000.tar", "val-index.npy"):
        assert f"{tmp_path}/{name} is missing, though manifest.json lists it" in said
    assert f"{tmp_path}/train-000000.tar is not what the manifest says" in said


def test_verify_what_can_not_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The other files are verified all the same."""
    write(str(tmp_path), "written", dict.fromkeys(("train", "val", "test"), jpegs(9)))
    (tmp_path / "train-000000.tar").unlink()
    (tmp_path / "train-000000.tar").symlink_to("train-000000.tar")
    (tmp_path / "val-000000.tar").write_bytes(b"")
    (tmp_path / "test-000000.tar").unlink()
    os.mkfifo(tmp_path / "test-000000.tar")
    _, said = told(capsys, "verify", tmp_path, code=output.FAILED)
    assert f"{tmp_path}/train-000000.tar can't be read: Too many levels of symbolic links" in said
    assert f"{tmp_path}/test-000000.tar can't be read: it is no regular file" in said
    assert f"{tmp_path}/val-000000.tar is not what the manifest says" in said


def test_verify_on_a_web_server(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Which lists nothing, so that a shard is missed when it is asked for."""
    write(str(tmp_path), "written", dict.fromkeys(("train", "val", "test"), jpegs(9)))
    (tmp_path / "val-000000.tar").unlink()
    files = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), files) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        lines, said = told(capsys, "verify", url, code=output.FAILED)
        server.shutdown()
    assert lines == [f"{url}: 6 files, 1 damaged"]
    assert f"{url}/val-000000.tar is missing, though manifest.json lists it" in said


def test_a_conversion_whose_terminal_closes(tmp_path: Path) -> None:
    """The hang-up goes to its processes too, and to the one that Python keeps for them: none has a word to say."""
    noise = np.random.default_rng(0).integers(0, 255, (400, 400, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "one.jpg")
    for split, count in (("train", 600), ("val", 5), ("test", 5)):
        for name in ("a", "b"):
            (tmp_path / "tree" / split / name).mkdir(parents=True)
            for number in range(count):
                os.link(tmp_path / "one.jpg", tmp_path / "tree" / split / name / f"{number}.jpg")
    command = [
        sys.executable,
        "-m",
        "dualprune",
        "shards",
        "tree",
        "made",
        "--resize",
        "300",
        "--size",
        "1",
    ]
    run = subprocess.Popen(
        [*command, "--processes", "1"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    limit = time.monotonic() + 120
    while not list((tmp_path / "made").glob("*.tar")):
        assert run.poll() is None
        assert time.monotonic() < limit
        time.sleep(0.01)
    os.killpg(run.pid, signal.SIGHUP)
    assert run.communicate(timeout=60)[0] == "stopped; the same command goes on from what is saved\n"
    assert run.returncode == output.TERMINATED
