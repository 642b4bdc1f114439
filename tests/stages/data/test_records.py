"""Shards of any fields keep what shards of pictures do: order, resume, ranks, bad samples; in memory or not."""

from __future__ import annotations

import io
import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import webdataset

from dualprune.stages.data import format as form
from dualprune.stages.data.format import DataError, digest, read_manifest
from dualprune.stages.data.make.builtin import digits
from dualprune.stages.data.make.index import read_index
from dualprune.stages.data.make.records import index_records, write_records
from dualprune.stages.data.order import global_batch, micro_batches, share
from dualprune.stages.data.read.memory import Batches, load_split, open_split
from dualprune.stages.data.read.records import RecordStream, load_records
from dualprune.stages.data.read.stream import Stream
from dualprune.stages.data.shards import write
from dualprune.stages.files.folder import Folder, sha256
from dualprune.stages.objectives.base import Batch, Metric, Objective, StandIn
from dualprune.stages.settings.data import Data
from dualprune.stages.training.evaluate import evaluate
from dualprune.stages.training.passes import batch_loss
from dualprune.stages.training.stage import run_stage
from tests.stages.conftest import CLASSIFY, MakeTask, jpegs, random_pictures

CPU = torch.device("cpu")
SPLITS = ("train", "val", "test")
BATCH = 12
TABLE = {"x": {"dtype": "float32", "kind": "npy", "shape": [5]}, "y": {"dtype": "float32", "kind": "num", "shape": []}}


def records(n: int = 50) -> list[dict[str, Any]]:
    """Samples of every sort of field but pictures."""
    rng = np.random.default_rng(n)
    return [
        {
            "x": rng.normal(size=5),
            "tokens": rng.integers(1, 99, rng.integers(1, 9)),
            "text": "abc"[: 1 + i % 3],
            "label": i % 4,
            "target": float(i) / 3,
        }
        for i in range(n)
    ]


def written(folder: Path, samples: list[dict[str, Any]] | None = None, shard_bytes: int = 20_000) -> str:
    """A folder of shards that has the same samples in all splits."""
    write_records(str(folder), "any", dict.fromkeys(SPLITS, records() if samples is None else samples), shard_bytes)
    return str(folder)


