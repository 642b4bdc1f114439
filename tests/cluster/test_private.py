"""What is used of Ray beyond its documentation: there, or refused in words; and as what it is taken for."""

from __future__ import annotations

import mmap
import os
import re
import signal
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dualprune.cluster import names, private
from dualprune.cluster.errors import ClusterError

ALL = (*private.USED, *private.TRAIN)


@pytest.mark.parametrize("number", range(len(ALL)))
def test_a_name_that_is_gone_is_told(number: int) -> None:
    """Whichever of them another version calls otherwise."""
    module, name = ALL[number]
    used = (*ALL[:number], (module, f"{name}_no_more"), *ALL[number + 1 :])
    with pytest.raises(ClusterError) as caught:
        private.check(used)
    import ray

    assert str(caught.value) == (
        f"Ray {ray.__version__} lacks {module}.{name}_no_more, which dualprune uses: install one of the versions that"
        " dualprune's pyproject.toml names"
    )


def test_this_version_has_them_all() -> None:
    private.check()
    private.check(private.TRAIN)


def test_what_ray_calls_private_has_one_door() -> None:
    """No other file of the package imports it, or reads an attribute of it."""
    folder = Path(private.__file__).parent
    private_parts = re.compile(r"\bray\.(\w+\.)*_|\b(core_worker|_global_node|ray\.core\.generated|RAY_RAYLET_PID)\b")
    found = {path.name for path in folder.glob("*.py") if private_parts.search(path.read_text())}
    assert found == {"private.py"}


def test_all_that_a_version_lacks_is_told_at_once() -> None:
    """A module that is gone as well, and whatever hangs on a name that is."""
    used = (("os", "path.join"), ("os", "no.more"), ("os", "path.no_more"), ("no_such_module", "name"))
    assert names.lacking("Its", "9.0", used) == (
        "Its 9.0 lacks os.no.more, os.path.no_more, no_such_module.name, which dualprune uses: install one of the"
        " versions that dualprune's pyproject.toml names"
    )


def test_a_setting_that_ray_does_not_document_is_one_of_its_own() -> None:
    """Ray passes over those that it does not know."""
    import ray

    with (Path(ray.__file__).parent / "core/src/ray/raylet/raylet").open("rb") as file:
        code = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        for name in private.SETTINGS:
            assert code.find(name.removeprefix("RAY_").encode() + b"\0") > 0, name


def test_a_machine_that_was_taken_away_is_none_that_failed() -> None:
    """By the number that Ray gives the reason, in versions so far."""
    assert private.preempted({"Alive": False, "DeathReason": 3})
    assert not any(private.preempted({"Alive": False, "DeathReason": number}) for number in (0, 1, 2, 4))
    assert not private.preempted({"Alive": False})


@pytest.mark.parametrize("local", [True, False])
def test_a_trainer_goes_without_what_it_does_not_need(local: bool) -> None:
    """And with all the others of Ray Train's own callbacks."""
    from ray.train import ScalingConfig
    from ray.train.torch import TorchTrainer

    def names(trainer: Any) -> list[str]:
        made = trainer(print, scaling_config=ScalingConfig(num_workers=1))
        return [type(callback).__name__ for callback in made._create_default_callbacks()]

    theirs, ours = names(TorchTrainer), names(private.spare(TorchTrainer, local))
    out = ("Datasets", "PlacementGroup") if local else ("Datasets",)
    assert len(ours) > 1
    assert ours == [name for name in theirs if not name.startswith(out)]


@pytest.mark.parametrize("local", [True, False])
def test_a_local_group_asks_for_no_machines(monkeypatch: pytest.MonkeyPatch, local: bool) -> None:
    """On a cluster it asks who starts them, before its workers start, as it does by itself."""
    from ray import cloudpickle
    from ray.train import ScalingConfig
    from ray.train.torch import TorchTrainer
    from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy, scaling_policy

    asked, given = [], {}

    class Client:
        def __init__(self, requester: str) -> None:
            asked.append(requester)

        def __getattr__(self, name: str) -> Any:
            return lambda *_: asked.append(name)

    monkeypatch.setattr(scaling_policy, "TrainAutoscalingCoordinatorClient", Client)
    monkeypatch.setattr(TorchTrainer, "_initialize_and_run_controller", lambda self, **all: given.update(all))
    scaling = ScalingConfig(num_workers=1)
    trainer = private.spare(TorchTrainer, local)(print, scaling_config=scaling)
    trainer._initialize_and_run_controller(scaling_policy=FixedScalingPolicy(scaling))
    policy = cloudpickle.loads(cloudpickle.dumps(given["scaling_policy"])) if local else given["scaling_policy"]
    policy.after_controller_start(SimpleNamespace(run_id="run"))
    decision = policy.make_decision_for_non_running_worker_group()
    policy.before_controller_abort()
    assert decision.num_workers == 1
    assert bool(asked) is not local


def test_a_group_without_room_is_known_from_one_that_failed() -> None:
    """As Ray Train raises it."""
    from ray.train import ControllerError
    from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError

    assert private.no_room(ControllerError(WorkerGroupStartupTimeoutError(2)))
    assert not private.no_room(ControllerError(ValueError("no")))
    assert not private.no_room(None)


def test_of_a_cluster_nothing_is_killed() -> None:
    """Where this process has started no Ray, there are no processes to ask after."""
    private.kill()
    assert private.whole()
    assert private.raylet() is None


def test_workers_that_outlive_their_ray_are_killed(caplog: pytest.LogCaptureFixture) -> None:
    """Those that do not end in the time that they get, and no other's."""
    number = 2**31 - 1
    quick, slow, others = (
        subprocess.Popen(["sleep", seconds], env={"PATH": os.environ["PATH"], "RAY_RAYLET_PID": str(of)})
        for seconds, of in (("0.2", number), ("60", number), ("60", number - 1))
    )
    try:
        private.end_left(number, patience=2.0)
        assert (quick.wait(10), slow.wait(10), others.poll()) == (0, -signal.SIGKILL, None)
        assert [record.args for record in caplog.records] == [(slow.pid,)]
    finally:
        others.kill()
        others.wait()
