"""Locks, held and raced for by real processes; holders that die, are suspended, or run on another machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from dualprune.pipeline.store import locks as lock
from dualprune.pipeline.store.locks import Held, Holder, Locks, living
from dualprune.stages.files.folder import Folder, canonical
from tests.processes import PATH
from tests.s3server import BUCKET, S3Server

HOLD = """
import sys, time
from dualprune.pipeline.store import locks as lock
from dualprune.stages.files.folder import Folder
store, machine = sys.argv[1:]
if machine:
    lock._machine = lambda: machine
locks = lock.Locks(Folder(store), "other", beat=0.05)
locks.take("name")
print("held", flush=True)
for line in sys.stdin:
    print(locks.lost(), flush=True)
locks.close()
"""
"""Take a lock, and tell for each line of input what was lost; at its end, let go."""

RACE = """
import os, sys, time
from dualprune.pipeline.store.locks import Locks
from dualprune.stages.files.folder import Folder
store, inside, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3])
locks = Locks(Folder(store), "race")
print("ready", flush=True)
sys.stdin.readline()
for _ in range(rounds):
    while locks.try_take("name") is not None:
        time.sleep(0.0005)
    os.close(os.open(f"{inside}/inside", os.O_CREAT | os.O_EXCL))
    with open(f"{inside}/rounds", "a") as file:
        file.write(f"{os.getpid()}\\n")
    os.unlink(f"{inside}/inside")
    locks.release("name")
locks.close()
"""
"""Hold the lock again and again; fails if anybody else is inside."""

TAKE = """
import sys
from dualprune.pipeline.store.locks import Locks
from dualprune.stages.files.folder import Folder
locks = Locks(Folder(sys.argv[1]), "taker")
print("ready", flush=True)
for line in sys.stdin:
    print(locks.try_take(line.strip()) is None, flush=True)
"""
"""Try once to take each lock that is named, and tell whether it was taken."""


@pytest.fixture
def store(place: Folder) -> Folder:
    """An empty store."""
    return place


@pytest.fixture(params=["local", "s3"])
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of an empty store that other processes see too."""
    if request.param == "local":
        return str(tmp_path / "store")
    request.getfixturevalue("s3")
    return f"s3://{BUCKET}/{uuid.uuid4().hex}"


