"""A fault at every single write, sync, rename and removal of a stage: what counts is whole, and nothing is lost."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dualprune.pipeline.store import inventory
from dualprune.pipeline.store.store import Store
from dualprune.stages.artefacts.manifest import check, damages, take
from dualprune.stages.files.folder import Folder
from dualprune.stages.kinds.job import StageJob
from dualprune.stages.training.stage import run_stage
from tests.stages.conftest import MakeTask
from tests.stages.faults import DIED, How, faults
from tests.stages.training.test_stage import prune, quiet, same_bytes

pytestmark = pytest.mark.usefixtures("one_rank")

KEY = "0123456789abcdef"


@pytest.fixture
def tiny(make_task: MakeTask) -> Callable[[str], StageJob]:
    """A prune of four epochs of two steps, in a store of that name: three checkpoints, the first of them removed."""
    return lambda store: make_task(prune(batch=160), KEY, store=store)


@pytest.fixture
def undisturbed(tiny: Callable[[str], StageJob]) -> tuple[StageJob, int]:
    """That stage, run in peace, and the number of calls at which a fault can strike."""
    task = tiny("undisturbed")
    with faults(0, "dies") as counted:
        run_stage(task, quiet)
    for call in ("open", "write", "fsync", "replace"):
        assert counted.calls.count(call) == 3 * 2 + 5, counted.calls
    assert counted.calls.count("mkdir") >= 1 + 3, counted.calls
    assert counted.calls.count("unlink") == 2 + 2 * 2
    assert counted.calls.count("rmdir") == 1 + 3
    return task, counted.count


def settled() -> None:
    """Return when no checkpoint is being written any more."""
    for thread in threading.enumerate():
        if thread.name == "checkpoint":
            thread.join()


def holds(task: StageJob, undisturbed: StageJob, how: How) -> None:
    """What counts is whole; the same stage run again ends with the undisturbed one's bits, and all is whole."""
    settled()
    store = Store(task.store)
    assert inventory.verify(store).damages == ()
    run_stage(task, quiet)
    same_bytes(task, undisturbed)
    found = inventory.verify(store)
    assert (found.artefacts, found.damages) == (1, ())
    parts = [path for path in store.folder.files() if path.endswith(".part")]
    assert len(parts) <= (0 if how == "fails once" else 1)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["fails once", "fails from then on"])
def test_a_failure_at_any_call_loses_nothing(
    tiny: Callable[[str], StageJob], undisturbed: tuple[StageJob, int], how: How
) -> None:
    """From OSError at the first to OSError at the last."""
    whole, count = undisturbed
    for n in range(1, count + 1):
        task = tiny(f"store-{n}")
        committed = False
        with faults(n, how) as fault:
            try:
                run_stage(task, quiet)
                committed = True
            except OSError as error:
                assert f"fault {n} at {fault.calls[n - 1]}" in str(error)  # noqa: PT017 - some faults do no harm
            settled()
        assert fault.count >= n
        assert Folder(task.store).exists(f"{KEY}/manifest.json") is committed, (n, fault.calls[n - 1])
        holds(task, whole, how)


@pytest.mark.slow
def test_a_death_at_any_call_loses_nothing(
    tiny: Callable[[str], StageJob], undisturbed: tuple[StageJob, int], dying: Callable[[int, StageJob], int]
) -> None:
    """The process is gone at that instant, with all its threads; the machine's memory of files is not."""
    whole, count = undisturbed
    assert dying(0, tiny("warming")) == 0
    for n in range(1, count + 1):
        task = tiny(f"store-{n}")
        assert dying(n, task) == DIED
        holds(task, whole, "dies")
    last = tiny("last")
    assert dying(count + 1, last) == 0
    same_bytes(last, whole)


@pytest.mark.parametrize("how", ["fails once", "fails from then on"])
def test_a_copied_artefact_is_there_or_not(
    tiny: Callable[[str], StageJob], undisturbed: tuple[StageJob, int], tmp_path: Path, how: How
) -> None:
    """Whichever of its writes fails."""
    source = Folder(undisturbed[0].store) / KEY
    with faults(0, how) as counted:
        take(source, Folder(str(tmp_path / "counted")), {"name": "copy"})
    for n in range(1, counted.count + 1):
        copy = Folder(str(tmp_path / f"copy-{n}"))
        with faults(n, how), pytest.raises(OSError, match=f"fault {n} at"):
            take(source, copy, {"name": "copy"})
        assert check(copy) is None
        assert take(source, copy, {"name": "copy"}) == check(copy)


DAMAGES: dict[str, Callable[[bytes], bytes | None]] = {
    "flipped": lambda data: data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 0x10]) + data[len(data) // 2 + 1 :],
    "cut": lambda data: data[:-3],
    "emptied": lambda data: b"",
    "gone": lambda data: None,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_artefact_is_noticed_and_made_again(
    tiny: Callable[[str], StageJob], undisturbed: tuple[StageJob, int], damage: str
) -> None:
    """Whichever of its files it is."""
    whole, task = undisturbed[0], tiny("store")
    manifest = run_stage(task, quiet)
    for name in [*manifest["files"], "manifest.json"]:
        path = Path(task.store, KEY, name)
        changed = DAMAGES[damage](path.read_bytes())
        path.unlink() if changed is None else path.write_bytes(changed)
        unlisted = (damage, name) == ("gone", "manifest.json")
        assert len(inventory.verify(Store(task.store)).damages) == (0 if unlisted else 1)
        assert Store(task.store).artefact(KEY) is None
        begun: list[dict[str, Any]] = []
        run_stage(task, begun.append)
        assert (begun[0]["event"], begun[0]["steps"]) == ("training", 0), name
        same_bytes(task, whole)
        assert Store(task.store).artefact(KEY) is not None


def test_any_byte_of_an_artefact_that_changes_is_noticed(undisturbed: tuple[StageJob, int]) -> None:
    """Every 37th byte of every file in turn."""
    folder = Folder(undisturbed[0].store) / KEY
    manifest = check(folder)
    assert manifest is not None
    for name in [*manifest["files"], "manifest.json"]:
        path = Path(folder.root, name)
        data = path.read_bytes()
        for place in range(0, len(data), 37):
            path.write_bytes(data[:place] + bytes([data[place] ^ 0x15]) + data[place + 1 :])
            assert any(name in damage for damage in damages(folder))
        path.write_bytes(data)
    assert damages(folder) == []
    assert check(folder) == manifest


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(
    tiny: Callable[[str], StageJob], undisturbed: tuple[StageJob, int], damage: str
) -> None:
    """Whichever of its files it is; what was not damaged is said to be."""
    for end in ("json", "safetensors"):
        task = tiny(f"store-{end}")
        calls = undisturbed[1]
        with faults(calls - 7 - 5 * 4 + 1, "fails once"), pytest.raises(OSError, match="fault"):
            run_stage(task, quiet)  # the commit's first call: all checkpoints are there
        newest = Path(task.store, KEY, f"checkpoints/step-00000006/part-0-of-1.{end}")
        changed = DAMAGES[damage](newest.read_bytes())
        newest.unlink() if changed is None else newest.write_bytes(changed)
        damages = inventory.verify(Store(task.store)).damages
        assert len(damages) == (0 if (damage, end) == ("gone", "json") else 1)
        begun: list[dict[str, Any]] = []
        run_stage(task, begun.append)
        assert (begun[0]["event"], begun[0]["steps"]) == ("resumed", 4)
        same_bytes(task, undisturbed[0])
