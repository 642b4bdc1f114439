"""What a process finds around it: no home, folders that Ray can't use, a launcher's variables. In real folders."""

from __future__ import annotations

import os
import pwd
import re
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from dualprune.cluster.errors import ClusterError
from dualprune.cluster.session import settings, start, token
from dualprune.cluster.surroundings import drop_launchers, give_home, ray_folder, writable


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """One that a test may change in any way."""
    before = dict(os.environ)
    for name in ("RAY_TMPDIR", "TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    yield monkeypatch
    os.environ.clear()
    os.environ.update(before)


def unknown(number: int) -> pwd.struct_passwd:
    """A user that the system knows by number only, as in a container."""
    raise KeyError(f"getpwuid(): uid not found: {number}")


def test_a_user_without_a_home_gets_one_as_in_a_container(environment: pytest.MonkeyPatch) -> None:
    """Ray Train and wandb ask for it as they are imported; one who has a home, or says so, keeps it."""
    environment.setenv("HOME", "/somewhere")
    give_home()
    assert os.environ["HOME"] == "/somewhere"
    environment.delenv("HOME")
    give_home()
    assert "HOME" not in os.environ
    environment.setattr(pwd, "getpwuid", unknown)
    assert token() is None
    give_home()
    assert os.environ["HOME"] == "/"


def test_a_local_ray_needs_no_token_from_a_home(environment: pytest.MonkeyPatch) -> None:
    """It is given one of its own, each time another."""
    environment.setenv("HOME", "/dev/null/home")
    assert token() is None
    first, second = (settings(local=True)["RAY_AUTH_TOKEN"] for _ in range(2))
    assert len(first) == 64
    assert first != second
    assert "RAY_AUTH_TOKEN" not in settings(local=False)


@pytest.mark.parametrize("name", ["RAY_TMPDIR", "TMPDIR"])
def test_a_folder_that_ray_cant_use_is_refused_with_the_variable(
    environment: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    """At once, and not in three tries; the longest that goes is what the message says."""
    long = tmp_path / ("long" * 25)
    environment.setenv(name, str(long))
    with pytest.raises(ClusterError, match=rf"^Ray's folder, {name}={long}, is too long .*: set RAY_TMPDIR .*/tmp$"):
        start(None, [])
    assert not long.exists()
    for folder in ("/proc", "/dev/null"):
        environment.setenv(name, folder)
        text = rf"^Ray's folder, {name}={folder}, can't be written \(\[Errno.*\): set RAY_TMPDIR to a folder that can$"
        with pytest.raises(ClusterError, match=text):
            start(None, [])


def test_a_folder_that_is_full_is_refused(environment: pytest.MonkeyPatch) -> None:
    """Files can be made there, but not filled: by a limit on their size here, by a quota elsewhere."""
    environment.setenv("RAY_TMPDIR", "/tmp")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        assert re.match(r"Ray's folder, RAY_TMPDIR=/tmp, can't be written \(\[Errno 27\]", str(ray_folder()))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert ray_folder() is None


def test_the_longest_folder_that_goes_is_what_ray_takes(environment: pytest.MonkeyPatch) -> None:
    """By Ray's own measure, of the names that it makes itself."""
    from ray._common.utils import get_default_system_temp_dir
    from ray._private.utils import validate_socket_filepath

    environment.setenv("TMPDIR", "/nowhere")
    environment.setenv("RAY_TMPDIR", "/" + "x" * 200)
    assert get_default_system_temp_dir() == os.environ["RAY_TMPDIR"]
    problem = ray_folder()
    assert problem is not None
    room = int(problem.partition("at most ")[2].split()[0])

    def socket(length: int) -> str:
        session = f"session_2026-11-28_19-41-10_170222_{os.getpid()}"
        return f"/{'x' * (length - 1)}/ray/{session}/sockets/plasma_store"

    validate_socket_filepath(socket(room))
    with pytest.raises(OSError, match="107 bytes"):
        validate_socket_filepath(socket(room + 1))
    with tempfile.TemporaryDirectory(dir="/tmp") as short:
        environment.setenv("RAY_TMPDIR", f"{short}/{'x' * (room - len(short) - 1)}")
        assert ray_folder() is None
        environment.setenv("RAY_TMPDIR", f"{short}/{'x' * (room - len(short))}")
        assert "too long" in str(ray_folder())


LISTENS = """
from multiprocessing.connection import Listener
from dualprune.cluster.surroundings import drop_long_temporary
drop_long_temporary()
with Listener(family="AF_UNIX") as listener:
    print(listener.address)
"""


def test_a_temporary_folder_that_is_too_long_for_sockets_is_not_used() -> None:
    """As multiprocessing makes them, by which a DataLoader's processes pass tensors on; a shorter one stays."""
    with tempfile.TemporaryDirectory(dir="/tmp") as short:
        rest = 107 - len("/pymp-01234567/listener-01234567") - len(short) - 1
        for length, used in ((rest, True), (rest + 1, False)):
            folder = Path(short, "x" * length)
            folder.mkdir()
            environment = os.environ | {"TMPDIR": str(folder), "PYTHONPATH": str(Path(__file__).parents[2])}
            address = subprocess.check_output([sys.executable, "-c", LISTENS], env=environment, text=True)
            assert address.startswith(str(folder)) == used


def test_what_a_launcher_said_to_its_own_process_is_forgotten(environment: pytest.MonkeyPatch) -> None:
    """Who it is of how many; what the job has been given stays, and all that Ray says itself."""
    gone = ("OMPI_COMM_WORLD_LOCAL_RANK", "PMI_SIZE", "PMIX_RANK", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_STEP_ID")
    gone += ("MV2_COMM_WORLD_RANK", "MPI_LOCALRANKID", "PALS_LOCAL_RANKID", "TORCHELASTIC_USE_AGENT_STORE")
    stay = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "SLURM_JOB_ID", "SLURM_TMPDIR", "PMI", "NTASKS")
    for name in (*gone, *stay):
        environment.setenv(name, "1")
    drop_launchers()
    assert [name for name in (*gone, *stay) if name in os.environ] == list(stay)


def test_what_can_be_written(tmp_path: Path) -> None:
    """A folder that is there or can be made, and neither a file nor what nobody can make."""
    assert writable(tmp_path / "new" / "one")
    (tmp_path / "file").touch()
    assert not writable(tmp_path / "file")
    assert not writable(Path("/proc/none"))


@pytest.mark.parametrize("base", ["", "rel", "~/t", "$HOME/x"])
def test_a_folder_that_is_no_absolute_path_is_refused(environment: pytest.MonkeyPatch, base: str) -> None:
    """It would be another one for each process that has another working folder."""
    environment.setenv("RAY_TMPDIR", base)
    assert (
        ray_folder() == f"Ray's folder, RAY_TMPDIR={base!r}, is no absolute path: set RAY_TMPDIR to one, such as /tmp"
    )