@pytest.fixture
def process() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """A function that starts one of the programs above and waits for its first word; all are ended after."""
    begun: list[subprocess.Popen[str]] = []

    def start(code: str, *arguments: str) -> subprocess.Popen[str]:
        begun.append(
            subprocess.Popen(
                [sys.executable, "-c", code, *arguments],
                env=os.environ | {"PYTHONPATH": PATH},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
        assert begun[-1].stdout is not None
        begun[-1].stdout.readline()
        return begun[-1]

    yield start
    for one in begun:
        with suppress(ProcessLookupError):
            one.send_signal(signal.SIGCONT)
        one.kill()
        one.communicate()


def tell(process: subprocess.Popen[str], line: str) -> str:
    """What a program answers to a line."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{line}\n")
    process.stdin.flush()
    return process.stdout.readline().strip()


def elsewhere(locks: Locks) -> Locks:
    """The same locks as if this process ran on another machine."""
    locks.me = Holder(**(asdict(locks.me) | {"machine": "elsewhere", "host": "gpu7"}))
    return locks


def leave(store: Folder, name: str, holder: Holder) -> None:
    """Put a lock there by hand."""
    store.write(f"locks/names/{name}/00000004.json", canonical(asdict(holder)))


def until(condition: Callable[[], Any]) -> None:
    """Return once it holds; the test's own time limit ends what never does."""
    while not condition():
        time.sleep(0.01)


def test_a_lock_is_one_processes_until_it_is_released(store: Folder) -> None:
    """And whoever else wants it is told whose it is."""
    with Locks(store, "digits") as one, Locks(store, "other") as two:
        assert one.try_take("name") is None
        assert two.try_take("another") is None
        with pytest.raises(Held, match=rf"name is held by .* \(run digits, process {os.getpid()}, since 2.* UTC\)"):
            two.take("name")
        assert two.try_take("name") == Holder(**store.read_json("locks/names/name/00000001.json"))
        assert set(living(store)) == {"name", "another"}
        one.release("name")
        assert set(living(store)) == {"another"}
        two.take("name")
        assert one.try_take("name") is not None
        two.release("name")
        one.take("name")
        assert one.lost() == two.lost() == []
    assert living(store) == {}


def test_an_end_leaves_no_heartbeat_and_one_small_file_a_lock(store: Folder) -> None:
    """Also where locks were still held."""
    locks = Locks(store, "digits")
    for name in ("a", "b"):
        for _ in range(3):
            locks.take(name)
            locks.release(name)
    locks.take("a")
    locks.close()
    assert store.names("locks/holders") == []
    assert store.names("locks/names/a") == ["00000004.json"]
    assert store.names("locks/names/b") == ["00000003.json"]
    Locks(store, "digits").close()


def test_a_lock_that_nobody_had_takes_two_answers_and_one_to_give_back(s3: S3Server) -> None:
    """Of a real client of a bucket, once it has seen that this one refuses to put a file in another one's place."""
    asked: list[str] = []

    def count(method: str, path: str) -> bool:
        asked.append(method)
        return False

    with Locks(Folder(f"s3://{BUCKET}/{uuid.uuid4().hex}"), "digits", beat=1e9) as locks:
        locks.take("name")
        s3.refuses = count
        try:
            locks.take("another")
            assert asked == ["PUT", "GET"]  # the latter a listing
            assert locks.first("another")
            locks.release("another")
            assert asked == ["PUT", "GET", "PUT"]
        finally:
            s3.refuses = lambda method, path: False
        locks.take("another")
        assert not locks.first("another")


def test_a_lock_whose_first_holdings_are_gone_is_taken_as_ever(store: Folder) -> None:
    """They are removed once there are newer ones: that the first can be made again does not make the lock free."""
    with Locks(store, "digits") as one, Locks(store, "other") as two:
        for _ in range(3):
            one.take("name")
            one.release("name")
        one.take("name")
        assert store.names("locks/names/name") == ["00000004.json"]
        assert not one.first("name")
        assert two.try_take("name") == Holder(**store.read_json("locks/names/name/00000004.json"))
        assert store.names("locks/names/name") == ["00000004.json"]


def test_threads_take_different_locks_side_by_side(store: Folder) -> None:
    """And all are given back at the end."""
    names = [f"lock-{number}" for number in range(40)]
    with Locks(store, "digits") as locks:
        with ThreadPoolExecutor(8) as pool:
            assert set(pool.map(locks.try_take, names)) == {None}
        assert set(living(store)) == set(names)
    assert living(store) == {}
    assert store.names("locks/holders") == []


def test_waiting_ends_when_the_holder_does(store: Folder) -> None:
    """One that waits has the lock afterwards."""
    one, two = Locks(store, "one"), Locks(store, "two", beat=0.05)
    one.take("name")
    had: list[bool] = []

    def wait() -> None:
        two.take("name", wait=True)
        had.append(one.try_take("name") is not None)

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.1)
    assert thread.is_alive()
    one.release("name")
    thread.join()
    assert had == [True]
    two.close()
    one.close()


def test_a_killed_process_gives_way_at_once(
    shared: str, process: Callable[..., subprocess.Popen[str]], caplog: pytest.LogCaptureFixture
) -> None:
    """While it lives it does not, though it may be stopped; kill -9 leaves it no time to say anything."""
    other = process(HOLD, shared, "")
    with Locks(Folder(shared), "mine") as locks:
        with pytest.raises(Held, match=rf"run other, process {other.pid},"):
            locks.take("name")
        other.send_signal(signal.SIGSTOP)
        assert locks.try_take("name") is not None
        other.kill()
        until(lambda: lock.started(other.pid) == 0)  # a zombie, as nobody has asked for its end yet
        assert living(Folder(shared)) == {}
        assert locks.try_take("name") is None
        assert "taken over from" in caplog.text


def test_an_orderly_end_of_another_process_frees_the_lock(
    tmp_path: Path, process: Callable[..., subprocess.Popen[str]]
) -> None:
    """No takeover is needed."""
    other = process(HOLD, str(tmp_path), "")
    other.communicate()
    assert Folder(str(tmp_path)).names("locks/holders") == []
    with Locks(Folder(str(tmp_path)), "mine") as locks:
        assert locks.try_take("name") is None


def test_another_process_with_the_same_number_is_not_the_holder(store: Folder) -> None:
    """It started at another time."""
    with Locks(store, "mine") as locks:
        leave(store, "name", Holder(**(asdict(locks.me) | {"token": "t", "started": locks.me.started - 1})))
        assert locks.try_take("name") is None


@pytest.mark.parametrize("count", [2, 4])
def test_processes_that_race_take_turns(
    shared: str, tmp_path: Path, process: Callable[..., subprocess.Popen[str]], count: int
) -> None:
    """Many times, and never two of them inside."""
    rounds = (16 if shared.startswith("s3:") else 400) // count
    racers = [process(RACE, shared, str(tmp_path), str(rounds)) for _ in range(count)]
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    assert [racer.wait() for racer in racers] == [0] * count
    turns = (tmp_path / "rounds").read_text().split()
    assert sorted(turns) == sorted(str(racer.pid) for racer in racers for _ in range(rounds))


def test_one_of_those_that_race_takes_over_from_the_dead(
    shared: str, process: Callable[..., subprocess.Popen[str]]
) -> None:
    """Exactly one, each time."""
    rounds, store = 20 if shared.startswith("s3:") else 60, Folder(shared)
    dead = process(HOLD, shared, "")
    holder = Holder(**store.read_json("locks/names/name/00000001.json"))
    dead.kill()
    dead.wait()
    for number in range(rounds):
        leave(store, f"lock-{number}", holder)
    racers = [process(TAKE, shared) for _ in range(3)]
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("".join(f"lock-{number}\n" for number in range(rounds)))
        racer.stdin.flush()
    taken = [[racer.stdout.readline() for _ in range(rounds)] for racer in racers if racer.stdout is not None]
    assert [sum(one == "True\n" for one in turn) for turn in zip(*taken, strict=True)] == [1] * rounds


def test_a_slow_process_does_not_take_what_changed_hands_meanwhile(
    store: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its look and its attempt two others held the lock, and the first one's traces are gone."""
    with Locks(store, "slow") as slow, Locks(store, "quick") as quick, Locks(store, "last") as last:
        create = Folder.create

        def late(folder: Folder, path: str, data: bytes) -> bool:
            monkeypatch.setattr(Folder, "create", create)
            for locks in (quick, last):
                assert locks.try_take("name") is None
                if locks is quick:
                    locks.release("name")
            return create(folder, path, data)

        monkeypatch.setattr(Folder, "create", late)
        holder = slow.try_take("name")
        assert holder is not None
        assert holder.run == "last"
        last.release("name")
        assert slow.try_take("name") is None


def test_a_holder_elsewhere_lives_as_long_as_its_heart_beats(store: Folder) -> None:
    """Nothing is decided at the first look; a change of its heartbeat says that it lives."""
    with elsewhere(Locks(store, "other", beat=0.05)) as other, Locks(store, "mine") as locks:
        other.take("name")
        assert lock.Watch(locks.folder).look(other.me) == "unsure"
        with pytest.raises(Held, match=r"on gpu7 \(run other"):
            locks.take("name")
        assert list(living(store)) == ["name"]


def test_a_holder_elsewhere_whose_heart_stopped_gives_way(store: Folder) -> None:
    """After `stale` seconds of watching, and not before; it learns that it lost the lock when it comes back."""
    other = elsewhere(Locks(store, "other", beat=0.05))
    other.take("name")
    other._ending.set()  # its thread stops, as all of a suspended machine does
    assert other._thread is not None
    other._thread.join()
    with Locks(store, "patient", stale=1e9) as patient:
        assert patient.try_take("name") is not None
        assert patient.try_take("name") is not None
    with Locks(store, "mine", beat=0.05, stale=0.2) as locks:
        began = time.monotonic()
        locks.take("name")
        assert time.monotonic() - began >= 0.2
        other._ending.clear()
        other._thread = threading.Thread(target=other._beat_on)
        other._thread.start()
        until(other.lost)
        assert other.lost() == ["name"]
        other.release("name")
        other.close()
        with Locks(store, "third") as third:
            holder = third.try_take("name")
            assert holder is not None
            assert holder.run == "mine"


def test_a_process_that_was_suspended_says_what_it_lost(
    tmp_path: Path, process: Callable[..., subprocess.Popen[str]]
) -> None:
    """As a real process that takes itself to be on another machine."""
    other = process(HOLD, str(tmp_path), "elsewhere")
    assert tell(other, "?") == "[]"
    other.send_signal(signal.SIGSTOP)
    with Locks(Folder(str(tmp_path)), "mine", beat=0.05, stale=0.5) as locks:
        locks.take("name")
        other.send_signal(signal.SIGCONT)
        until(lambda: tell(other, "?") == "['name']")
        other.communicate()
        assert list(living(Folder(str(tmp_path)))) == ["name"]


def test_a_lock_that_cannot_be_read_is_an_unknown_processes(store: Folder) -> None:
    """It may be being written at this moment; if it stays so, it is taken over."""
    store.write("locks/names/name/00000002.json", b'{"tok')
    with Locks(store, "patient") as patient:
        holder = patient.try_take("name")
        assert holder is not None
        assert "somebody on an unknown host" in str(holder)
    with Locks(store, "mine", beat=0.05, stale=0.1) as locks:
        locks.take("name")
    assert store.names("locks/names/name") == ["00000003.json"]


def test_a_store_that_is_away_for_a_while_loses_no_lock(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The heartbeat goes on when it is back, and the log says that it could not."""
    store = tmp_path / "store"
    with Locks(Folder(str(store)), "mine", beat=0.02) as locks:
        locks.take("name")
        (beat,) = (store / "locks/holders").glob("*.json")
        (store / "locks/holders").rename(tmp_path / "away")
        (store / "locks/holders").write_text("in the way")
        until(lambda: "can't be written" in caplog.text)
        (store / "locks/holders").unlink()
        (tmp_path / "away").rename(store / "locks/holders")
        before = beat.read_text()
        until(lambda: beat.read_text() != before)
        assert locks.lost() == []
        with Locks(Folder(str(store)), "other") as other:
            assert other.try_take("name") is not None
