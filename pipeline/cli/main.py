"""The command line: its verbs, signals and exit codes. Each group of verbs has a file of its own."""

from __future__ import annotations

import argparse
import platform
import sys
import threading
from collections.abc import Sequence
from typing import Any

import dualprune
from dualprune.pipeline import output
from dualprune.pipeline.cli import (
    compare,
    data,
    export,
    help,
    init,
    inspect,
    jobs,
    report,
    run,
    saliency,
    speed,
    store,
)
from dualprune.pipeline.cli.terminable import terminable
from dualprune.pipeline.config.overrides import spread
from dualprune.pipeline.config.problems import ConfigError
from dualprune.pipeline.output import BAD_INPUT, FAILED, STOPPED, TERMINATED, UNREAD, Unread, complain, say
from dualprune.stages.files.outage import StoreAway, StoreError


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
    for group in (run, inspect, report, compare, export, speed, saliency, data, store, jobs, init, help):
        group.add(verbs)
    parser.set_defaults(parser=parser)
    return parser


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
