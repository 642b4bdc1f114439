"""Checkpoints within a stage: all of the state comes back, and one that is not whole does not count."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

from dualprune.stages.artefacts.checkpoint import FORMAT, Checkpoints, OtherVersion, Progress
from dualprune.stages.artefacts.parts import stem as stem_of
from dualprune.stages.artefacts.parts import steps
from dualprune.stages.engine.engine import Engine
from dualprune.stages.files.folder import Folder, canonical, sha256
from dualprune.stages.kinds.base import State
from dualprune.stages.kinds.proximal import Solving
from dualprune.stages.kinds.table import KINDS
from dualprune.stages.settings.training import Optimizer
from tests.stages.conftest import PLACES, MakeEngine, small_net, step

SGD = Optimizer(name="sgd", momentum=0.9)
ADAM = Optimizer(name="adam", weight_decay=0.01)
PROGRESS = Progress(
    phase=2,
    epoch=1,
    step=7,
    steps=40,
    seconds=1.25,
    loss=0.1 + 0.2,
    state=Solving(rho=0.5, residual={"total": 0.5, "tensors": {"0.weight": 0.5}}),
    metrics=[{"epoch": 1, "phase": "admm", "loss": 1 / 3}],
)


def everything(engine: Engine) -> dict[str, Tensor]:
    """All tensors that decide how an engine goes on."""
    state = dict(engine.tensors())
    for key in engine.inner_states():
        state |= {f"{key}/{name}": engine.get(name, key) for name in engine.parameters}
    for key in ("target", "dual", "mask"):
        state |= {f"{key}/{name}": engine.get(name, key) for name in sorted(engine.masked)}
    return state | {"count": torch.tensor(engine.inner_steps())}


def prepare(engine: Engine) -> None:
    """Random ADMM state, and three steps."""
    generator = torch.Generator().manual_seed(5)
    for name in sorted(engine.masked):
        for key in ("target", "dual"):
            engine.set(name, torch.randn(engine.get(name).shape, generator=generator), key)
        engine.set(name, torch.ones(engine.get(name).shape), "mask")
    engine.optimizer.rho = 0.1
    for number in range(3):
        step(engine, number)


def save(engine: Engine, folder: Folder, *numbers: int, world: int = 1) -> None:
    """Checkpoints at the given steps, an optimizer step after each; all ranks of `world` in turn."""
    ranks = [Checkpoints(folder, rank, world) for rank in range(world)]
    for number in numbers:
        for rank in ranks:
            rank.save(engine, Progress(steps=number))
        for rank in ranks:
            rank.wait()
        step(engine, number)


def newest(folder: Folder, rank: int = 0, world: int = 1) -> str | None:
    """What a fresh process would go on from."""
    return Checkpoints(folder, rank, world).newest()


def test_a_tensor_takes_five_bytes_a_weight_of_state(make_engine: MakeEngine, place: Folder) -> None:
    """U is not written but where it can't be told from the target."""
    engine = make_engine(optimizer=SGD)
    for name in sorted(engine.masked):
        engine.set(name, -torch.ones(engine.shape(name)), "target")
        engine.set(name, (torch.arange(engine.shape(name).numel()) % 2).view(engine.shape(name)).float(), "dual")
    save(engine, place, 1)
    data = safetensors.torch.load((place / "checkpoints").read(f"{stem_of('step-00000001', 0, 1)}.safetensors"))
    assert {key: value.dtype for key, value in data.items() if key.endswith("/0.weight")} == {
        "network/0.weight": torch.float32,
        "momentum_buffer/0.weight": torch.float32,
        "target/0.weight": torch.float32,
        "marks/0.weight": torch.uint8,
    }


