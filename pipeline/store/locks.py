"""Locks in a store, so that two drivers never work on the same thing.

<store>/locks/names/<name>/00000007.json   the 7th holding of a lock: by whom, and whether it is over
<store>/locks/holders/<token>.json         one process's heartbeat, for all the locks that it holds
<store>/locks/holders/<token>.robbed       another process took that one for dead

The newest holding of a lock says who has it. Holdings are only ever added, by creating a file that must
not be there yet; nobody writes another one's, and the newest is never removed. So there is no moment at
which a lock that changes hands is free, or held twice, however slow a process is.

A holder on this machine is dead when its process is. One on another machine is dead when its heartbeat
did not change for `STALE` seconds while we watched: clocks of two machines are never compared.
"""

from __future__ import annotations

import getpass
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal

from dualprune.stages.files.folder import AT_ONCE, Folder, canonical

BEAT = 5.0
"""Seconds between heartbeats."""
STALE = 60.0
"""Seconds without a heartbeat after which a holder on another machine counts as dead."""
AGAIN = 0.005
"""Seconds until another look at a lock that changes hands; network filesystems may show old listings for longer."""
ENDING = 3.0
"""Seconds that a heartbeat under way gets to end, when the locks do."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Holder:
    """Who holds a lock."""

    token: str
    """Of one process's `Locks`."""
    host: str = "an unknown host"
    machine: str = ""
    """Boot and process namespace: equal means that process numbers can be compared."""
    pid: int = 0
    started: int = 0
    """When the process started, in the machine's own ticks: a number may be given to a later process again."""
    user: str = "somebody"
    run: str = ""
    since: str = ""
    """Of the lock; UTC."""
    released: bool = False

    def __str__(self) -> str:
        return f"{self.user} on {self.host} (run {self.run}, process {self.pid}, since {self.since})"


class Held(Exception):
    """A lock is another one's. The message is a sentence that says whose."""

    def __init__(self, name: str, holder: Holder) -> None:
        super().__init__(f"{name} is held by {holder}")


class Lost(Exception):
    """A lock that was held is another one's now. The message is a sentence that says which."""

    def __init__(self, names: Iterable[str]) -> None:
        super().__init__(f"this run seemed dead to another one, which took over {', '.join(names)}")


def run_lock(run: str) -> str:
    """The lock of a run, by its name."""
    return f"run-{run}"


def stage_lock(key: str) -> str:
    """The lock of a stage, by its key: runs with different names may have stages in common."""
    return f"stage-{key}"


class Watch:
    """Whether holders live, from looks at their processes and heartbeats."""

    def __init__(self, folder: Folder, stale: float = STALE) -> None:
        self.folder, self.stale = folder, stale
        self._beats: dict[str, bytes] = {}
        self._changed: dict[str, float] = {}
        self._alive: set[str] = set()
        self._guard = threading.Lock()

    def look(self, holder: Holder) -> Literal["alive", "dead", "unsure"]:
        """What can be said now; `unsure` turns into one of the others within `stale` seconds of looking."""
        if holder.machine == _machine():
            return "alive" if started(holder.pid) == holder.started else "dead"
        token = holder.token
        try:
            beat = self.folder.read_small(f"holders/{token}.json")
        except FileNotFoundError:
            beat = b""
        with self._guard:
            if self._beats.get(token) != beat:
                if token in self._beats:
                    self._alive.add(token)
                self._beats[token], self._changed[token] = beat, time.monotonic()
            if time.monotonic() - self._changed[token] >= self.stale:
                return "dead"
            return "alive" if token in self._alive else "unsure"


