"""The command line's verbs for a Ray cluster: submit, jobs, logs, stop."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rich.console import Console
from rich.markup import escape
from rich.table import Table

import dualprune
from dualprune.pipeline import dag, output
from dualprune.pipeline.cli.arguments import configured, run_options
from dualprune.pipeline.config import checks
from dualprune.pipeline.config.load import find, parsed, read
from dualprune.pipeline.config.problems import ConfigError, Problems, argued
from dualprune.pipeline.config.schema import Top
from dualprune.pipeline.config.stage import Stage
from dualprune.pipeline.config.yamlfile import Path as Place
from dualprune.pipeline.output import DONE, FAILED, STOPPED, answer, need_reader, say, show
from dualprune.pipeline.run.work import clock
from dualprune.stages.files import source
from dualprune.stages.settings.data import Data

if TYPE_CHECKING:
    from dualprune.cluster.jobs import Jobs, Listed, State

T = TypeVar("T")
PACKAGE, SENT = "dualprune", "job"
"""Folders of what is sent to a cluster: the package, and what its command is called in."""

ADDRESS = "RAY_API_SERVER_ADDRESS"
"""The variable that Ray's own command line takes a dashboard's address from."""
HERE = ["cluster.address=auto"]
"""Settings of a run that a cluster's head starts: the cluster is the one that it is on."""


def add(verbs: Any) -> None:
    """Add the verbs to a parser's. `submit` has all the arguments of `run`."""
    submit = _verb(verbs, "submit", _submit, "run a configuration on a Ray cluster, as a job of it")
    run_options(submit)
    configured(submit)
    _reached(submit)
    submit.add_argument("--follow", action="store_true", help="print what the job prints, and end as it ends")
    listing = _verb(verbs, "jobs", _list, "list the jobs of a cluster that were submitted, the newest first")
    _reached(listing)
    listing.add_argument("--json", action="store_true", help="print one JSON object as the last line of output")
    logs = _verb(verbs, "logs", _logs, "print what a submitted job has printed")
    stop = _verb(verbs, "stop", _stop, "stop a submitted job, which makes its checkpoints first")
    for verb in (logs, stop):
        text = "what `submit` printed; or the run's name or its configuration, for its newest job"
        verb.add_argument("job", metavar="ID", help=text)
        _reached(verb)
    logs.add_argument("--follow", action="store_true", help="go on until the job ends, and end as it ends")


def _verb(verbs: Any, name: str, command: Callable[..., int], text: str) -> argparse.ArgumentParser:
    verb: argparse.ArgumentParser = verbs.add_parser(name, help=text, description=text)
    verb.set_defaults(command=command, works=name not in ("jobs", "logs"))
    return verb


def _reached(verb: argparse.ArgumentParser) -> None:
    there = os.environ.get(ADDRESS)
    text = f"of the cluster's dashboard, http://HOST:8265; by default what {ADDRESS} says"
    group = verb.add_argument_group("the cluster")
    group.add_argument(
        "--address", metavar="URL", type=argued(_dashboard), default=there, required=there is None, help=text
    )
    verb.set_defaults(known=there)


def _dashboard(given: str) -> str:
    """An address of a dashboard. Raises ValueError for a URL that is cut short or is of something else."""
    if ":/" in given and not re.match("https?://[^/]", given):
        raise ValueError(f"{given} is no address of a Ray dashboard, which reads http://HOST:8265")
    return given


