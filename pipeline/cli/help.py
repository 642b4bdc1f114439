"""The command line's verbs that help to write a configuration: recipes, explain, schema, completion."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from rich.console import Console

from dualprune.pipeline.config import described
from dualprune.pipeline.config.explain import Unknown, explain, overview
from dualprune.pipeline.config.problems import ConfigError
from dualprune.pipeline.config.shipped import shipped
from dualprune.pipeline.output import DONE, answer, show_text
from dualprune.pipeline.reports import settings

SHELLS = ("bash", "zsh", "tcsh")
SETTING = "SETTING"
FILES = ("CONFIG", "FILE", "SOURCE", "DEST", "SHARDS", "PATH")
"""Arguments that are files or folders."""


def add(verbs: Any) -> None:
    """Add the verbs to a parser's."""
    text = "list the recipes that come along; their names stand for CONFIG"
    recipes = verbs.add_parser("recipes", help=text, description=text)
    recipes.set_defaults(command=_recipes)
    text = "say what a setting is: its type, its default and its meaning"
    explaining = verbs.add_parser("explain", help=text, description=text)
    text = "such as data.crop, stages.admm.rho or epochs; or a kind, a set or an objective; without one, a list of all"
    explaining.add_argument("setting", metavar=SETTING, nargs="?", help=text)
    explaining.set_defaults(command=_explain)
    for verb in (recipes, explaining):
        verb.add_argument("--json", action="store_true", help="print one JSON object as the last line of output")
    text = "print a JSON schema of configurations, by which editors complete and check them"
    schema = verbs.add_parser("schema", help=text, description=text)
    schema.set_defaults(command=_schema)
    text = "print what makes a shell complete this command line"
    completion = verbs.add_parser("completion", help=text, description=f'{text}: eval "$(dualprune completion bash)"')
    completion.add_argument("shell", metavar="SHELL", choices=SHELLS, help=" or ".join(SHELLS))
    completion.set_defaults(command=_completion)


def _recipes(options: argparse.Namespace, console: Console) -> int:
    found = shipped()
    show_text(console, settings.recipes(found))
    if options.json:
        answer({"recipes": [asdict(one) for one in found]})
    return DONE


def _explain(options: argparse.Namespace, console: Console) -> int:
    if options.setting is None:
        found = overview()
        show_text(console, settings.overview(found))
        if options.json:
            answer(found)
        return DONE
    try:
        of = explain(options.setting)
    except Unknown as error:
        raise ConfigError("explain", [str(error)]) from None
    show_text(console, settings.explained(of))
    if options.json:
        answer({"explained": settings.as_json(of)})
    return DONE


def _schema(options: argparse.Namespace, console: Console) -> int:
    print(json.dumps(described.document(), indent=1))
    return DONE


def _completion(options: argparse.Namespace, console: Console) -> int:
    import shtab

    for action in _actions(options.parser):
        if action.metavar in FILES:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
        elif action.metavar == SETTING:
            action.choices = [name for names in overview().values() for name in names]
    print(shtab.complete(options.parser, options.shell))
    return DONE


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """All arguments of a parser, and of the verbs below it."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for verb in action.choices.values():
                yield from _actions(verb)