@pytest.fixture(params=["memory", "stream", "workers"])
def how(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Each way to read, with the settings for it."""
    load_records.cache_clear()
    if request.param != "memory":
        monkeypatch.setattr(form, "KEPT", 0)
    return {"workers": 2} if request.param == "workers" else {}


def opened(url: str, split: str = "train", **values: Any) -> RecordStream:
    """A split as a stage opens it."""
    settings = Data.model_validate({"shards": url} | values)
    found = open_split(url, split, digest(read_manifest(url)), settings, 3, CPU, 3)
    assert isinstance(found, RecordStream)
    return found


def parts(data: RecordStream, epoch: int, first: int = 0, rank: int = 0, world: int = 1) -> Iterator[np.ndarray]:
    """A rank's micro-batches, two a step, from step `first` of an epoch on."""
    order = data.order(epoch)
    for step in range(first, len(order) // BATCH):
        yield from micro_batches(share(global_batch(order, BATCH, step), rank, world), 2)


def same(a: list[Batch], b: list[Batch]) -> bool:
    """Whether batches are equal to the bit."""
    return len(a) == len(b) and all(
        x.keys() == y.keys() and all(torch.equal(x[name], y[name]) for name in x) for x, y in zip(a, b, strict=True)
    )


def test_what_was_written_is_read(tmp_path: Path, how: dict[str, int]) -> None:
    samples = records()
    data = opened(written(tmp_path), **how)
    assert (data.shards.kept is None) == bool(form.KEPT == 0)  # type: ignore[attr-defined]
    (batch,) = data.evaluation([np.arange(50)])
    assert set(batch) == {"x", "tokens", "tokens_mask", "text", "text_mask", "label", "target"}
    torch.testing.assert_close(
        batch["x"], torch.from_numpy(np.stack([s["x"] for s in samples])).float(), rtol=0, atol=0
    )
    assert [row[mask].tolist() for row, mask in zip(batch["tokens"], batch["tokens_mask"], strict=True)] == [
        sample["tokens"].tolist() for sample in samples
    ]
    assert [
        bytes(row[mask].tolist()).decode() for row, mask in zip(batch["text"], batch["text_mask"], strict=True)
    ] == [sample["text"] for sample in samples]
    assert batch["label"].tolist() == [i % 4 for i in range(50)]
    assert batch["target"].tolist() == pytest.approx([i / 3 for i in range(50)])
    assert {str(batch[name].dtype) for name in ("x", "target")} == {"torch.float32"}
    assert {str(batch[name].dtype) for name in ("tokens", "text", "label")} == {"torch.int64"}


def test_the_manifest_says_the_fields(tmp_path: Path) -> None:
    manifest = read_manifest(written(tmp_path))
    assert manifest["labels"] == 4
    fields = manifest["splits"]["val"]["fields"]
    assert fields["x"] == TABLE["x"]
    assert fields["target"] == TABLE["y"]
    assert fields["tokens"] == {"kind": "npy", "dtype": "int64", "shape": [], "longest": 8}
    assert len(manifest["splits"]["train"]["shards"]) > 1


def test_same_samples_same_bytes_and_plain_webdataset_reads_them(tmp_path: Path) -> None:
    first, second = read_manifest(written(tmp_path / "a")), read_manifest(written(tmp_path / "b"))
    assert first == second
    urls = [str(tmp_path / "a" / shard["file"]) for shard in first["splits"]["train"]["shards"]]
    got = list(webdataset.WebDataset(urls, shardshuffle=False).decode())
    assert len(got) == 50
    np.testing.assert_array_equal(got[7]["x.npy"], records()[7]["x"].astype(np.float32))
    assert got[7]["label.cls"] == b"3" or int(got[7]["label.cls"]) == 3


def test_an_epoch_goes_on_anywhere_and_ranks_share_it(tmp_path: Path, how: dict[str, int]) -> None:
    data = opened(url := written(tmp_path), **how)
    whole = list(data.epoch(parts(data, 2), 2))
    assert len(whole) == 8
    assert same(list(opened(url, **how).epoch(parts(data, 2, first=2), 2)), whole[4:])
    assert not same(list(data.epoch(parts(data, 3), 3)), whole)
    for world in (2, 3):
        ranks = [list(data.epoch(parts(data, 2, rank=rank, world=world), 2)) for rank in range(world)]
        assert len({len(batches) for batches in ranks}) == 1
        labels = [sorted(torch.cat([b["target"] for rank in ranks for b in rank[n : n + 2]]).tolist()) for n in (0, 2)]
        alone = [sorted(torch.cat([b["target"] for b in whole[n : n + 2]]).tolist()) for n in (0, 2)]
        assert labels == alone


def test_memory_and_stream_give_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = opened(url := written(tmp_path))
    expected = list(data.epoch(parts(data, 1), 1))
    load_records.cache_clear()
    monkeypatch.setattr(form, "KEPT", 0)
    assert same(list(opened(url, workers=2).epoch(parts(data, 1), 1)), expected)
    order = opened(url, window=1).order(0).tolist()
    assert sorted(order) == list(range(50))
    assert order != opened(url).order(0).tolist()


def test_remote_shards_give_the_same_bits(tmp_path: Path, how: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DUALPRUNE_CACHE", str(tmp_path / "cache"))
    local = opened(url := written(tmp_path / "local"))
    there = Folder(f"memory://{uuid.uuid4().hex}")
    for file in Path(url).iterdir():
        there.write(file.name, file.read_bytes())
    data = opened(there.url, **how)
    assert same(list(data.epoch(parts(data, 1), 1)), list(local.epoch(parts(local, 1), 1)))


def spoil(url: str, split: str, field: str, *samples: int) -> None:
    """Make members of samples unreadable, in shards that are what their manifest says."""
    manifest = json.loads(Path(url, "manifest.json").read_text())
    entry = manifest["splits"][split]
    column = 1 + 2 * sorted(entry["fields"]).index(field)
    rows = read_index(url, entry)
    for sample in samples:
        shard, offset = entry["shards"][rows[sample, 0]], int(rows[sample, column])
        file = Path(url, shard["file"])
        data = bytearray(file.read_bytes())
        data[offset : offset + 1] = b"?"
        file.write_bytes(bytes(data))
        shard["sha256"] = sha256(bytes(data))
    Path(url, "manifest.json").write_text(json.dumps(manifest))


def test_a_bad_sample_is_in_no_batch_and_counted(tmp_path: Path, how: dict[str, int]) -> None:
    spoil(url := written(tmp_path), "train", "x", 13)
    data = opened(url, **how)
    batches = list(data.evaluation(np.array_split(np.arange(50), 10)))
    assert [len(batch["label"]) for batch in batches] == [5, 5, 4, *[5] * 7]
    assert sorted(torch.cat([b["target"] for b in batches]).tolist()) == pytest.approx(
        [i / 3 for i in range(50) if i != 13]
    )
    assert list(data.bad) == [13]
    assert "00000013.label.cls: x: it can't be read as npy" in data.bad[13]


def test_too_many_bad_samples_end_it(tmp_path: Path, how: dict[str, int]) -> None:
    spoil(url := written(tmp_path), "train", "target", 3, 14, 15)
    assert len(list(opened(url, **how, bad=0.06).evaluation([np.arange(50)]))) == 1
    with pytest.raises(DataError, match=r"3 of 50 samples are bad, more than data.bad \(0.05\).* the last: .*num"):
        list(opened(url, **how, bad=0.05).evaluation([np.arange(50)]))


def test_a_batch_without_a_good_sample_counts_nowhere(tmp_path: Path, how: dict[str, int]) -> None:
    spoil(url := written(tmp_path), "train", "label", 7, 8)
    data = opened(url, **how, bad=0.1)
    batch, good = data.evaluation([np.array([7]), np.array([9])])
    assert isinstance(batch, StandIn)
    assert same([batch], [good])
    assert not isinstance(good, StandIn)
    assert sorted(data.bad) == [7, 8]


def test_a_damaged_shard_in_memory_is_refused_by_name(tmp_path: Path) -> None:
    load_records.cache_clear()
    url = written(tmp_path)
    file = tmp_path / "train-000001.tar"
    data = bytearray(file.read_bytes())
    data[700] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(DataError, match=r"train-000001.tar is not what the manifest says: its sha256 differs"):
        opened(url)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"mean": [0.5]}, "data.mean is for pictures; there are none here"),
        ({"flip": True}, "data.flip is for pictures"),
        ({"crop": 24}, "data.crop is for pictures"),
        ({"decode": "device"}, "data.decode is for shards of one picture and one label each"),
    ],
)
def test_settings_of_pictures_are_refused_where_there_are_none(tmp_path: Path, change: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        opened(written(tmp_path), **change)


@pytest.mark.parametrize(
    ("samples", "said"),
    [
        ([(1, 2)], "sample 0 is tuple: a sample is a mapping"),
        ([{}], "sample 0 is empty"),
        ([{"a": 1}, {"a": 1, "b": 2}], "sample 1 has a.cls, b.cls, and the first one has a.cls"),
        ([{"a": 1}, {"a": 0.5}], "sample 1: a is written as num, and that of others as cls; use one type"),
        ([{"a.b": 1}], "'a.b' can't name a field"),
        ([{"a": object()}], r"sample 0: a \(object\) can't be written: an array of object holds no numbers"),
        ([{"a": b"no picture"}], r"sample 0: a \(bytes\) can't be written: it is neither a JPEG"),
        ([{"a": [1, 2]}, {"a": [[1], [2]]}], r"the field a has values of shapes \(2,\) and \(2, 1\)"),
        ([], "the split train has no samples"),
    ],
)
def test_samples_that_do_not_fit_are_refused_by_name(tmp_path: Path, samples: list[Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        written(tmp_path, samples)
    assert not (tmp_path / "manifest.json").exists()


def test_pictures_of_one_shape_are_augmented_as_in_shards_of_pictures(tmp_path: Path, how: dict[str, int]) -> None:
    plain = random_pictures(40, (6, 9, 3), seed=1)
    write(str(tmp_path / "plain"), "plain", dict.fromkeys(SPLITS, plain))
    url = written(tmp_path / "any", [{"image": pixels, "y": float(label)} for pixels, label in plain])
    change = {"shift": 2, "flip": True, "mean": [0.1, 0.2, 0.3], "std": [0.5, 0.6, 0.7]}
    data = opened(url, **change, **how)
    split = load_split(str(tmp_path / "plain"), "train", digest(read_manifest(str(tmp_path / "plain"))))
    expected = Batches(split, Data.model_validate({"shards": "."} | change), 3, CPU)
    for batch, part in zip(data.epoch(parts(data, 1), 1), parts(data, 1), strict=True):
        assert torch.equal(batch["image"], expected.train(part, 1)[0])
        assert batch["y"].tolist() == expected.train(part, 1)[1].tolist()
    (batch,) = data.evaluation([np.arange(40)])
    assert torch.equal(batch["image"], expected.plain(np.arange(40))[0])


def test_encoded_pictures_are_cut_as_in_shards_of_pictures(tmp_path: Path) -> None:
    samples = jpegs(24)
    write(str(tmp_path / "plain"), "plain", dict.fromkeys(SPLITS, samples))
    url = written(tmp_path / "any", [{"image": data, "label": n, "other": [n, n]} for data, n in samples])
    change = {"crop": 16, "resize": 20, "flip": True, "mean": [0.4], "std": [0.2]}
    data = opened(url, **change, workers=2)
    plain = str(tmp_path / "plain")
    settings = Data.model_validate({"shards": "."} | change)
    expected = open_split(plain, "train", digest(read_manifest(plain)), settings, 3, CPU, 3)
    assert isinstance(expected, Stream)
    for a, b in (
        (data.epoch(parts(data, 1), 1), expected.epoch(parts(data, 1), 1)),
        (data.evaluation([np.arange(24)]), expected.evaluation([np.arange(24)])),
    ):
        for batch, other in zip(a, b, strict=True):
            torch.testing.assert_close(batch["image"], other["image"], rtol=0, atol=1e-6)
            assert torch.equal(batch["label"], other["label"])
            assert batch["other"].tolist() == [[n, n] for n in other["label"].tolist()]


def summed(split: RecordStream, size: int, world: int) -> float:
    """The mean of the targets, measured on each of so many ranks."""
    metric = Metric(lambda outputs, batch: outputs.sum(), lambda total, samples: total / samples)
    objective = Objective(
        call=lambda network, batch: network(batch["target"]),
        loss=lambda outputs, batch: outputs.sum(),
        good=lambda batch: torch.tensor(len(batch["target"])),
        metrics={"mean": metric},
        best="mean",
    )
    whole = [evaluate(lambda x: x, objective, split, rank, world, size) for rank in range(world)]
    total = sum(score.values["mean"] * score.samples for score in whole if score.samples)
    return total / sum(score.samples for score in whole)


@pytest.mark.parametrize(("size", "world"), [(1, 1), (7, 1), (1, 3), (50, 3)])
def test_evaluation_counts_each_good_sample_once(
    tmp_path: Path, how: dict[str, int], size: int, world: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.distributed.all_reduce", lambda totals: None)
    spoil(url := written(tmp_path), "val", "x", 0, 13)
    expected = np.mean([i / 3 for i in range(50) if i not in (0, 13)])
    assert summed(opened(url, "val", **how, bad=0.1), size, world) == pytest.approx(expected, rel=1e-6)


def test_a_stand_in_adds_nothing_to_the_loss() -> None:
    batch = {"image": torch.zeros(1, 3), "label": torch.tensor([1])}
    weight = torch.zeros((), requires_grad=True)
    engine = SimpleNamespace(forward=lambda x: x + weight * torch.tensor([3.0, 1.0, 0.0]))
    run: Any = SimpleNamespace(objective=CLASSIFY, engine=engine, teacher=None)
    assert batch_loss(run, batch).item() > 1
    loss = batch_loss(run, StandIn(batch))
    loss.backward()
    assert weight.grad is not None
    assert (loss.item(), weight.grad.item()) == (0, 0)


def weights(store: str, key: str) -> bytes:
    return Path(store, key, "model.safetensors").read_bytes()


@pytest.mark.usefixtures("one_rank")
def test_a_stage_trains_on_fields_to_the_bits_of_the_same_pictures(tmp_path: Path, make_task: MakeTask) -> None:
    task = make_task({"kind": "train", "train": {"epochs": 2, "lr": 0.01}})
    few = {"train": 320, "val": 100, "test": 100}
    splits = {split: list(samples)[: few[split]] for split, samples in digits(None).items()}
    url = str(tmp_path / "any")
    named = {split: [{"image": p, "label": y} for p, y in samples] for split, samples in splits.items()}
    write_records(url, "digits", named)
    other = task.model_copy(update={"key": "other", "shards": url, "data_digest": digest(read_manifest(url))})
    for one in (task, other):
        run_stage(one, lambda row: None)
    assert weights(task.store, "key") == weights(task.store, "other")


def foreign(folder: Path, *changes: tuple[str, bytes]) -> dict[str, str]:
    """Shards as others write them, with files that nobody asked for, and their pattern for each split."""
    folder.mkdir()
    with webdataset.TarWriter(str(folder / "a-0.tar"), mtime=0) as writer:
        for n, (picture, _) in enumerate(jpegs(20)):
            points = np.full((3, 2), n, np.float64)
            writer.write(
                {"__key__": f"{n:03d}", "jpg": picture, "points.npy": points, "json": {"n": n}, "note.txt": "a"}
            )
        for name, data in changes:
            writer.write({"__key__": name, "jpg": jpegs(1)[0][0], "points.npy": data})
    return dict.fromkeys(SPLITS, f"{folder}/*.tar")


def test_shards_of_others_are_indexed_by_their_fields(tmp_path: Path, how: dict[str, int]) -> None:
    where = foreign(tmp_path / "there")
    manifest = index_records(str(tmp_path / "index"), "it", where, ["jpg", "points.npy"])
    assert manifest["splits"]["train"]["fields"] == {
        "image": {"kind": "jpg", "dtype": "uint8"},
        "points": {"kind": "npy", "dtype": "float32", "shape": [3, 2]},
    }
    (batch,) = opened(str(tmp_path / "index"), crop=16, resize=20, **how).evaluation([np.arange(20)])
    assert batch["image"].shape == (20, 3, 16, 16)
    assert batch["points"][:, 2, 1].tolist() == list(range(20))


def test_what_is_no_sample_of_others_is_left_out_and_counted(tmp_path: Path) -> None:
    shorter = io.BytesIO()
    np.save(shorter, np.zeros((2, 2)))
    where = foreign(tmp_path / "there", ("bad", b"no array"), ("shorter", shorter.getvalue()))
    manifest = index_records(str(tmp_path / "index"), "it", where, ["points.npy", "jpg"], bad=0.1)
    (skipped,) = manifest["splits"]["val"]["skipped"].values()
    assert list(skipped) == ["bad"]
    assert skipped["bad"].startswith("points: it can't be read as npy: ")
    assert manifest["splits"]["val"]["samples"] == 21
    assert manifest["splits"]["val"]["fields"]["points"]["longest"] == 3
    with pytest.raises(DataError, match=r"1 of 22 samples are bad, such as bad in .*points: it can't be read as npy"):
        index_records(str(tmp_path / "index"), "it", where, ["points.npy", "jpg"], bad=0)
    with pytest.raises(DataError, match=r"22 of 22 samples are bad, such as 000 in .*: it has no x.npy"):
        index_records(str(tmp_path / "index"), "it", where, ["x.npy"])


@pytest.mark.parametrize(
    ("suffixes", "said"),
    [
        (["points.zip"], "nothing here reads members points.zip; there are jpg"),
        (["jpg", "png"], "two of jpg, png are called image"),
    ],
)
def test_fields_that_make_no_sense_are_refused(tmp_path: Path, suffixes: list[str], said: str) -> None:
    with pytest.raises(DataError, match=said):
        index_records(str(tmp_path / "index"), "it", foreign(tmp_path / "there"), suffixes)
