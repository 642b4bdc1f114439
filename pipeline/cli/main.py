"""The command line: run, plan, status, watch, evaluate; `store` and the verbs for clusters have files of their own."""

from __future__ import annotations

import argparse
import logging
import platform
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

import dualprune
from dualprune.pipeline import output
from dualprune.pipeline.cli import data as datacli
from dualprune.pipeline.cli import jobs as jobscli
from dualprune.pipeline.cli import store as storecli
from dualprune.pipeline.cli.terminable import terminable
from dualprune.pipeline.config.load import Config, read
from dualprune.pipeline.config.overrides import spread
from dualprune.pipeline.config.problems import ConfigError, Problems
from dualprune.pipeline.output import (
    BAD_INPUT,
    DONE,
    FAILED,
    STOPPED,
    TERMINATED,
    UNREAD,
    Unread,
    answer,
    complain,
    say,
    show,
)
from dualprune.pipeline.plan import costs, selection
from dualprune.pipeline.plan import make as planning
from dualprune.pipeline.plan.state import Planned
from dualprune.pipeline.reports import plan as planview
from dualprune.pipeline.run import here
from dualprune.pipeline.run.results import Result, as_json, as_table, status
from dualprune.pipeline.run.standing import scene
from dualprune.pipeline.run.view import View
from dualprune.pipeline.run.watch import watch
from dualprune.pipeline.store.locks import Held, Lost
from dualprune.pipeline.store.store import Store
from dualprune.stages.files.outage import StoreAway, StoreError

TOLD = "as told above"
"""Of a stage that failed: its reason, in the table at the end of its run."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code: 0 done, 1 failed, 2 bad input, 130 interrupted, 143 terminated, 141 unread:
    what only shows something, and lasts, has nobody who reads it any more."""
    with output.guarded():
        try:
            options = _parser().parse_args(spread(sys.argv[1:] if arguments is None else arguments))
        except SystemExit as leaving:  # help, or an option that there is not
            raise SystemExit(output.ended(int(leaving.code or 0))) from None
        if getattr(options, "works", False):
            output.goes_on()
        return output.ended(_carried_out(options))


def _carried_out(options: argparse.Namespace) -> int:
    console = output.console(stderr=bool(getattr(options, "json", False)))
    terminated = threading.Event()
    try:
        with terminable(terminated):
            code: int = options.command(options, console)
        return code
    except ConfigError as error:
        complain(str(error))
        return BAD_INPUT
    except (StoreError, StoreAway) as error:
        complain(str(error))
        return FAILED
    except Unread:
        return UNREAD
    except KeyboardInterrupt:
        rest = "; the same command goes on from what is saved" if getattr(options, "resumes", False) else ""
        say(console, f"stopped{rest}")
        return TERMINATED if terminated.is_set() else STOPPED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dualprune", description="Prunes networks in stages: a DAG of ADMM training stages on Ray and DeepSpeed."
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version, and those of what it stands on")
    verbs = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, command, text in (
        ("run", _run, "run the stages that are not done yet"),
        (
            "plan",
            _plan,
            "say what a run would do, and why; trains nothing, but fetches built-in data and trained weights",
        ),
        ("status", _status, "show what the store has of a configuration's stages"),
        ("watch", _watch, "show how a run goes, wherever it runs, until it ends"),
        ("evaluate", _evaluate, "measure finished networks anew on this machine's CPU, from their artefacts alone"),
    ):
        verb = verbs.add_parser(name, help=text, description=text)
        if command is _run:
            _run_options(verb)
        _configured(verb)
        verb.set_defaults(command=command, resumes=command is _run, works=command is _run)
        if command is _plan:
            verb.add_argument("--dot", action="store_true", help="print the graph for Graphviz")
            text = "images that one GPU (one worker, where cluster.gpus is 0) trains in a second, to estimate hours by"
            verb.add_argument("--images-per-second", metavar="N", type=_speed, help=text)
    datacli.add(verbs)
    storecli.add(verbs)
    jobscli.add(verbs, (_run_options, _configured))
    return parser


def _speed(given: str) -> float:
    try:
        value = float(given)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"a number above 0 is needed, not {given!r}")
    return value