@pytest.mark.parametrize("tied", [0, 3])
def test_a_checkpoint_of_the_second_format_is_gone_on_from(make_engine: MakeEngine, place: Folder, tied: int) -> None:
    """Which had the target, U and the mask in fp32; while values are tied, the numbers of their clusters as masks."""
    first = make_engine(optimizer=ADAM)
    prepare(first)
    if tied:
        for name in sorted(first.masked):
            first.set(name, torch.arange(first.shape(name).numel()).view(first.shape(name)) % 4, "target")
            first.set(name, first.get(name, "target"), "mask")
    saved = everything(first)
    checkpoints = Checkpoints(place, 0, 1)
    checkpoints.save(first, Progress(steps=40))
    checkpoints.wait()
    stem = stem_of("step-00000040", 0, 1)
    facts = checkpoints.folder.read_json(f"{stem}.json")["progress"]
    facts |= {"format": 2, "state": {"tied": tied} if tied else {}}
    old = safetensors.torch.load(checkpoints.folder.read(f"{stem}.safetensors"))
    for name in first.masked:
        del old[f"marks/{name}"]
        codes = saved[f"target/{name}"] if tied else saved[f"mask/{name}"]
        target = torch.full(codes.shape, 9.0) if tied else saved[f"target/{name}"]
        old |= {f"target/{name}": target, f"dual/{name}": saved[f"dual/{name}"], f"hold/{name}": codes}
    data = safetensors.torch.save({name: value.contiguous() for name, value in old.items()})
    checkpoints.folder.write(f"{stem}.safetensors", data)
    checkpoints.folder.write_json(f"{stem}.json", {"sha256": sha256(data, canonical(facts)), "progress": facts})
    second = make_engine(small_net(seed=9), optimizer=ADAM)
    checkpoints.load("step-00000040/1", second, KINDS["quantize"].state)
    loaded = everything(second)
    assert all(torch.equal(loaded[name], value) for name, value in saved.items())


@pytest.mark.parametrize(("zero", "offload"), PLACES)
@pytest.mark.parametrize("optimizer", [SGD, ADAM], ids=["sgd", "adam"])
def test_a_new_engine_goes_on_to_the_same_bits(
    make_engine: MakeEngine, tmp_path: Path, zero: int, offload: bool, optimizer: Optimizer
) -> None:
    place = Folder(str(tmp_path))
    first = make_engine(optimizer=optimizer, zero=zero, offload=offload)
    prepare(first)
    checkpoints = Checkpoints(place, 0, 1)
    checkpoints.save(first, PROGRESS)
    saved = everything(first)
    assert int(saved["count"]) == (3 if optimizer.name == "adam" else 0)
    step(first, 50)  # while the checkpoint is being written
    checkpoints.wait()
    second = make_engine(small_net(seed=9), optimizer=optimizer, zero=zero, offload=offload)
    found = newest(place)
    assert found == "step-00000040/1"
    assert Checkpoints(place, 0, 1).load(found, second, Solving) == PROGRESS
    loaded = everything(second)
    assert loaded.keys() == saved.keys()
    for name, value in saved.items():
        assert torch.equal(loaded[name], value), name
    second.optimizer.rho = 0.1
    step(second, 50)
    after, expected = everything(second), everything(first)
    for name, value in expected.items():
        assert torch.equal(after[name], value), name


@pytest.mark.parametrize("world", [2, 3])
def test_a_checkpoint_is_free_of_the_world_size(make_engine: MakeEngine, place: Folder, world: int) -> None:
    """Parts of several ranks make one checkpoint, which one rank, under another ZeRO stage, takes up."""
    first = make_engine(optimizer=ADAM, zero=1)
    prepare(first)
    saved = everything(first)
    save(first, place, 40, world=world)
    assert newest(place) == f"step-00000040/{world}"
    second = make_engine(small_net(seed=9), optimizer=ADAM, zero=2)
    Checkpoints(place, 0, 1).load(f"step-00000040/{world}", second)
    for name, value in everything(second).items():
        assert torch.equal(value, saved[name]), name
    place.remove(f"checkpoints/step-00000040/part-{world - 1}-of-{world}.json")
    assert newest(place) is None


def test_nothing_saved_is_none(place: Folder) -> None:
    assert newest(place / "nowhere") is None


def cut(data: bytes) -> bytes:
    """Lose a file's last ten bytes."""
    return data[:-10]


def flip_last(data: bytes) -> bytes:
    """Change a byte of a tensor."""
    return data[:-3] + bytes([data[-3] ^ 1]) + data[-2:]


def other_count(data: bytes) -> bytes:
    """Change a digit of the number of steps."""
    assert b'"steps": 20' in data
    return data.replace(b'"steps": 20', b'"steps": 21')


def other_key(data: bytes) -> bytes:
    """Change a letter of a key."""
    return data.replace(b'"sha256"', b'"sha25v"')


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("part-0-of-1.safetensors", cut),
        ("part-0-of-1.safetensors", flip_last),
        ("part-0-of-1.safetensors", None),
        ("part-0-of-1.json", cut),
        ("part-0-of-1.json", other_count),
        ("part-0-of-1.json", other_key),
        ("part-0-of-1.json", None),
    ],
)
def test_a_damaged_newest_gives_way_to_the_one_before(
    make_engine: MakeEngine, place: Folder, file: str, damage: Callable[[bytes], bytes] | None
) -> None:
    engine = make_engine()
    save(engine, place, 10, 20)
    assert newest(place) == "step-00000020/1"
    path = f"checkpoints/step-00000020/{file}"
    if damage is None:
        place.remove(path)
    else:
        place.write(path, damage(place.read(path)))
    assert newest(place) == "step-00000010/1"


