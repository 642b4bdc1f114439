"""The command line: verbs, flags, exit codes, and what is printed where."""

from __future__ import annotations

import argparse
import json
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

import dualprune
from dualprune.cluster.errors import ClusterError, ClusterGone
from dualprune.cluster.failures import Failure
from dualprune.cluster.spared import WARNINGS
from dualprune.pipeline import output
from dualprune.pipeline.cli import main as cli
from dualprune.pipeline.plan import make as planning
from dualprune.pipeline.run import driver, here
from dualprune.pipeline.run.results import AMOUNTS
from dualprune.pipeline.store.locks import Locks
from dualprune.pipeline.store.store import Store
from dualprune.stages.data.format import DataError
from dualprune.stages.files.outage import StoreError
from tests.pipeline.common import artefact, config, loaded
from tests.pipeline.run.test_driver import Scripted
from tests.pipeline.run.test_results import FIELDS

VERBS = ["run", "plan", "status", "watch", "evaluate"]


def finished(folder: Path, *names: str) -> None:
    """Put artefacts of CONFIG's stages into its store."""
    settings, problems = loaded(folder)
    for p in planning.make(settings, problems)[1]:
        if p.node.name in names:
            artefact(settings.top.store, p.node.key)


def scripted(monkeypatch: pytest.MonkeyPatch, script: dict[str, Any]) -> None:
    """Runs follow a script."""
    monkeypatch.setattr(driver, "Lanes", lambda *_: Scripted(script))


def test_the_flags_are_these() -> None:
    """A setting belongs in the configuration; a new flag is a decision that changes this list."""
    (verbs,) = [a for a in cli._parser()._actions if isinstance(a, argparse._SubParsersAction)]
    flags = {
        verb: [" ".join(action.option_strings) or action.dest for action in parser._actions]
        for verb, parser in verbs.choices.items()
        if verb != "store"
    }
    run, there = ["--from", "--only", "--force", "--smoke", "--keep-going", "--wait"], ["--address", "--follow"]
    own = {"plan": ["--dot", "--tensors", "--images-per-second", "--print-config"]}
    of_jobs = {
        "jobs": ["-h --help", "--address", "--json"],
        "logs": ["-h --help", "job", *there],
        "stop": ["-h --help", "job", "--address"],
    }
    given = ["config", "--set", "--json"]
    configured = {verb: ["-h --help", *given, *own.get(verb, [])] for verb in VERBS}
    configured |= {
        "run": ["-h --help", *run, "--inline", *given, "--print-config"],
        "submit": ["-h --help", *run, *given, *there],
    }
    places = ["-h --help", "source", "dest", "--split", "--held", "--bad", "--label-field", "--json"]
    made = ["--resize", "--quality", "--size", "--seed", "--max-pixels", "--no-check", "--processes", "--folder"]
    tables = ["--cut", "--label", "--target", "--columns", "--standardise", "--tokenizer", "--length"]
    whole = {"index": [*places, "--fields"], "shards": [*places, *tables, *made]}
    of_shards = whole | {"verify": ["-h --help", "shards", "--json"]}
    made = ["--model", "--data", "--args", "--classes", "--weights", "--objective", "-o --output"]
    helps = {
        "recipes": ["--json"],
        "init": [*made],
        "explain": ["setting", "--json"],
        "schema": [],
        "completion": ["shell"],
    }
    of_help = {verb: ["-h --help", *own] for verb, own in helps.items()}
    inputs = ["--data", "--sample", "--noise", "--store", "--json"]
    exported = {"export": ["-h --help", "artefact", "--format", "--out", "--half", *inputs]}
    page = ["--store", "--set", "--out", "--figures", "--json"]
    pages = {"report": ["-h --help", "run", "--stage", *page], "compare": ["-h --help", "runs", *page]}
    looked = {verb: flags[verb] for verb in ("speed", "saliency")}
    assert flags == configured | of_jobs | of_shards | of_help | exported | pages | looked