class _Version(argparse.Action):
    """Print what a report of a fault should name. Asks the installed packages only when it is wanted."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        """Print, and end."""
        from importlib.metadata import PackageNotFoundError, version

        found = [f"Python {platform.python_version()}"]
        for name in ("torch", "ray", "deepspeed", "webdataset", "wandb"):
            try:
                found.append(f"{name} {version(name)}")
            except PackageNotFoundError:
                found.append(f"no {name}")
        print(f"dualprune {dualprune.__version__} ({', '.join(found)})")
        parser.exit()


def _run_options(verb: argparse.ArgumentParser) -> None:
    which = verb.add_argument_group("which stages (by default all that are not done)")
    some = which.add_mutually_exclusive_group()
    text = "only this stage, as `plan` lists it, and those after it; what is before it must be done"
    some.add_argument("--from", dest="start", metavar="STAGE", help=text)
    text = "only this stage; what is before it must be done; may be repeated"
    some.add_argument("--only", metavar="STAGE", action="append", default=[], help=text)
    text = "run this stage though it is done: its artefact is deleted when its turn comes; stages after it stay done; "
    text += "may be repeated"
    which.add_argument("--force", metavar="STAGE", action="append", default=[], help=text)
    trying = verb.add_argument_group("trying it out")
    text = "a few steps of every stage into the folder `smoke` of the store, to find errors before a long run"
    trying.add_argument("--smoke", action="store_true", help=text)
    ways = verb.add_argument_group("when something is in the way")
    text = "after a failure, go on with what does not depend on the stage that failed"
    ways.add_argument("--keep-going", action="store_true", help=text)
    text = "if a run of this name is going on in this store, wait for its end instead of refusing"
    ways.add_argument("--wait", action="store_true", help=text)


def _configured(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("config", metavar="CONFIG", help="a YAML file, or the name of a recipe that comes along")
    verb.add_argument_group("settings").add_argument(
        "--set",
        metavar="A.B=C",
        action="append",
        default=[],
        help="override a setting, such as cluster.workers=1 or stages.NAME.retrain.epochs=3; several may follow",
    )
    text = "print one JSON object as the last line of output"
    verb.add_argument_group("output").add_argument("--json", action="store_true", help=text)


def _prepared(options: argparse.Namespace) -> tuple[Config, Problems, Store, list[Planned]]:
    """What is configured, planned and there, on whatever machines it runs."""
    draft = read(options.config, options.set)
    config, problems = draft.sound(), draft.problems
    if options.command is not _watch:  # a run that was just submitted has made no store yet
        storecli.opened(config.top.store, "store")
    store, plan = planning.make(config, problems)
    return config, problems, store, plan


def _prepared_here(options: argparse.Namespace) -> tuple[Config, Problems, Store, list[Planned]]:
    """The same for a run that this machine starts."""
    return here.prepared(read(options.config, options.set), getattr(options, "smoke", False))


def _run(options: argparse.Namespace, console: Console) -> int:
    from dualprune.cluster.errors import ClusterError, ClusterGone, NotStarted
    from dualprune.pipeline.run import driver

    config, problems, store, plan = _prepared_here(options)
    # A smoke run is for what may go wrong: of what it is to run, nothing that it did before counts.
    force = selection.wanted(plan, options.start, options.only) if options.smoke else options.force
    plan, stale = selection.forced(plan, force, "--smoke" if options.smoke else "--force")
    wanted = selection.wanted(plan, options.start, options.only, options.force)
    waiting = [planned for planned in plan if planned.state != "cached" and planned.node.name in wanted]
    results: list[Result]
    with View(console) as view:
        logs = here.logs(config, store)
        if waiting:
            _log_to(logs, view.note)
        rest = "" if waiting else "; nothing to run"
        view.note(f"{config.top.name}: {len(plan)} stages, {len(plan) - len(waiting)} of them done{rest}")
        if options.smoke:
            view.note(f"a few steps of each, into {store.url}; accuracies mean nothing")
        if waiting:
            view.note(f"logs: {logs}")
        for planned in waiting:
            view.note(f"  {planned.node.name}: {planned.state} ({planned.why})")
            for text in planned.notes:
                view.note(f"    {text}")
        try:
            results = driver.run(
                config, plan, store, logs, view, wanted, stale, keep_going=options.keep_going, wait=options.wait
            )
        except Held as held:
            view.note(f"{config.top.name} is not started: {held}; `--wait` waits for its end")
            return FAILED
        except (ClusterGone, NotStarted, Lost) as error:
            complain(str(error))
            return FAILED
        except ClusterError as error:
            problems.add(("cluster",), str(error))
            problems.stop()
    show(console, as_table(replace(row, why=TOLD) if row.state == "failed" else row for row in results))
    if options.json:
        answer(as_json(config.top.name, results))
    return FAILED if any(row.state == "failed" for row in results) else DONE


def _plan(options: argparse.Namespace, console: Console) -> int:
    config, _, _, plan = _prepared_here(options)
    device = "GPU" if config.top.cluster.gpus else "worker"
    found = costs.estimated(plan, config.top.cluster, options.images_per_second)
    if options.dot:
        print(planview.dot(plan))
    elif options.json:
        answer({"run": config.top.name, **planview.as_json(plan, found, device)})
    else:
        show(console, planview.as_table(plan, found, device))
    return DONE


def _status(options: argparse.Namespace, console: Console) -> int:
    config, _, store, plan = _prepared(options)
    _show(config, status(plan, store, scene(config.top.name, plan, store)), options, console)
    return DONE


def _watch(options: argparse.Namespace, console: Console) -> int:
    config, _, store, plan = _prepared(options)
    rows = watch(config.top.name, plan, store, console)
    _show(config, rows, options, console)
    left = [row for row in rows if row.state != "done"]
    if left:
        say(console, f"the run has ended with {len(left)} stages not done")
    return FAILED if left else DONE


def _evaluate(options: argparse.Namespace, console: Console) -> int:
    config, _, store, plan = _prepared(options)
    from dualprune.stages.artefacts.manifest import Damaged, set_aside
    from dualprune.stages.data.format import DataError
    from dualprune.stages.training.measure import measure

    rows: list[dict[str, Any]] = []
    damaged = False
    for planned in plan:
        output.need_reader()
        if planned.manifest is None:
            say(console, f"{planned.node.name}: {planned.why if planned.gone else 'not done'}")
            damaged |= planned.gone
            continue
        try:
            scores = measure(f"{store.url}/{planned.node.key}", planned.node.shards)
        except DataError as error:
            raise ConfigError(planned.node.name, [f"its data can't be read: {error}"]) from None
        except Damaged as error:
            say(console, f"{planned.node.name}: {error}; `dualprune run` makes it anew")
            set_aside(store.folder / planned.node.key)
            damaged = True
            continue
        rows.append({"name": planned.node.name, "key": planned.node.key, **scores})
        shown = "  ".join(f"{name} {value:.2f} %" for name, value in scores.items())
        say(console, f"{planned.node.name}: {shown}")
    if options.json:
        answer({"run": config.top.name, "stages": rows})
    return FAILED if damaged else DONE


def _show(config: Config, results: list[Result], options: argparse.Namespace, console: Console) -> None:
    show(console, as_table(results))
    if options.json:
        answer(as_json(config.top.name, results))


class _Log(logging.FileHandler):
    """A run's log. That its disk can't take a line now is told once, and doesn't stop the run."""

    def __init__(self, file: Path, tell: Callable[[str], None]) -> None:
        super().__init__(file, errors="backslashreplace")  # names of files may be no UTF-8
        self._tell: Callable[[str], None] | None = tell

    def handleError(self, record: logging.LogRecord) -> None:
        """Called where a line could not be written."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif self._tell is not None:
            tell, self._tell = self._tell, None
            tell(f"the log {self.baseFilename} can't be written at the moment ({error})")

    def close(self) -> None:
        """What is left unwritten has been told."""
        with suppress(OSError):
            super().close()


def _log_to(folder: Path, tell: Callable[[str], None]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    handler = _Log(folder / "driver.log", tell)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.captureWarnings(True)
