"""The command line's verbs that look at what a configuration's stages have come to: status, watch, evaluate."""

from __future__ import annotations

import argparse
from typing import Any

from rich.console import Console

from dualprune.pipeline.cli import arguments
from dualprune.pipeline.cli.store import opened
from dualprune.pipeline.config.load import Config, read
from dualprune.pipeline.config.problems import ConfigError
from dualprune.pipeline.measured import number
from dualprune.pipeline.output import DONE, FAILED, answer, need_reader, room, say, show
from dualprune.pipeline.plan import make as planning
from dualprune.pipeline.plan.state import Planned
from dualprune.pipeline.run.results import Result, as_json, as_table, status
from dualprune.pipeline.run.standing import scene
from dualprune.pipeline.run.watch import watch
from dualprune.pipeline.store.store import Store
from dualprune.stages.objectives.measures import measures


def add(verbs: Any) -> None:
    """Add the verbs to a parser's."""
    for name, command, text in (
        ("status", _status, "show what the store has of a configuration's stages"),
        ("watch", _watch, "show how a run goes, wherever it runs, until it ends"),
        ("evaluate", _evaluate, "measure finished networks anew on this machine's CPU, from their artefacts alone"),
    ):
        verb = verbs.add_parser(name, help=text, description=text)
        arguments.configured(verb)
        verb.set_defaults(command=command)


def _planned(options: argparse.Namespace) -> tuple[Config, Store, list[Planned]]:
    """A configuration, its store, which has to be there, and what is done in it."""
    draft = read(options.config, options.set)
    config = draft.sound()
    opened(config.top.store, "store")
    return config, *planning.standing(config, draft.problems)


def _status(options: argparse.Namespace, console: Console) -> int:
    config, store, plan = _planned(options)
    _show(config, status(plan, store, scene(config.top.name, plan, store)), options, console)
    return DONE


def _watch(options: argparse.Namespace, console: Console) -> int:
    draft = read(options.config, options.set)
    config = draft.sound()
    # The store need not be there: a run that was just submitted has made none yet.
    store, plan = planning.standing(config, draft.problems)
    rows = watch(config.top.name, plan, store, console)
    _show(config, rows, options, console)
    left = [row for row in rows if row.state != "done"]
    if left:
        say(console, f"the run has ended with {len(left)} stages not done")
    return FAILED if left else DONE


def _evaluate(options: argparse.Namespace, console: Console) -> int:
    config, store, plan = _planned(options)
    rows: list[dict[str, Any]] = []
    damaged = False
    for planned in plan:
        need_reader()
        if planned.manifest is None:
            say(console, f"{planned.node.name}: {planned.why if planned.gone else 'not done'}")
            damaged |= planned.gone
            continue
        scores = _measured(planned, store, console)
        if scores is None:
            damaged = True
            continue
        rows.append({"name": planned.node.name, "key": planned.node.key, **scores})
        unit = measures(planned.manifest).unit
        shown = "  ".join(f"{name} {number(value, unit)} {unit}".rstrip() for name, value in scores.items())
        say(console, f"{planned.node.name}: {shown}")
    if options.json:
        answer({"run": config.top.name, "stages": rows})
    return FAILED if damaged else DONE


def _measured(planned: Planned, store: Store, console: Console) -> dict[str, float] | None:
    """What a finished stage's network scores; None, said and its artefact set aside, if that is damaged.

    Raises ConfigError for data that can't be read.
    """
    from dualprune.stages.artefacts.manifest import Damaged, set_aside
    from dualprune.stages.data.format import DataError
    from dualprune.stages.training.measure import measure

    try:
        return measure(f"{store.url}/{planned.node.key}", planned.node.shards)
    except DataError as error:
        raise ConfigError(planned.node.name, [f"its data can't be read: {error}"]) from None
    except Damaged as error:
        say(console, f"{planned.node.name}: {error}; `dualprune run` makes it anew")
        set_aside(store.folder / planned.node.key)
        return None


def _show(config: Config, results: list[Result], options: argparse.Namespace, console: Console) -> None:
    show(console, as_table(results, room(console)), room(console))
    if options.json:
        answer(as_json(config.top.name, results))
