"""Arguments that several verbs share."""

from __future__ import annotations

import argparse
from typing import Any


def run_options(verb: argparse.ArgumentParser) -> Any:
    """Add the arguments that say which stages run, and how; the group of those for trying it out."""
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
    return trying


def configured(verb: argparse.ArgumentParser) -> None:
    """Add the configuration, settings that override its own, and the form of the output."""
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
