"""Stages whose store and shards are on S3: the same bits, whatever the service does meanwhile."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dualprune.pipeline.store import inventory
from dualprune.pipeline.store.store import Store
from dualprune.stages.data.format import read_manifest
from dualprune.stages.files import folder as files
from dualprune.stages.files.folder import Folder
from dualprune.stages.files.outage import StoreAway, StoreError
from dualprune.stages.kinds.job import StageJob
from dualprune.stages.training.measure import measure
from dualprune.stages.training.stage import run_stage
from tests.s3server import BUCKET, S3Server
from tests.stages.conftest import MakeTask
from tests.stages.faults import DIED, How, service_faults
from tests.stages.files.test_faults import KEY, settled
from tests.stages.files.test_outage import at_epoch
from tests.stages.training.test_stage import FILES, Stop, made, prune, quiet

pytestmark = pytest.mark.usefixtures("one_rank", "s3")

MakeRemote = Callable[[], StageJob]


@pytest.fixture
def local(make_task: MakeTask) -> StageJob:
    """A prune of four epochs on a local disk, run in peace."""
    task = make_task(prune(batch=160), KEY)
    made(task)
    return task


@pytest.fixture
def remote(make_task: MakeTask, shards: str, s3: S3Server) -> MakeRemote:
    """A function that describes the same prune with its store, another one each time, and its shards on S3."""
    url = f"s3://{BUCKET}/{uuid.uuid4().hex}"
    there = Folder(f"{url}/shards")
    for name in Folder(shards).names():
        there.write(name, Folder(shards).read(name))

    def make() -> StageJob:
        store = f"{url}/{uuid.uuid4().hex}"
        Folder(store).establish()
        return make_task(prune(batch=160), KEY).model_copy(update={"store": store, "shards": there.url})

    return make


def same(task: StageJob, local: StageJob) -> None:
    """The artefact on S3 has the bytes of the one on the disk, and nothing else is left of the stage."""
    for name in FILES:
        assert Folder(task.store).read(f"{KEY}/{name}") == Path(local.store, KEY, name).read_bytes(), name
    assert inventory.verify(Store(task.store)) == inventory.Verified(1, 0, ())


def test_a_stage_that_is_stopped_goes_on(remote: MakeRemote, local: StageJob) -> None:
    """From its checkpoint; the artefact is measured from there too."""
    task = remote()
    assert read_manifest(task.shards) == read_manifest(local.shards)

    def stop() -> None:
        raise Stop

    with pytest.raises(Stop):
        run_stage(task, at_epoch(3, stop))
    settled()
    assert Store(task.store).checkpoint_steps(KEY) == 4
    begun: list[dict[str, Any]] = []
    manifest = run_stage(task, begun.append)
    assert manifest is not None
    assert (begun[0]["event"], begun[0]["steps"]) == ("resumed", 4)
    same(task, local)
    found = measure(f"{task.store}/{KEY}", task.shards)
    assert found == {name: manifest["metrics"][name] for name in found}


def test_a_damaged_object_is_noticed_and_made_again(remote: MakeRemote, local: StageJob) -> None:
    """As on a disk."""
    task = remote()
    run_stage(task, quiet)
    folder = Folder(task.store) / KEY
    folder.write("model.safetensors", folder.read("model.safetensors")[:-1])
    assert Store(task.store).artefact(KEY) is None
    run_stage(task, quiet)
    same(task, local)


@pytest.mark.slow
def test_a_service_that_refuses_now_and_then(remote: MakeRemote, local: StageJob, s3: S3Server) -> None:
    """Every seventh request is answered with 503: nobody notices."""
    count = 0

    def seventh(method: str, path: str) -> bool:
        nonlocal count
        count += 1
        return count % 7 == 0

    task = remote()
    s3.refuses = seventh
    try:
        run_stage(task, quiet)
    finally:
        s3.refuses = lambda method, path: False
    assert count > 30
    same(task, local)


@pytest.mark.slow
def test_a_service_that_is_away_for_a_moment(remote: MakeRemote, local: StageJob, s3: S3Server) -> None:
    """The stage waits for it and goes on."""
    task = remote()
    again = threading.Timer(3.0, s3.start)

    def stop() -> None:
        s3.stop()
        again.start()

    events: list[dict[str, Any]] = []
    at_second = at_epoch(2, stop)

    def log(event: dict[str, Any]) -> None:
        events.append(event)
        at_second(event)

    run_stage(task, log)
    again.join()
    assert [event["event"] for event in events] == ["training"] + ["epoch"] * 4
    same(task, local)


@pytest.mark.slow
def test_a_service_that_stays_away(
    remote: MakeRemote, local: StageJob, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Patience ends with an error that names the store; when it is back, the stage goes on."""
    task = remote()
    monkeypatch.setattr(files, "PATIENCE", 0.0)
    try:
        with pytest.raises(StoreAway, match=rf"the store {task.store} does not answer .*, then run the same command"):
            run_stage(task, at_epoch(3, s3.stop))
        settled()
    finally:
        s3.start()
    begun: list[dict[str, Any]] = []
    run_stage(task, begun.append)
    assert (begun[0]["event"], begun[0]["steps"]) == ("resumed", 4)
    same(task, local)


@pytest.mark.slow
@pytest.mark.parametrize(
    "how", ["fails once", pytest.param("fails from then on", marks=pytest.mark.soak), "does it and fails"]
)
def test_a_failure_at_any_request_loses_nothing(remote: MakeRemote, local: StageJob, how: How) -> None:
    """Whether it was carried out or not."""
    counting = remote()
    with service_faults(counting.store, 0, how) as counted:
        run_stage(counting, quiet)
    assert (counted.calls.count("put_file"), counted.calls.count("pipe_file")) == (3, 3 + 5)
    assert counted.calls.count("rm") == 2
    for n in range(1, counted.count + 1):
        task = remote()
        with service_faults(task.store, n, how):
            try:
                run_stage(task, quiet)
            except OSError as error:
                assert f"fault {n} at " in str(error)  # noqa: PT017 - some faults do no harm
            settled()
        recovered(task, local)


@pytest.mark.slow
def test_a_death_at_any_request_loses_nothing(
    remote: MakeRemote, local: StageJob, dying: Callable[[int, StageJob], int]
) -> None:
    """The process is gone before it."""
    assert dying(0, remote()) == 0
    n, code = 1, DIED
    while code == DIED:
        task = remote()
        code = dying(n, task)
        recovered(task, local)
        n += 1
    assert code == 0
    assert n > 3 * 2 + 5


def recovered(task: StageJob, local: StageJob) -> None:
    """What counts is whole; the same stage run again ends with the undisturbed one's bits, and all is whole."""
    assert inventory.verify(Store(task.store)).damages == ()
    run_stage(task, quiet)
    for name in FILES:
        assert Folder(task.store).read(f"{KEY}/{name}") == Path(local.store, KEY, name).read_bytes(), name
    found = inventory.verify(Store(task.store))
    assert (found.artefacts, found.damages) == (1, ())


def test_a_bucket_that_is_not_there(s3: S3Server) -> None:
    """Is told at the first write."""
    with pytest.raises(FileNotFoundError, match="bucket does not exist"):
        Store("s3://no-such-bucket/runs").probe()


def test_without_credentials(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says what is missing."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    kind = type(Folder(f"s3://{BUCKET}").fs)
    kind.clear_instance_cache()
    try:
        with pytest.raises(StoreError, match=rf"the store s3://{BUCKET}/runs wants credentials"):
            Store(f"s3://{BUCKET}/runs").probe()
    finally:
        kind.clear_instance_cache()