def _submit(options: argparse.Namespace, console: Console) -> int:
    draft = read(options.config, [*options.set, *HERE])
    problems = draft.problems
    checks.networks(draft.stages, problems)
    trained = [(stage, dag.trained(stage.spec)) for stage in draft.stages]
    data = {stage.place("data"): spec.data for stage, spec in trained if spec is not None}
    _portable(draft.top, {**draft.data, **data}, problems)
    for stage, spec in trained:
        if spec is not None:
            _reachable(stage.place("model", "weights"), spec.model.file, problems)
            if spec.model.folder is not None:
                _reachable(stage.place("model", "args", "config"), spec.model.folder, problems)
    own = _own(draft.stages, problems)
    config = draft.sound()
    jobs = _jobs(options)
    with tempfile.TemporaryDirectory(prefix="dualprune-") as folder:
        command = package(find(options.config), _arguments(options), Path(folder), own)
        modules = [Path(folder) / PACKAGE]
        job = _reaching(lambda: jobs.submit(config.top.name, command, Path(folder) / SENT, modules), options)
    again = shlex.join(["dualprune", "status", options.config, *(p for o in options.set for p in ("--set", o))])
    say(console, f"{job}: submitted to {jobs.address}, {len(config.stages)} stages; what is done is not run again")
    say(console, f"  its log:    {_typed('logs', job, options)} --follow")
    say(console, f"  its stages: {again}")
    say(console, f"  its end:    {_typed('stop', job, options)}")
    code = _followed(jobs, job, options, console) if options.follow else DONE
    if options.json:
        ended = {"exit_code": code} if options.follow else {}
        answer({"run": config.top.name, "job": job, "address": jobs.address, **ended})
    return code


def _list(options: argparse.Namespace, console: Console) -> int:
    jobs = _jobs(options)
    found = _reaching(jobs.all, options)
    if found:
        show(console, _table(found))
    say(console, f"{jobs.address}: {len(found)} jobs")
    if options.json:
        answer({"address": jobs.address, "jobs": [asdict(one) for one in found]})
    return DONE


def _table(found: Sequence[Listed]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in ("job", "state", "started", "took"):
        table.add_column(title, no_wrap=True, justify="right" if title == "took" else "left")
    for one in found:
        started = "-" if one.started is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(one.started))
        took = "-" if one.started is None else clock((one.ended or time.time()) - one.started)
        table.add_row(escape(one.job), one.status.lower(), started, took)
    return table


def _meant(jobs: Jobs, options: argparse.Namespace) -> str:
    """The id of the job that is meant: itself, or the newest one of a run, by its name or its configuration."""
    from dualprune.cluster.jobs import ID, meant

    given: str = options.job
    if ID.fullmatch(given):
        return given
    if Path(given).is_file():
        raw, problems = parsed(given)
        if not isinstance(raw.get("name"), str):
            problems.add(("name",), "is missing: jobs are named for it")
            problems.stop()
        given = raw["name"]
    return meant(given, _reaching(jobs.all, options))


def _logs(options: argparse.Namespace, console: Console) -> int:
    jobs = _jobs(options)
    options.job = _meant(jobs, options)
    if options.follow:
        return _followed(jobs, options.job, options, console)
    state = _reaching(lambda: jobs.state(options.job), options)
    print(_reaching(lambda: jobs.log(options.job), options), end="", flush=True)  # before what goes to stderr
    say(output.console(stderr=True), f"{options.job}: {told(state)}")
    return DONE


def _stop(options: argparse.Namespace, console: Console) -> int:
    jobs = _jobs(options)
    options.job = _meant(jobs, options)
    before = _reaching(lambda: jobs.state(options.job), options)
    if before.ended:
        say(console, f"{options.job} had ended: {told(before)}")
        return DONE
    say(console, f"{options.job}: asked to stop")
    say(console, f"{options.job}: {told(_reaching(lambda: jobs.stop(options.job), options))}")
    return DONE


def _followed(jobs: Jobs, job: str, options: argparse.Namespace, console: Console) -> int:
    """Print what a job prints until it ends; returns its exit code, or STOPPED if the user leaves before."""

    def write(text: str) -> None:
        console.file.write(text)
        console.file.flush()
        need_reader()

    try:
        state = _reaching(lambda: jobs.follow(job, write), options)
    except KeyboardInterrupt:
        say(console, f"{job} goes on. To see it again: {_typed('logs', job, options)} --follow")
        say(console, f"To stop it: {_typed('stop', job, options)}")
        return STOPPED
    if exit_code(state) != DONE:
        say(console, f"{job}: {told(state)}")
    return exit_code(state)


