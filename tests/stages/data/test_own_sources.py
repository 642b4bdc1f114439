"""Data sets of a user's own: written once, cut by seed, and errors told with the user's line."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dualprune.stages.data.format import DataError
from dualprune.stages.data.make.sources import name_of, opened, write_source
from dualprune.stages.data.shards import write
from dualprune.stages.settings.data import Cut
from tests.stages.conftest import jpegs, random_pictures

CUT = Cut()
TEXT = """
import own_rows

class Rows:
    def __init__(self, n): self.n = n
    def __len__(self): return self.n
    def __getitem__(self, i):
        if i >= self.n: raise IndexError(i)
        return {"x": [i, own_rows.two], "y": float(i)}

def one(n=50): return Rows(n)
def three(n=50): return {"train": Rows(n), "val": Rows(5), "test": Rows(6)}
def two(n=50): return {"train": Rows(n), "test": Rows(6)}
def lists(): return [{"x": 1}, {"x": 2}, {"x": 3}]
def strange(): return {"training": Rows(3)}
def number(): return 3
def raising(): return {}["key"]
class Broken(Rows):
    def __getitem__(self, i): return 1 / (i - 3)
def broken(): return {"train": Broken(9), "val": Rows(5), "test": Rows(6)}
"""


@pytest.fixture(autouse=True)
def _own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A module of a user's, in tmp_path / own."""
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "own_data.py").write_text(TEXT)
    (folder / "own_rows.py").write_text("two = 2\n")
    monkeypatch.syspath_prepend(str(folder))
    yield
    for name in ("own_data", "own_rows"):
        sys.modules.pop(name, None)


def numbers(part: Any) -> list[float]:
    return [sample["y"] for sample in part]


def test_three_splits_are_as_they_are() -> None:
    splits = opened("own_data:three", {"n": 7}, CUT)
    assert {split: numbers(part) for split, part in splits.items()} == {
        "train": list(range(7)),
        "val": list(range(5)),
        "test": list(range(6)),
    }


def test_what_is_not_there_is_cut_out_of_train_by_seed() -> None:
    splits = opened("own_data:one", {}, CUT)
    assert {split: len(part) for split, part in splits.items()} == {"train": 40, "val": 5, "test": 5}
    every = [n for part in splits.values() for n in numbers(part)]
    assert sorted(every) == list(range(50))
    assert numbers(splits["val"]) == numbers(opened("own_data:one", {}, CUT)["val"])
    assert numbers(splits["val"]) != numbers(opened("own_data:one", {}, Cut(seed=1))["val"])
    assert len(opened("own_data:one", {}, Cut(val=0.2, test=0.5))["train"]) == 15
    kept = opened("own_data:two", {}, CUT)
    assert {split: len(part) for split, part in kept.items()} == {"train": 45, "val": 5, "test": 6}


def test_lists_are_data_sets() -> None:
    assert [len(part) for part in opened("own_data:lists", {}, CUT).values()] == [1, 1, 1]


@pytest.mark.parametrize(
    ("name", "args", "said"),
    [
        ("own_data:strange", {}, "own_data:strange returned training, where a data set by split"),
        ("own_data:number", {}, "own_data:number returned int for train: a data set has __len__ and __getitem__"),
        ("own_data:raising", {}, r"raised KeyError: 'key' \(at .*own_data.py:17: def raising"),
        ("own_data:one", {"m": 3}, r"own_data:one raised TypeError: one\(\) got an unexpected keyword argument 'm'"),
        ("own_data:one", {"n": 2}, "2 of 2 samples can't be cut out of it for val and test"),
        ("own_data:none", {}, "data.source: own_data .* has no none; it has "),
        ("no_such_own:one", {}, "data.source: there is no module no_such_own"),
    ],
)
def test_what_gives_no_data_set_is_refused(name: str, args: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        opened(name, args, CUT)


def test_an_error_in_a_sample_is_told_with_its_line(tmp_path: Path) -> None:
    splits = opened("own_data:broken", {}, CUT)
    with pytest.raises(DataError, match="own: train: sample 0 is float: a sample is a mapping"):
        write_source(str(tmp_path / "shards"), "own", splits)
    with pytest.raises(DataError, match=r"train: sample 3 raised ZeroDivisionError: .* \(at .*own_data.py:19: "):
        list(splits["train"])


def test_the_name_follows_source_and_arguments(tmp_path: Path) -> None:
    def name(source: str = "own_data:one", args: Any = None, cut: Cut = CUT) -> str:
        return name_of(source, args or {}, cut)

    first = name()
    assert first.startswith("own-data-one-")
    assert len({first, name("own_data:two"), name(args={"n": 3}), name(cut=Cut(val=0.2))}) == 4
    assert name() == first
    beside = tmp_path / "own" / "own_rows.py"
    beside.write_text("two = 3\n")
    assert name() != first
    beside.write_text("two = 2\n")
    assert name() == first


@pytest.mark.parametrize("kind", ["pixels", "encoded", "pil"])
def test_pictures_with_labels_are_shards_of_pictures(tmp_path: Path, kind: str) -> None:
    plain: list[Any] = jpegs(12) if kind == "encoded" else random_pictures(12, (6, 9, 3), seed=0)
    given = [{"image": Image.fromarray(p) if kind == "pil" else p, "label": np.int64(y)} for p, y in plain]
    found = write_source(str(tmp_path / "own_shards"), "it", dict.fromkeys(("train", "val", "test"), given))
    assert found["labels"] == 1 + max(y for _, y in plain)
    if kind == "pil":
        assert found["splits"]["train"]["format"] == "jpeg"
    else:
        assert found == write(str(tmp_path / "plain"), "it", dict.fromkeys(("train", "val", "test"), plain))


@pytest.mark.parametrize(
    ("second", "said"),
    [
        ({"image": np.zeros((4, 4), np.uint8), "label": 1}, r"sample 1 has pixels of shape \(4, 4\)"),
        ({"image": np.zeros((6, 9, 3), np.uint8), "label": -1}, "sample 1 is no picture `image` with a whole number"),
        ({"image": np.zeros((6, 9, 3), np.uint8)}, "sample 1 is no picture"),
        (3, "sample 1 is no picture"),
    ],
)
def test_pictures_that_differ_are_refused(tmp_path: Path, second: Any, said: str) -> None:
    samples = [{"image": np.zeros((6, 9, 3), np.uint8), "label": 1}, second]
    with pytest.raises(DataError, match=said):
        write_source(str(tmp_path / "shards"), "it", dict.fromkeys(("train", "val", "test"), samples))
