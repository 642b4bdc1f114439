"""Streams meet samples and shards that are bad: told by name, counted, and refused beyond a share."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dualprune.stages.data.format import DataError, read_manifest
from dualprune.stages.data.make.index import read_index
from dualprune.stages.data.read import reading
from dualprune.stages.data.read.stream import IGNORED
from dualprune.stages.training.evaluate import evaluate
from tests.stages.conftest import CLASSIFY, jpegs, pairs
from tests.stages.data.test_pictures import huge_png
from tests.stages.data.test_stream import opened, parts, written

BAD = {
    "corrupt": (b"\xff\xd8 no more", 1, "neither a JPEG nor a PNG"),
    "cut": (jpegs(1)[0][0][:-100], 1, "truncated"),
    "bomb": (huge_png(20_000), 1, "20000 x 20000 pixels|decompression bomb"),
    "wrong label": (jpegs(1)[0][0], 3, "its label is 3, of a network of 3 classes"),
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize(("workers", "decode"), [(0, "cpu"), (1, "cpu"), (0, "device"), (1, "device")])
def test_a_bad_sample_stands_aside_and_is_reported_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str, workers: int, decode: str
) -> None:
    picture, label, why = BAD[kind]
    samples = jpegs(24)
    samples[13] = (picture, label)
    data = opened(written(tmp_path, samples, 4_000), workers=workers, decode=decode)
    order = data.order(0)
    for _ in range(2):
        batches = list(pairs(data.epoch(parts(order), 0)))
    (at,) = [number for number, part in enumerate(parts(order)) if 13 in part]
    place = parts(order)[at].tolist().index(13)
    x, labels = batches[at]
    assert labels[place] == IGNORED
    assert sum(int((y == IGNORED).sum()) for _, y in batches) == 1
    assert torch.equal(x[place], x[1 if place == 0 else 0])
    assert list(data.bad) == [13]
    (record,) = [record for record in caplog.records if record.name == reading.__name__]
    shard = data.shards.shards[data.shards.index[13, 0]]["file"]
    assert f"{tmp_path}/{shard}: 00000013." in record.getMessage()
    assert re.search(why, record.getMessage())
    rows = read_index(str(tmp_path), read_manifest(str(tmp_path))["splits"]["train"])
    assert len(rows) == 24


@pytest.mark.parametrize("decode", ["cpu", "device"])
def test_a_batch_of_nothing_but_bad_samples_adds_nothing(tmp_path: Path, decode: str) -> None:
    data = opened(written(tmp_path, [(b"bad", 0), *jpegs(20)]), decode=decode)
    ((x, labels),) = pairs(data.epoch([np.array([0])], 0))
    assert labels.tolist() == [IGNORED]
    loss = nn.functional.cross_entropy(x.flatten(1)[:, :3], labels, reduction="sum", ignore_index=IGNORED)
    assert float(loss) == 0


def test_too_many_bad_samples_are_an_error_that_names_one(tmp_path: Path) -> None:
    samples = jpegs(40)
    for number in (3, 17, 30):
        samples[number] = (b"bad", 0)
    folder = written(tmp_path, samples, 4_000)
    for bad, allowed in ((0.0, 0), (0.001, 1), (0.05, 2), (0.08, 3)):
        data = opened(folder, bad=bad)
        if allowed == 3:
            assert sum(int((y == IGNORED).sum()) for _, y in pairs(data.evaluation(np.split(np.arange(40), 8)))) == 3
            continue
        with pytest.raises(
            DataError, match=rf"{allowed + 1} of 40 samples are bad.*train-0000.*tar: 000000\d+\."
        ) as caught:
            list(pairs(data.evaluation(np.split(np.arange(40), 8))))
        assert str(bad) in str(caught.value)


def test_evaluation_leaves_bad_samples_out_of_the_count(tmp_path: Path, one_rank: None) -> None:
    samples = jpegs(30)
    good = written(tmp_path / "good", samples[:11] + samples[12:])
    with_bad = written(tmp_path / "bad", [*samples[:11], (b"bad", 0), *samples[12:]])

    def forward(x: Tensor) -> Tensor:
        return x.flatten(1) @ torch.randn(768, 3, generator=torch.Generator().manual_seed(2))

    wanted, got = (evaluate(forward, CLASSIFY, opened(url, "test"), size=7) for url in (good, with_bad))
    assert got.samples == wanted.samples == 29
    assert got.values["accuracy"] == wanted.values["accuracy"]
    assert got.values["loss"] == pytest.approx(wanted.values["loss"], rel=1e-5)


@pytest.mark.parametrize("how", ["missing", "cut", "longer"])
def test_a_missing_or_cut_shard_is_refused_at_once_by_name(tmp_path: Path, how: str) -> None:
    folder = written(tmp_path, jpegs(40), 4_000)
    file = tmp_path / "train-000002.tar"
    if how == "missing":
        file.unlink()
    else:
        data = file.read_bytes()
        file.write_bytes(data[:-1] if how == "cut" else data + b"x")
    with pytest.raises(DataError, match=r"train-000002\.tar"):
        opened(folder)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_shard_that_goes_while_it_is_read_is_an_error_that_names_it(tmp_path: Path, workers: int) -> None:
    data = opened(written(tmp_path, jpegs(40), 4_000), workers=workers)
    file = tmp_path / "train-000002.tar"
    file.write_bytes(file.read_bytes()[:600])
    with pytest.raises(DataError, match=r"train-000002\.tar ends before"):
        list(pairs(data.epoch(parts(data.order(0)), 0)))
    file.unlink()
    with pytest.raises(DataError, match=r"train-000002\.tar is no longer there"):
        list(pairs(data.epoch(parts(data.order(0)), 0)))
