"""The command line's verbs that plan a configuration and carry it out: run, plan."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from dualprune.pipeline.cli import arguments, runlog
from dualprune.pipeline.config import resolved
from dualprune.pipeline.config.load import Config, read
from dualprune.pipeline.config.problems import Problems
from dualprune.pipeline.output import DONE, FAILED, answer, complain, room, show
from dualprune.pipeline.plan import costs, selection
from dualprune.pipeline.plan.state import Planned
from dualprune.pipeline.reports import plan as planview
from dualprune.pipeline.reports import tensors
from dualprune.pipeline.reports.page.ended import written
from dualprune.pipeline.run import here
from dualprune.pipeline.run.results import Result, as_json, as_table
from dualprune.pipeline.run.view import View
from dualprune.pipeline.store.locks import Held, Lost
from dualprune.pipeline.store.store import Store

RUN = "run the stages that are not done yet"
PLAN = "say what a run would do, and why; trains nothing, but fetches built-in data and trained weights"
INLINE = "in this process, without Ray and on one worker: quick for what is small, and stages can be debugged; results "
INLINE += "and checkpoints are as with `cluster.workers: 1`"
TOLD = "as told above"
"""Of a stage that failed: its reason, in the table at the end of its run."""


def add(verbs: Any) -> None:
    """Add the verbs to a parser's."""
    run = verbs.add_parser("run", help=RUN, description=RUN)
    trying = arguments.run_options(run)
    trying.add_argument("--inline", action="store_true", help=INLINE)
    arguments.configured(run)
    run.set_defaults(command=_run, resumes=True, works=True)
    plan = verbs.add_parser("plan", help=PLAN, description=PLAN)
    arguments.configured(plan)
    plan.add_argument("--dot", action="store_true", help="print the graph for Graphviz")
    plan.add_argument("--tensors", action="store_true", help="list the tensors that each constraint holds")
    text = "images that one GPU (one worker, where cluster.gpus is 0) trains in a second, to estimate hours by"
    plan.add_argument("--images-per-second", metavar="N", type=_speed, help=text)
    plan.set_defaults(command=_plan, smoke=False, inline=False)
    for verb in (run, plan):
        text = "print the configuration as settings and defaults make it, and do nothing else"
        verb.add_argument("--print-config", action="store_true", help=text)


def _speed(given: str) -> float:
    try:
        value = float(given)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"a number above 0 is needed, not {given!r}")
    return value


def _planned(options: argparse.Namespace) -> tuple[Config, Problems, Store, list[Planned]]:
    """What is configured for a run that this machine starts, its store, and what is to be done."""
    return here.prepared(read(options.config, options.set), options.smoke, options.inline)


def _printed(options: argparse.Namespace) -> int:
    found = resolved.resolved(options.config, options.set)
    if options.json:
        answer(found)
    else:
        print(resolved.text(found), end="")
    return DONE


def _run(options: argparse.Namespace, console: Console) -> int:
    if options.print_config:
        return _printed(options)
    config, problems, store, plan = _planned(options)
    with View(console, lines=options.inline) as view:
        results = _carried_out(options, config, problems, store, plan, view)
    if results is None:
        return FAILED
    rows = [replace(row, why=TOLD) if row.state == "failed" else row for row in results]
    show(console, as_table(rows, room(console)), room(console))
    if options.json:
        answer(as_json(config.top.name, results))
    return FAILED if any(row.state == "failed" for row in results) else DONE


def _carried_out(
    options: argparse.Namespace, config: Config, problems: Problems, store: Store, plan: list[Planned], view: View
) -> list[Result] | None:
    """How the stages ended; None, and said why, if the run did not begin or lost its cluster or its locks."""
    from dualprune.cluster.errors import ClusterError, ClusterGone, NotStarted
    from dualprune.pipeline.run import driver

    # A smoke run is for what may go wrong: of what it is to run, nothing that it did before counts.
    force = selection.wanted(plan, options.start, options.only) if options.smoke else options.force
    plan, stale = selection.forced(plan, force, "--smoke" if options.smoke else "--force")
    wanted = selection.wanted(plan, options.start, options.only, options.force)
    folder = here.logs(config.top.name, store)
    waiting = [planned for planned in plan if planned.state != "cached" and planned.node.name in wanted]
    if waiting:
        runlog.log_to(folder, view.note)
    for line in _announced(config.top.name, plan, waiting, folder, store.url if options.smoke else None):
        view.note(line)
    try:
        asked = {"keep_going": options.keep_going, "wait": options.wait, "inline": options.inline}
        return driver.run(config, plan, store, folder, view, wanted, stale, **asked, page=written)
    except Held as held:
        view.note(f"{config.top.name} is not started: {held}; `--wait` waits for its end")
    except (ClusterGone, NotStarted, Lost) as error:
        complain(str(error))
    except ClusterError as error:
        problems.add(("cluster",), str(error))
        problems.stop()
    return None


def _announced(
    name: str, plan: Sequence[Planned], waiting: Sequence[Planned], logs: Path, smoke: str | None
) -> Iterator[str]:
    """What is said before a run of a plan, some of whose stages wait to be run; `smoke` is a smoke run's store."""
    rest = "" if waiting else "; nothing to run"
    done = sum(planned.state == "cached" for planned in plan)
    yield f"{name}: {len(plan)} stage{'' if len(plan) == 1 else 's'}, {done} of them done{rest}"
    if smoke is not None:
        yield f"a few steps of each, into {smoke}; accuracies mean nothing"
    if waiting:
        yield f"logs: {logs}"
    for planned in waiting:
        yield f"  {planned.node.name}: {planned.state} ({planned.why})"
        yield from (f"    {text}" for text in planned.notes)


def _plan(options: argparse.Namespace, console: Console) -> int:
    if options.print_config:
        return _printed(options)
    config, _, _, plan = _planned(options)
    device = "GPU" if config.top.cluster.gpus else "worker"
    found = costs.estimated(plan, config.top.cluster, options.images_per_second)
    if options.dot:
        print(planview.dot(plan))
    elif options.json:
        held = {"tensors": tensors.as_json(tensors.held(plan))} if options.tensors else {}
        answer({"run": config.top.name, **planview.as_json(plan, found, device), **held})
    else:
        show(console, planview.as_table(plan, found, device))
        if options.tensors:
            show(console, tensors.as_table(tensors.held(plan)))
    return DONE
