"""Artefacts: what is committed is read back, every byte is checked, and nothing counts without its manifest."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dualprune.stages.artefacts import artefact
from dualprune.stages.artefacts.manifest import ASIDE, Damaged, check, damages, read, set_aside
from dualprune.stages.files.folder import Folder, sha256
from dualprune.stages.networks.builtin import MODELS
from tests.stages.conftest import noisy_net

FILES = ["model.safetensors", "holds.safetensors", "duals.safetensors", "metrics.jsonl"]


def contents() -> tuple[dict[str, Any], artefact.Tensors, artefact.Tensors, artefact.Tensors]:
    """A manifest's facts, weights (one not contiguous, one of whole numbers), masks of odd sizes, and duals."""
    generator = torch.Generator().manual_seed(0)
    manifest = {"name": "x", "metrics": {"rate": 2.5}, "rows": [{"loss": 0.1, "epoch": 1}, {"epoch": 2, "loss": 0.05}]}
    network = {
        "b": torch.randn(4, 3, generator=generator).t(),
        "a": torch.randn(2, 3, 5, generator=generator),
        "count": torch.tensor(7),
    }
    holds = {
        "b": (torch.randn(3, 4, generator=generator) > 0).float(),
        "a": (torch.randn(3, 3, 5, generator=generator) > 0).float(),
        "all": torch.ones(8),
    }
    return manifest, network, holds, {"a": torch.randn(2, 3, 5, generator=generator)}


def committed(folder: Folder) -> Folder:
    """A folder with that artefact."""
    artefact.commit(folder, *contents())
    return folder


def test_round_trip(place: Folder) -> None:
    loaded = artefact.load(committed(place))
    _, *expected = contents()
    for got, want in zip((loaded.network, loaded.holds, loaded.duals), expected, strict=True):
        assert got.keys() == want.keys()
        for name, tensor in want.items():
            assert torch.equal(got[name], tensor), name
            assert got[name].dtype == tensor.dtype
    assert loaded.manifest["metrics"] == {"rate": 2.5}
    rows = [json.loads(line) for line in place.read("metrics.jsonl").splitlines()]
    assert rows == contents()[0]["rows"]
    assert "rows" not in loaded.manifest


def test_the_manifest_lists_every_file_with_its_hash_and_size(place: Folder) -> None:
    manifest = check(committed(place))
    assert manifest is not None
    assert sorted(manifest["files"]) == sorted(FILES)
    assert place.names() == sorted([*FILES, "manifest.json"])
    for name, entry in manifest["files"].items():
        data = place.read(name)
        assert entry == {"sha256": sha256(data), "bytes": len(data)}


def test_masks_take_a_bit_an_entry(place: Folder) -> None:
    mask = (torch.arange(80_001) % 3 == 0).float()
    artefact.commit(place, {"rows": []}, {}, {"w": mask}, {})
    assert 10_001 <= place.info("holds.safetensors").bytes < 10_500
    assert torch.equal(artefact.load(place).holds["w"], mask)


def test_same_content_same_bytes(place: Folder) -> None:
    committed(place / "a")
    committed(place / "b")
    for name in [*FILES, "manifest.json"]:
        assert place.read(f"a/{name}") == place.read(f"b/{name}"), name


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("where", [0, 0.5, -1])
def test_a_flipped_byte_is_damage(place: Folder, name: str, where: float) -> None:
    folder = committed(place)
    data = bytearray(place.read(name))
    data[int(where * len(data)) if where >= 0 else -1] ^= 1
    place.write(name, bytes(data))
    (found,) = damages(folder)
    assert f"{name} has changed" in found
    assert check(folder) is not None, "a look at sizes can't tell"
    if name != "metrics.jsonl":  # which is no part of what is loaded
        with pytest.raises(Damaged, match=name):
            artefact.load(folder)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_damage(place: Folder, name: str) -> None:
    folder = committed(place)
    place.remove(name)
    for attempt in (check, artefact.load) if name != "metrics.jsonl" else (check,):
        with pytest.raises(Damaged, match=name):
            attempt(folder)


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_cut_is_damage_at_a_look(place: Folder, name: str) -> None:
    folder = committed(place)
    place.write(name, place.read(name)[:-1])
    with pytest.raises(Damaged, match=rf"{name} has changed since it was written: it has [\d,]+ bytes, not"):
        check(folder)


def test_what_was_set_aside_is_made_anew(place: Folder) -> None:
    folder = committed(place)
    set_aside(folder)
    assert check(folder) is None
    assert check(committed(place)) is not None
    assert not place.exists(ASIDE)


def test_each_file_is_read_once(place: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = committed(place)
    read: list[str] = []

    def noted(before: Callable[[Folder, str], bytes]) -> Callable[[Folder, str], bytes]:
        return lambda folder, path: read.append(path) or before(folder, path)

    for name in ("read", "read_small"):
        monkeypatch.setattr(Folder, name, noted(getattr(Folder, name)))
    artefact.load(folder)
    assert sorted(read) == ["duals.safetensors", "holds.safetensors", "manifest.json", "model.safetensors"]


@pytest.mark.parametrize("text", [b"{", b"\xff{}", b"", b"[]", b"3", b"{}", b'{"files": {"metrics.jsonl": {}}}'])
def test_a_manifest_that_is_none_is_damage(place: Folder, text: bytes) -> None:
    folder = committed(place)
    place.write("manifest.json", text)
    with pytest.raises(Damaged, match=r"manifest\.json"):
        check(folder)


def test_without_a_manifest_there_is_no_artefact(place: Folder) -> None:
    folder = committed(place)
    place.remove("manifest.json")
    assert read(folder) is None
    assert check(folder) is None
    for at in (folder, folder / "nowhere"):
        with pytest.raises(FileNotFoundError, match="no finished artefact"):
            artefact.load(at)


def test_the_manifest_is_written_last(tmp_path: Path) -> None:
    """A commit that stops at any file leaves nothing that counts."""
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(OSError, match="metrics"):
        committed(Folder(str(tmp_path)))
    assert (tmp_path / "model.safetensors").exists()
    assert check(Folder(str(tmp_path))) is None
    assert not list(tmp_path.glob("*.part"))


def test_the_network_is_built_from_the_artefact_alone(place: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS, "noisy", noisy_net)
    torch.manual_seed(3)
    model = noisy_net(4)
    model.train()
    model(torch.randn(8, 1, 8, 8))
    spec = {"model": {"name": "noisy", "classes": 4}}
    artefact.commit(place, {"spec": spec, "rows": []}, dict(model.state_dict()), {}, {})
    built = artefact.network(artefact.load(place))
    x = torch.randn(5, 1, 8, 8)
    assert not built.training
    assert torch.equal(built(x), model.eval()(x))


def test_a_flipped_figure_in_the_manifest_is_noticed(place: Folder) -> None:
    """The manifest carries a hash of itself: a changed metric is damage, not a result."""
    artefact.commit(place, {"metrics": {"val_accuracy": 97.5}, "rows": []}, {}, {}, {})
    place.write("manifest.json", place.read("manifest.json").replace(b"97.5", b"98.5"))
    with pytest.raises(Damaged, match="has changed"):
        check(place)