def test_leftovers_of_another_world_size_do_not_count(make_engine: MakeEngine, place: Folder) -> None:
    """A newer step that two ranks never finished, and a part of theirs beside a whole checkpoint."""
    engine = make_engine()
    save(engine, place, 10)
    two = Checkpoints(place, 0, 2)
    for number in (10, 15):
        two.save(engine, Progress(steps=number))
        two.wait()
    assert place.exists("checkpoints/step-00000015/part-0-of-2.json")
    assert newest(place) == "step-00000010/1"
    # The stage goes on alone and comes by step 15 itself.
    save(engine, place, 15)
    assert newest(place) == "step-00000015/1"


def test_the_newest_two_are_kept(make_engine: MakeEngine, place: Folder) -> None:
    engine = make_engine()
    save(engine, place, 10, 20, 30, 40)
    assert steps(place / "checkpoints") == ["step-00000030", "step-00000040"]
    assert newest(place) == "step-00000040/1"


def test_what_writing_raised_is_raised_to_the_caller(make_engine: MakeEngine, tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("a file is in the way")
    checkpoints = Checkpoints(Folder(str(tmp_path)), 0, 1)
    checkpoints.save(make_engine(), Progress())
    with pytest.raises(OSError, match="checkpoints"):
        checkpoints.wait()
    checkpoints.wait()


def test_a_checkpoint_that_vanished_is_said_so(make_engine: MakeEngine, place: Folder) -> None:
    engine = make_engine()
    save(engine, place, 10)
    with pytest.raises(FileNotFoundError, match="part 0 of 1"):
        Checkpoints(place, 0, 1).load("step-00000011/1", engine)


def test_a_checkpoint_of_another_version_is_refused_in_words(make_engine: MakeEngine, place: Folder) -> None:
    """What it holds says more than this version knows, or its number is another; one without a number is the first."""
    engine = make_engine(optimizer=ADAM)
    save(engine, place, 1)
    newest = Checkpoints(place, 0, 1).newest()
    assert newest is not None
    stem = stem_of(newest.split("/")[0], 0, 1)
    checkpoints = Checkpoints(place, 0, 1)
    data = checkpoints.folder.read(f"{stem}.safetensors")
    facts = checkpoints.folder.read_json(f"{stem}.json")["progress"]
    assert facts["format"] == FORMAT
    for change, words in (
        ({"format": 7}, "format 7, and this one reads 3"),
        ({"momentum": 1}, "with momentum"),
        ({"state": {"speed": 1}}, "with speed"),
    ):
        other = facts | change
        checkpoints.folder.write_json(f"{stem}.json", {"sha256": sha256(data, canonical(other)), "progress": other})
        with pytest.raises(OtherVersion, match=f"written by another version of dualprune .*{words}.*delete"):
            checkpoints.load(newest, engine)


def test_a_checkpoint_of_the_first_format_is_gone_on_from(make_engine: MakeEngine, place: Folder) -> None:
    """It had no number, called phases stretches, and had what kinds remember beside the rest."""
    engine = make_engine(optimizer=ADAM)
    save(engine, place, 1)
    checkpoints = Checkpoints(place, 0, 1)
    stem = stem_of("step-00000001", 0, 1)
    data, facts = (
        checkpoints.folder.read(f"{stem}.safetensors"),
        checkpoints.folder.read_json(f"{stem}.json")["progress"],
    )
    del facts["format"], facts["state"], facts["phase"]
    facts |= {"stretch": 3, "rho": 0.25, "residual": None, "values": {}, "sharing": 0, "budget": {"kept": {"a": 2}}}
    checkpoints.folder.write_json(f"{stem}.json", {"sha256": sha256(data, canonical(facts)), "progress": facts})
    newest = checkpoints.newest()
    assert newest is not None
    found = checkpoints.load(newest, engine, Solving)
    assert (found.phase, found.state) == (3, Solving(rho=0.25, budget={"kept": {"a": 2}}))
    plain = facts | {"rho": 0.0, "budget": {}}
    checkpoints.folder.write_json(f"{stem}.json", {"sha256": sha256(data, canonical(plain)), "progress": plain})
    assert checkpoints.load(newest, engine).state == State()