class Locks:
    """The locks that this process holds in a store. One thread's heartbeat stands for all of them.

    `store` is the store's folder; `run` names the run in messages to others. Different locks may be taken and released
    on several threads at once.
    """

    def __init__(self, store: Folder, run: str, beat: float = BEAT, stale: float = STALE) -> None:
        self.folder = store / "locks"
        self.beat = beat
        pid = os.getpid()
        self.me = Holder(uuid.uuid4().hex, socket.gethostname(), _machine(), pid, started(pid), _user(), run)
        self._watch = Watch(self.folder, stale)
        self._held: dict[str, int] = {}
        self._lost: set[str] = set()
        self._guard, self._beginning = threading.Lock(), threading.Lock()
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Locks:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def take(self, name: str, wait: bool = False) -> None:
        """Take a lock. Raises Held once its holder is known to live, unless told to `wait` for its end."""
        while (holder := self.try_take(name)) is not None:
            if not wait and self._watch.look(holder) == "alive":
                raise Held(name, holder)
            time.sleep(min(1.0, self.beat / 2))

    def try_take(self, name: str) -> Holder | None:
        """Take a lock if it is free or its holder is dead. Returns at once: None, or who holds it.

        Asked again and again, it takes over from a holder on another machine as soon as that one is known to be dead.
        """
        assert name not in self._held, f"{name} is held by this process already"
        self._begin()
        if self._add(name, 1):  # most locks are taken once, by one: that takes two answers of the store
            return None
        while True:
            number, holder = self._newest(name)
            if holder is not None and not holder.released:
                if self._watch.look(holder) != "dead":
                    return holder
                self._bury(holder)
            if self._add(name, number + 1):
                if holder is not None and not holder.released:
                    _log.warning("the lock %s was taken over from %s, which is dead", name, holder)
                return None
            time.sleep(AGAIN)

    def _add(self, name: str, number: int) -> bool:
        """Add a holding of ours, and whether it is the newest one then; if so, older ones are removed."""
        mine = replace(self.me, since=time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()))
        if not self.folder.create(_place(name, number), canonical(asdict(mine))):
            return False
        numbers = self._numbers(name)
        if numbers[-1] > number:
            # While we were slow, others held it, released it, and removed the holdings that we looked at.
            self.folder.discard(_place(name, number))
            return False
        for old in numbers[:-1]:
            self.folder.discard(_place(name, old))
        with self._guard:
            self._held[name] = number
        return True

    def first(self, name: str) -> bool:
        """Whether a lock that is held was nobody's before: then nobody has worked on what it stands for."""
        with self._guard:
            return self._held[name] == 1

    def release(self, name: str) -> None:
        """Give a lock back. Where that can't be written, others take it over once this process is gone."""
        with self._guard:
            number = self._held.pop(name)
            if name in self._lost:
                self._lost.discard(name)
                return
        try:
            self.folder.write(_place(name, number), canonical(asdict(replace(self.me, released=True))))
        except Exception as error:  # noqa: BLE001 - must not hide why we end
            _log.warning("the lock %s can't be released: %s", name, error)

    def forget(self, name: str) -> None:
        """Give a lock back and leave no trace of it: of a thing that is gone."""
        with self._guard:
            del self._held[name]
        self.folder.remove(f"names/{name}")

    def lost(self) -> list[str]:
        """Locks that another process took over because this one, suspended or cut off, seemed dead."""
        with self._guard:
            return sorted(self._lost)

    def close(self) -> None:
        """Release what is held, and stop the heartbeat."""
        self._ending.set()
        if self._thread is None:
            return
        self._thread.join(ENDING)
        with ThreadPoolExecutor(AT_ONCE, "release") as pool:
            list(pool.map(self.release, list(self._held)))
        try:
            for end in ("json", "robbed"):
                self.folder.discard(f"holders/{self.me.token}.{end}")
        except Exception as error:  # noqa: BLE001 - as in `release`
            _log.warning("the heartbeat of this process's locks can't be removed: %s", error)

    def _bury(self, holder: Holder) -> None:
        """Before a lock is taken from a dead holder: tell it, should it only have been suspended."""
        if holder.machine == _machine():
            self.folder.discard(f"holders/{holder.token}.json")
        else:
            self.folder.write(f"holders/{holder.token}.robbed", b"")

    def _begin(self) -> None:
        """Start the heartbeat; the first one is there before the first lock."""
        with self._beginning:
            if self._thread is None:
                self._write_beat(0)
                self._thread = threading.Thread(target=self._beat_on, name="locks", daemon=True)
                self._thread.start()

    def _beat_on(self) -> None:
        number = 0
        while not self._ending.wait(self.beat):
            number += 1
            try:
                self._write_beat(number)
                if self.folder.exists(f"holders/{self.me.token}.robbed"):
                    self._look_for_losses()
            except Exception as error:  # noqa: BLE001 - a store that is away for a while may come back
                _log.warning("the heartbeat of this process's locks can't be written: %s", error)

    def _write_beat(self, number: int) -> None:
        self.folder.write_json(f"holders/{self.me.token}.json", {"beat": number, **asdict(self.me)})

    def _look_for_losses(self) -> None:
        with self._guard:
            held = dict(self._held)
        for name, number in held.items():
            if max(self._numbers(name), default=0) == number or name in self._lost:
                continue
            holder = self._newest(name)[1]
            _log.error("the lock %s was lost: %s took this process for dead", name, holder)
            with self._guard:
                if name in self._held:
                    self._lost.add(name)

    def _newest(self, name: str) -> tuple[int, Holder | None]:
        """Number and holder of a lock's newest holding; 0 and None where there is none."""
        while numbers := self._numbers(name):
            with suppress(FileNotFoundError):  # a newer one has just taken its place
                return numbers[-1], _holder(self.folder, name, numbers[-1])
            time.sleep(AGAIN)
        return 0, None

    def _numbers(self, name: str) -> list[int]:
        return _numbers(self.folder, name)


