"""Streams of what lies on a service: the same bits through a bounded cache, whatever the service does."""

from __future__ import annotations

import os
import time
import uuid
from pathlib import Path

import numpy as np
import pytest

from dualprune.stages.data.format import DataError, read_manifest
from dualprune.stages.data.shards import write
from dualprune.stages.files.folder import Folder
from tests.s3server import BUCKET, S3Server
from tests.stages.conftest import jpegs, pairs
from tests.stages.data.test_stream import opened, parts, same, written


def remote(folder: Path, samples: list[tuple[bytes, int]]) -> str:
    """Shards in memory; a forked worker has a copy of them."""
    there = Folder(f"memory://{uuid.uuid4().hex}")
    for file in Path(written(folder, samples, 4_000)).iterdir():
        there.write(file.name, file.read_bytes())
    return there.url


@pytest.mark.parametrize("workers", [0, 2])
def test_remote_shards_give_the_same_bits_within_a_bounded_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setenv("DUALPRUNE_CACHE", str(cache))
    samples = jpegs(60)
    there = remote(tmp_path / "local", samples)
    local = opened(str(tmp_path / "local"), window=1)
    sizes = sorted(shard["bytes"] for shard in local.shards.shards)
    limit = sum(sizes[-2:])
    assert sum(sizes) > limit
    data = opened(there, window=1, cache=limit, workers=workers)
    order = local.order(0)
    expected = list(pairs(local.epoch(parts(order), 0)))
    got = []
    for batch in pairs(data.epoch(parts(order), 0)):
        got.append(batch)
        if not workers:
            assert sum(os.path.getsize(file) for file in cache.glob("*.tar")) <= limit
    assert same(got, expected)
    assert sum(os.path.getsize(file) for file in cache.glob("*.tar")) <= limit
    with pytest.raises(DataError, match=r"data.cache is \d+: .* set data.window to at most 1, or raise data.cache to"):
        opened(there, cache=limit)


@pytest.mark.slow
def test_an_epoch_from_a_moody_bucket_is_the_same(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that refuses, cuts the connection and takes its time."""
    monkeypatch.setenv("DUALPRUNE_CACHE", str(tmp_path / "cache"))
    url = written(tmp_path / "local", jpegs(100))
    there = Folder(f"s3://{BUCKET}/{uuid.uuid4().hex}")
    for file in Path(url).iterdir():
        there.write(file.name, file.read_bytes())
    moods = ["refuse", "cut", "slow", "cut", "refuse", "refuse", "cut", "slow"]

    def now(mood: str, method: str, path: str) -> bool:
        """Whether that is the mood in which a shard is asked for; then the next one follows."""
        asked = method == "GET" and path.endswith(".tar") and moods[:1] == [mood]
        return asked and bool(moods.pop(0))

    def refuses(method: str, path: str) -> bool:
        if now("slow", method, path):
            time.sleep(1)
        elif now("refuse", method, path):
            return True
        return False

    def cuts(method: str, path: str) -> bool:
        return now("cut", method, path)

    order = opened(url).order(1)
    expected = list(pairs(opened(url).epoch(parts(order), 1)))
    monkeypatch.setattr(s3, "refuses", refuses)
    monkeypatch.setattr(s3, "cuts", cuts)
    assert same(list(pairs(opened(there.url).epoch(parts(order), 1))), expected)
    assert moods == []


@pytest.mark.parametrize("shared", [False, True], ids=["own shards", "the same shards"])
def test_a_cache_must_hold_what_each_epoch_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fetched: list[str], shared: bool
) -> None:
    """Of train and of val, which share it; then a second epoch fetches nothing."""
    monkeypatch.setenv("DUALPRUNE_CACHE", str(tmp_path / "cache"))
    splits = {"train": jpegs(40), "val": jpegs(40) if shared else jpegs(20, 1), "test": jpegs(12, 2)}
    write(str(tmp_path / "local"), "jpegs", splits, 4_000)
    there = Folder(f"memory://{uuid.uuid4().hex}")
    for file in (tmp_path / "local").iterdir():
        there.write(file.name, file.read_bytes())
    entries = read_manifest(there.url)["splits"]
    train, val = ({s["sha256"]: s["bytes"] for s in entries[split]["shards"]} for split in ("train", "val"))
    needed = sum(train.values()) if shared else sum(train.values()) + sum(val.values())
    with pytest.raises(DataError, match=rf"train and val, of {needed} bytes.*raise data\.cache to {needed}$"):
        opened(there.url, cache=needed - 1)
    data, validation = (opened(there.url, split, cache=needed) for split in ("train", "val"))
    for epoch in range(2):
        assert len(list(pairs(data.epoch(parts(data.order(epoch)), epoch)))) == 6
        list(pairs(validation.evaluation(np.array_split(np.arange(len(validation)), 3))))
        assert len(fetched) == len(train | val)