def test_help_lists_all_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    """With a line for each, and exit code 0."""
    with pytest.raises(SystemExit) as ended:
        cli.main(["--help"])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert all(any(row.split()[:1] == [verb] for row in printed.splitlines()) for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_has_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    """That names its arguments."""
    with pytest.raises(SystemExit) as ended:
        cli.main([verb, "--help"])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert all(word in printed for word in (f"dualprune {verb}", "CONFIG", "--set", "--json"))


@pytest.mark.parametrize("arguments", [[], ["prune"], ["run"], ["run", "x", "--fast"], ["plan", "x", "--set"]])
def test_a_wrong_command_line_is_bad_input(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2, with the usage."""
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == output.BAD_INPUT
    assert "usage: dualprune" in capsys.readouterr().err


WRONG: dict[str, Callable[[Path], list[str]]] = {
    "no such file": lambda folder: ["nowhere.yaml"],
    "a folder": lambda folder: [str(folder)],
    "broken yaml": lambda folder: [str(config(folder, ("name: tiny", "name: [")))],
    "a wrong setting": lambda folder: [str(config(folder, ("rate: 2", "rate: 0.5")))],
    "a bad override": lambda folder: [str(config(folder)), "--set", "seed"],
    "an unwritable store": lambda folder: [str(config(folder)), "--set", "store=/dev/null/x"],
    "a store of no kind": lambda folder: [str(config(folder)), "--set", "store=nowhere://x"],
    "no shards": lambda folder: [str(config(folder)), "--set", "data={shards: /nowhere}"],
    "shards of no kind": lambda folder: [str(config(folder)), "--set", "data={shards: nowhere://x}"],
}
TOO_MANY = ("--set", "cluster.cpus=999999")


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("wrong", WRONG)
def test_bad_input_ends_with_2_and_no_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: str, wrong: str
) -> None:
    """Whatever is wrong, for every verb: the problem on stderr, nothing on stdout."""
    assert cli.main([verb, *WRONG[wrong](tmp_path)]) == output.BAD_INPUT
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "1 problem" in printed.err
    assert "Traceback" not in printed.err


@pytest.mark.parametrize("verb", ["run", "plan"])
def test_more_workers_than_this_machine_has_cpus(tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: str) -> None:
    """A local run could never begin."""
    assert cli.main([verb, str(config(tmp_path)), *TOO_MANY]) == output.BAD_INPUT
    assert "1 workers of 999999 CPUs need 999999, but this machine has" in capsys.readouterr().err


def test_what_runs_elsewhere_can_be_looked_at_here(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also where this machine could never run it."""
    finished(tmp_path, "dense")
    assert cli.main(["status", str(config(tmp_path)), *TOO_MANY]) == output.DONE
    assert "97.50" in capsys.readouterr().out


def test_problems_are_printed_with_their_places(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A line for each, unbroken, and square brackets stay."""
    path = config(tmp_path, ("rate: 2", "rate: 0.5"), ("epochs: 2", "epochs: 2.5"))
    cli.main(["plan", str(path)])
    rows = capsys.readouterr().err.splitlines()
    assert rows[0] == f"{path}: 2 problems"
    assert rows[1].startswith("  file.yaml:11: stages[0].train.epochs: ")
    assert rows[2].startswith("  file.yaml:16: stages[1].constraints[0].rate: ")


def test_workers_beyond_this_machine_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By CPUs of all workers together; another cluster's size is not ours to know."""
    monkeypatch.setattr("dualprune.cluster.session.cpus", lambda: 4)
    path = str(config(tmp_path))
    assert cli.main(["plan", path, "--set", "cluster={workers: 8, cpus: 0.5}"]) == output.DONE
    assert cli.main(["plan", path, "--set", "cluster={workers: 5, address: auto}"]) == output.DONE
    assert cli.main(["plan", path, "--set", "cluster={workers: {min: 4, max: 16}}"]) == output.DONE
    capsys.readouterr()
    assert cli.main(["plan", path, "--set", "cluster={workers: 3, cpus: 1.5}"]) == output.BAD_INPUT
    found = capsys.readouterr().err
    assert "cluster.workers: 3 workers of 1.5 CPUs need 4.5, but this machine has 4" in found


def test_a_plan_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One object on stdout: the run's name, and for each stage what would be done and why."""
    finished(tmp_path, "dense")
    assert cli.main(["plan", str(config(tmp_path)), "--json"]) == output.DONE
    value = json.loads(capsys.readouterr().out)
    assert list(value) == ["run", "stages", "device", "left"]
    assert value["run"] == "tiny"
    fields = ["name", "kind", "key", "parents", "state", "why", "notes", *AMOUNTS, "epochs", "steps"]
    fields += ["estimated_seconds", "estimated_device_hours"]
    assert all(list(stage) == fields for stage in value["stages"])
    by_name = {stage["name"]: stage for stage in value["stages"]}
    assert sorted(by_name) == ["dense", "half", "other", "v1.5-quarter"]
    assert (by_name["dense"]["state"], by_name["dense"]["why"]) == ("cached", "done")
    assert (by_name["half"]["parents"], by_name["half"]["state"]) == (["dense"], "run")


def test_a_plan_for_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A line a stage: name, key, state, rate, epochs, steps, time by what is done already, reason; and what is left."""
    finished(tmp_path, "dense")
    assert cli.main(["plan", str(config(tmp_path))]) == output.DONE
    head, *rows = [row.split() for row in capsys.readouterr().out.splitlines()]
    rates = ["rate", "network", "rate"]
    assert head == ["stage", "key", "state", *rates, "epochs", "steps", "estimate", "worker", "hours", "why"]
    assert {row[0]: (row[2], " ".join(row[3:])) for row in rows} == {
        "dense": ("cached", "2.00x 2 2 done"),
        "half": ("run", "2.00x 2.00x 2 2 0:01 0.00 not run yet"),
        "v1.5-quarter": ("run", "4.00x 4.00x 2 2 0:01 0.00 not run yet"),
        "other": ("run", "2.00x 1.01x 2 2 0:01 0.00 not run yet"),
        "left": ("do", "6 6 0:02 0.00"),
    }


@pytest.mark.parametrize("verb", ["run", "plan"])
def test_a_configuration_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: str) -> None:
    """And nothing else is done."""
    path = str(config(tmp_path))
    assert cli.main([verb, path, "--print-config", "--set", "seed=7"]) == output.DONE
    (tmp_path / "again.yaml").write_text(capsys.readouterr().out)
    assert not (tmp_path / "store").exists()
    assert cli.main([verb, str(tmp_path / "again.yaml"), "--print-config", "--json"]) == output.DONE
    found = json.loads(capsys.readouterr().out)
    assert (found["seed"], [stage["name"] for stage in found["stages"]][:2]) == (7, ["dense", "half"])


def test_a_status_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The last line of stdout is one object; the table goes to stderr."""
    finished(tmp_path, "dense")
    assert cli.main(["status", str(config(tmp_path)), "--json"]) == output.DONE
    printed = capsys.readouterr()
    value = json.loads(printed.out)
    assert all(list(stage) == FIELDS for stage in value["stages"])
    assert {stage["name"]: stage["state"] for stage in value["stages"]}["dense"] == "done"
    assert "residual" in printed.err


def test_a_status_shows_why_a_stage_failed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As it was said, all of it, brackets included."""
    settings, problems = loaded(tmp_path)
    store, plan = planning.make(settings, problems)
    reason = "RuntimeError: [/x] " + "mat1 and mat2 shapes cannot be multiplied (64x512 and 800x500) " * 3
    store.note_failure(plan[0].node.key, reason + "[red] end")
    assert cli.main(["status", str(config(tmp_path))]) == output.DONE
    printed = "".join(capsys.readouterr().out.split())
    assert "".join(f"{reason}[red] end".split()) in printed


@pytest.mark.parametrize("names", [["dense", "half", "other", "v1.5-quarter"], ["dense"], []])
def test_a_run_of_good_stages_ends_with_0(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, names: list[str]
) -> None:
    """Rows of all stages, done now or before, on stdout's last line."""
    finished(tmp_path, *names)
    scripted(monkeypatch, {})
    assert cli.main(["run", str(config(tmp_path)), "--json"]) == output.DONE
    value = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert all(list(stage) == FIELDS for stage in value["stages"])
    states = {stage["name"]: stage["state"] for stage in value["stages"]}
    assert sorted(name for name, state in states.items() if state == "cached") == names
    assert set(states.values()) <= {"cached", "done"}


def test_a_run_records_its_plan_and_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the store, so that the next plan can say what has changed."""
    scripted(monkeypatch, {"half": [Failure("error", "ValueError Exception", "broke", "Traceback of it")]})
    cli.main(["run", str(config(tmp_path))])
    assert set(json.loads((tmp_path / "store/plans/tiny.json").read_text())) >= {"dense", "half"}
    (log,) = (tmp_path / "store" / "logs" / "tiny").glob("*/driver.log")
    assert "Traceback of it" in log.read_text()


def test_a_log_that_cannot_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its disk may be full for a while: told once, without a traceback, and the run goes on."""
    (tmp_path / "driver.log").symlink_to("/dev/full")
    monkeypatch.setattr(here, "logs", lambda *_: tmp_path)
    scripted(monkeypatch, {"half": [Failure("error", "ValueError Exception", "broke", "Traceback of it")]})
    assert cli.main(["run", str(config(tmp_path))]) == output.FAILED
    printed = capsys.readouterr()
    told = "".join((printed.out + printed.err).split("\n"))
    assert told.count("driver.log can't be written at the moment ([Errno 28] No space left on device)") == 1
    assert "Traceback" not in told


def test_a_failed_stage_ends_with_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And its reason on stderr."""
    scripted(monkeypatch, {"half": [Failure("error", "ValueError Exception", "[/x] broke")]})
    assert cli.main(["run", str(config(tmp_path)), "--json"]) == output.FAILED
    printed = capsys.readouterr()
    assert "half failed: ValueError: [/x] broke" in printed.err
    states = {stage["name"]: stage["state"] for stage in json.loads(printed.out.splitlines()[-1])["stages"]}
    assert (states["half"], states["v1.5-quarter"]) == ("failed", "skipped")


def test_the_reason_of_a_failure_is_told_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it happens, on stderr; the table at the end says which stage it was. Then `status` tells it."""
    scripted(monkeypatch, {"half": [Failure("error", "ValueError Exception", "[/x] broke")]})
    assert cli.main(["run", str(config(tmp_path))]) == output.FAILED
    printed = capsys.readouterr()
    assert (printed.out.count("broke"), printed.err) == (0, "half failed: ValueError: [/x] broke\n")
    assert "(failed: as told above)" in printed.out
    assert cli.main(["status", str(config(tmp_path))]) == output.DONE
    assert capsys.readouterr().out.count("(failed: ValueError: [/x] broke)") == 1


def test_the_version_is_the_package_s(capsys: pytest.CaptureFixture[str]) -> None:
    """With those of what it stands on, which a report of a fault should name."""
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert ended.value.code == 0
    words = capsys.readouterr().out.split()
    assert words[:2] == ["dualprune", dualprune.__version__]
    assert f"{version('torch')}," in words
    assert version("dualprune") == dualprune.__version__


def test_the_help_of_run_is_in_groups(capsys: pytest.CaptureFixture[str]) -> None:
    """Each option is under what it is for."""
    with pytest.raises(SystemExit):
        cli.main(["run", "--help"])
    groups: dict[str, list[str]] = {}
    for line in capsys.readouterr().out.splitlines():
        if line.endswith(":") and not line.startswith(" "):
            options = groups[line] = []
        elif line.startswith("  --"):
            options.append(line.split()[0])
    assert list(groups.values()) == [
        [],
        ["--print-config"],
        ["--from", "--only", "--force"],
        ["--smoke", "--inline"],
        ["--keep-going", "--wait"],
        ["--set"],
        ["--json"],
    ]


def test_a_cluster_that_does_not_answer_is_bad_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reported at `cluster`."""

    def lanes(*_: Any) -> None:
        raise ClusterError("no Ray cluster answers at host:1")

    monkeypatch.setattr(driver, "Lanes", lanes)
    assert cli.main(["run", str(config(tmp_path)), "--set", "cluster.address=host:1"]) == output.BAD_INPUT
    assert "cluster: no Ray cluster answers at host:1" in capsys.readouterr().err


def test_a_cluster_that_goes_away_is_no_bad_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line says so, and how to go on; the run has failed."""
    lanes = Scripted({})

    def take(timeout: float) -> None:
        raise ClusterGone("the Ray cluster went away (nothing answers at host:1)")

    monkeypatch.setattr(lanes, "take", take)
    monkeypatch.setattr(driver, "Lanes", lambda *_: lanes)
    assert cli.main(["run", str(config(tmp_path))]) == output.FAILED
    assert lanes.closed
    text = "the Ray cluster went away (nothing answers at host:1)\n"
    assert capsys.readouterr().err == text


def test_a_store_that_fails_ends_a_run_with_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And its sentence, whether it failed under a stage or under the driver."""
    full = StoreError("the store /x has no space left: free some")
    scripted(monkeypatch, {"half": [Failure("error", "StoreError OSError Exception", str(full))]})

    def no_space(*_: Any) -> None:
        raise full

    monkeypatch.setattr(Store, "note_failure", lambda self, key, reason: no_space() if reason else None)
    assert cli.main(["run", str(config(tmp_path))]) == output.FAILED
    assert "half failed: StoreError: the store /x has no space left" in capsys.readouterr().err
    scripted(monkeypatch, {})
    monkeypatch.setattr(Store, "note_failure", no_space)
    assert cli.main(["run", str(config(tmp_path))]) == output.FAILED
    printed = capsys.readouterr()
    assert printed.err == f"{full}\n"


def test_an_interrupted_run_ends_with_130(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And says how to go on."""
    lanes = Scripted({})

    def take(timeout: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(lanes, "take", take)
    monkeypatch.setattr(driver, "Lanes", lambda *_: lanes)
    assert cli.main(["run", str(config(tmp_path))]) == output.STOPPED
    assert lanes.closed
    assert "goes on from what is saved" in capsys.readouterr().out


def test_only_what_goes_on_from_what_is_saved_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Leaving a look at a run stops nothing."""

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    finished(tmp_path, "dense")
    monkeypatch.setattr(planning, "standing", interrupted)
    assert cli.main(["status", str(config(tmp_path))]) == output.STOPPED
    assert capsys.readouterr().out == "stopped\n"


def test_data_that_was_damaged_since_is_told_by_evaluate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the stage, and no traceback."""

    def damaged(artefact: str, shards: str) -> dict[str, float]:
        raise DataError(f"{shards}/val-000000.tar is not what the manifest says")

    finished(tmp_path, "dense")
    monkeypatch.setattr("dualprune.stages.training.measure.measure", damaged)
    assert cli.main(["evaluate", str(config(tmp_path))]) == output.BAD_INPUT
    text = f"dense: 1 problem\n  its data can't be read: {tmp_path / 'shards'}/val-000000.tar is not what"
    assert text in capsys.readouterr().err


def test_a_damaged_artefact_is_told_by_evaluate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A byte changed, and no size: that is found when it is read; the stage counts as not done from then on."""
    finished(tmp_path, "dense")
    path = str(config(tmp_path))
    (model,) = (tmp_path / "store").glob("*/model.safetensors")
    model.write_bytes(model.read_bytes()[:-1] + b"!")
    assert cli.main(["evaluate", path]) == output.FAILED
    out = capsys.readouterr().out
    assert "model.safetensors has changed since it was written: its sha256 differs" in out
    assert cli.main(["evaluate", path]) == output.FAILED
    assert "dense: was done, but its artefact is damaged" in capsys.readouterr().out
    (folder,) = (tmp_path / "store").glob("*/damaged.json")
    folder.unlink()
    (folder.parent / "manifest.json").mkdir()  # whatever stands there is no traceback
    assert cli.main(["evaluate", path]) == output.FAILED
    assert "dense: was done, but its artefact is damaged" in capsys.readouterr().out


@pytest.mark.parametrize("verb", ["status", "evaluate"])
def test_a_look_makes_no_store(tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: str) -> None:
    """Where there is none, its place is wrong or nothing was run yet."""
    assert cli.main([verb, str(config(tmp_path))]) == output.BAD_INPUT
    assert f"there is no store at {tmp_path / 'store'}" in capsys.readouterr().err
    assert not (tmp_path / "store").exists()


def test_a_run_that_another_one_took_over_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """That is no mistake in its file."""
    scripted(monkeypatch, {})
    monkeypatch.setattr(Locks, "lost", lambda _: ["run-tiny"])
    assert cli.main(["run", str(config(tmp_path))]) == output.FAILED
    assert capsys.readouterr().err == "this run seemed dead to another one, which took over run-tiny\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, *WARNINGS], ids=lambda number: number.name)
def test_a_terminated_run_ends_with_143(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    """In order, as an interrupted one does; a second signal, of this or another kind, does not cut that short."""
    lanes, before = Scripted({}), signal.getsignal(number)

    def take(timeout: float) -> None:
        os.kill(os.getpid(), number)
        time.sleep(10)

    def save() -> list[Any]:
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), signal.SIGTERM)
        return []

    monkeypatch.setattr(lanes, "take", take)
    monkeypatch.setattr(lanes, "save", save)
    monkeypatch.setattr(driver, "Lanes", lambda *_: lanes)
    assert cli.main(["run", str(config(tmp_path))]) == output.TERMINATED
    assert lanes.closed
    assert "goes on from what is saved" in capsys.readouterr().out
    assert signal.getsignal(number) == before


def test_what_is_ignored_ends_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a hang-up is under nohup."""
    lanes = Scripted({})
    take = lanes.take

    def hang_up(timeout: float) -> Any:
        os.kill(os.getpid(), signal.SIGHUP)
        return take(timeout)

    monkeypatch.setattr(lanes, "take", hang_up)
    monkeypatch.setattr(driver, "Lanes", lambda *_: lanes)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert cli.main(["run", str(config(tmp_path))]) == output.DONE
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_file_that_is_wrong_all_over_is_told_so_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Settings, graph, model, pattern, store, shards and machine: all in one message, each with its line."""
    path = tmp_path / "bad.yaml"
    path.write_text(
        """\
name: bad
store: /proc/nowhere
cluster: {workers: 4096}
model: {name: lenet9}
data: {shards: /nowhere}
stages:
  - name: dense
    kind: train
    train: {epochs: 4, lr: 0.004, warmup: 3}
  - name: dense
    kind: prune
    model: {name: digits_cnn}
    parent: missing
    constraints: [{set: cardinality, tensors: "conv*", rate: 0.5}]
    admm: {updates: 4, lr: 1e-3, rho: 0.01}
    retrain: {epochs: 6, lr: 0.002}
"""
    )
    assert cli.main(["run", str(path)]) == output.BAD_INPUT
    told = capsys.readouterr().err
    assert "9 problems" in told
    for line, text in (
        (2, "store: /proc/nowhere can't be written"),
        (3, "cluster.workers: 4096 workers"),
        (4, "there is no model 'lenet9'"),
        (5, "/nowhere holds no manifest.json"),
        (9, "warmup: unknown setting"),
        (10, "there is a stage 'dense' already"),
        (13, "there is no stage 'missing'"),
        (14, "rate: must be greater than or equal to 1"),
        (14, "'conv*' matches no tensor of digits_cnn"),
    ):
        assert any(f"bad.yaml:{line}: " in row and text in row for row in told.splitlines()), text


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, output.STOPPED), (signal.SIGTERM, output.TERMINATED)])
def test_an_interrupt_in_the_middle_of_an_import(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, number: int, code: int
) -> None:
    """Modules in C make another error of it; it is an interrupt all the same."""

    def importing(*_: object, **__: object) -> None:
        with suppress(KeyboardInterrupt):
            signal.raise_signal(number)
        raise ImportError("cannot load module more than once per process")

    finished(tmp_path, "dense")
    monkeypatch.setattr(planning, "standing", importing)
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert cli.main(["status", str(config(tmp_path))]) == code
    finally:
        signal.signal(signal.SIGINT, handler)
    assert capsys.readouterr().out == "stopped\n"