def _own(stages: Iterable[Stage], problems: Problems) -> dict[str, bytes]:
    """The files of the user's own modules that stages name, by path; noted where one can't be found."""
    found: dict[str, bytes] = {}
    for stage in stages:
        try:
            found |= dag.code([stage.spec])
        except source.SourceError as error:
            problems.add(("stages", stage.number), str(error))
    return found


def _arguments(options: argparse.Namespace) -> list[str]:
    """The options of `run` that were given."""
    named = [("--from", [options.start] if options.start else []), ("--only", options.only), ("--force", options.force)]
    alone = [("--keep-going", options.keep_going), ("--smoke", options.smoke), ("--wait", options.wait)]
    values = [("--set", [*options.set, *HERE]), *named]
    return [p for name, given in values for value in given for p in (name, value)] + [name for name, on in alone if on]


def package(file: Path, arguments: list[str], folder: Path, code: Mapping[str, bytes]) -> str:
    """Fill a folder with all that a run needs on another machine; returns the shell command that starts it in SENT.

    The package and the configuration go, with the user's own modules that it names beside it, and nothing else that
    lies there: no data, no runs, no environment.
    """
    shutil.copytree(dualprune.__path__[0], folder / PACKAGE, ignore=shutil.ignore_patterns("__pycache__", "*.md"))
    target = folder / SENT / "configs" / file.name
    target.parent.mkdir(parents=True)
    shutil.copyfile(file, target)
    source.place_in(target.parent, code)
    run = shlex.join(["-m", "dualprune", "run", f"configs/{file.name}", *arguments])
    return f'exec "$(command -v python || command -v python3)" {run}'


def exit_code(state: State) -> int:
    """What following a job to its end returns: its command's exit code, as a shell would give it."""
    if state.status == "STOPPED":
        return STOPPED
    if state.exit_code is None:
        return DONE if state.status == "SUCCEEDED" else FAILED
    return state.exit_code if state.exit_code >= 0 else 128 - state.exit_code


def told(state: State) -> str:
    """A job's state in a line or two."""
    if state.status == "STOPPED":
        return "stopped; what it has done is kept, and submitting it again goes on from there"
    if state.status == "FAILED" and state.exit_code is None:
        return f"failed before its command ended: {state.message}"
    return state.status.lower() + (f" with exit code {state.exit_code}" if state.exit_code else "")


def _portable(top: Top | None, data: Mapping[Place, Data], problems: Problems) -> None:
    """Note the places that mean another thing on each machine."""
    places: dict[Place, str | None] = {} if top is None else {("store",): top.store}
    for at, one in data.items():
        places |= {(*at, "folder"): one.folder, (*at, "shards"): one.shards}
    for at, url in places.items():
        _reachable(at, url, problems)


def _reachable(at: Place, url: str | None, problems: Problems) -> None:
    if url is not None and "://" not in url and not url.startswith("/"):
        text = f"{url} would be another place on the cluster's machines than here"
        way = "give an absolute path on a filesystem that all machines share, or a bucket's URL"
        problems.add(at, f"{text}; {way}")


def _jobs(options: argparse.Namespace) -> Jobs:
    from dualprune.cluster.jobs import Jobs

    return _reaching(lambda: Jobs(options.address), options)


def _reaching(call: Callable[[], T], options: argparse.Namespace) -> T:
    """What a call to a cluster gives. Raises ConfigError for what went wrong with it."""
    from dualprune.cluster.errors import ClusterError

    try:
        return call()
    except ClusterError as error:
        raise ConfigError(f"--address {options.address}", [str(error)]) from error


def _typed(verb: str, job: str, options: argparse.Namespace) -> str:
    """What to type for a job's sake, on this machine as it is."""
    there = [] if options.address == options.known else ["--address", options.address]
    return shlex.join(["dualprune", verb, job, *there])