def newest(store: Folder, name: str) -> Holder | None:
    """Who took a lock last and has not let go of it, alive or dead; None if nobody has it."""
    folder = store / "locks"
    try:
        holder = _holder(folder, name, _numbers(folder, name)[-1])
    except (FileNotFoundError, IndexError):  # nobody had it yet, or it changes hands while we look
        return None
    return None if holder.released else holder


def living(store: Folder) -> dict[str, Holder]:
    """Locks that are held by processes that live, or may live, by name. May watch for up to STALE seconds."""
    folder = store / "locks"
    watch = Watch(folder)
    unsure = {name: holder for name in folder.names("names") if (holder := newest(store, name)) is not None}
    alive: dict[str, Holder] = {}
    while unsure:
        looks = {name: watch.look(holder) for name, holder in unsure.items()}
        alive |= {name: holder for name, holder in unsure.items() if looks[name] == "alive"}
        unsure = {name: holder for name, holder in unsure.items() if looks[name] == "unsure"}
        if unsure:
            time.sleep(1.0)
    return alive


def lives(store: Folder, holder: Holder, now: Callable[[], float]) -> bool:
    """Whether a holder lives, at one look: one on another machine by its heartbeat's age. `now` asks the store's own
    clock, by which that was written; on a filesystem that has none, a heartbeat that is there counts."""
    if holder.machine == _machine():
        return started(holder.pid) == holder.started
    try:
        beat = (store / "locks").info(f"holders/{holder.token}.json").modified
    except FileNotFoundError:
        return False
    return not beat or now() - beat < STALE


def started(pid: int) -> int:
    """When a process started, in ticks since this machine's boot; 0 if there is no such process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    # From the state on: it is the third field of all, the start the 22nd. A zombie does nothing any more.
    return 0 if fields[0] in "ZX" else int(fields[19])


@cache
def _machine() -> str:
    """Equal in two processes that see each other's numbers; unlike any other where that can't be known."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return uuid.uuid4().hex


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # a container's user may have a number only
        return f"user {os.getuid()}"


def _place(name: str, number: int) -> str:
    return f"names/{name}/{number:08d}.json"


def _numbers(folder: Folder, name: str) -> list[int]:
    return sorted(int(file[:8]) for file in folder.names(f"names/{name}") if len(file) == 13 and file[:8].isdigit())


def _holder(folder: Folder, name: str, number: int) -> Holder:
    """Who a holding is by. Raises FileNotFoundError; one that can't be read is by an unknown process."""
    try:
        return Holder(**folder.read_json(_place(name, number)))
    except (ValueError, TypeError):
        return Holder(f"unknown-{name}-{number}")
