"""`dualprune speed`: how much faster finished networks are than the dense ones they came from."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console

from dualprune.pipeline.cli.finished import NAMES, Finished, called_with, dense_of, each, finished, origin, title
from dualprune.pipeline.config.problems import ConfigError
from dualprune.pipeline.output import DONE, FAILED, answer, need_reader, redraws, say, show
from dualprune.pipeline.reports import speed as reports
from dualprune.pipeline.store import speeds
from dualprune.stages.artefacts.manifest import Damaged
from dualprune.stages.settings.base import SpecError

if TYPE_CHECKING:
    from dualprune.stages.export.source import Origin
    from dualprune.stages.export.speed import Subject

USUAL = ("torch", "compile", "csr", "2:4", "onnx")
"""Backends that are timed where none are named, of these what is installed."""


def add(verbs: Any) -> None:
    """Add the verb to the command line's."""
    text = "time finished networks and the dense ones they came from side by side, and say where nothing was gained"
    verb = verbs.add_parser("speed", help=text, description=text)
    verb.add_argument("artefacts", metavar="ARTEFACT", nargs="+", help=NAMES)
    what = verb.add_argument_group("what is timed")
    text = f"of {', '.join(USUAL)} (default: all that are installed); csr is torch with sparse linear layers on a "
    text += "CPU, 2:4 in half precision with kernels for N:M zeros on a GPU"
    what.add_argument("--backend", metavar="NAME,...", type=_listed, help=text)
    text = "samples of a call; several sizes may be named (default: 1,8)"
    what.add_argument("--batch", metavar="N,...", type=_numbers, default=[1, 8], help=text)
    what.add_argument("--threads", metavar="N", type=_number, default=1, help="of a CPU (default: 1)")
    text = "cpu or cuda, or both (default: cpu, and cuda where there is one)"
    what.add_argument("--device", metavar="NAME,...", type=_listed, help=text)
    how = verb.add_argument_group("how long")
    text = "for each network, backend and batch (default: 2)"
    how.add_argument("--seconds", metavar="S", type=_seconds, default=2.0, help=text)
    how.add_argument("--repeats", metavar="N", type=_number, help="rounds, instead of seconds")
    called_with(verb)
    text = "print one JSON object as the last line of output"
    verb.add_argument_group("output").add_argument("--json", action="store_true", help=text)
    verb.set_defaults(command=_speed)


def _speed(options: argparse.Namespace, console: Console) -> int:
    from dualprune.stages.export import speed
    from dualprune.stages.export.machine import machine
    from dualprune.stages.export.timing import Effort

    devices = _devices(options.device)
    backends, skipped = _backends(options.backend, devices)
    found = [finished(words, options.store, "speed") for words in dict.fromkeys(each(options.artefacts))]
    subjects, whose = _subjects(found, origin(options))
    effort = Effort(options.seconds, options.repeats)
    rows = []
    for row in speed.speeds(
        subjects, backends, list(dict.fromkeys(options.batch)), devices, options.threads, effort, _noted(console)
    ):
        need_reader()
        rows.append(row)
    show(console, reports.networks(subjects))
    say(console, "")
    show(console, reports.table(rows))
    machines = {device: machine(device) for device in devices}
    say(console, f"on {' and '.join(machines.values())}")
    for text in [*reports.verdicts(rows), *skipped]:
        say(console, text)
    told = reports.as_json(subjects, rows, machines)
    _leave(told["speeds"], whose, console)
    if options.json:
        answer(told)
    return DONE if all(any(r.name == one.name and r.latency for r in rows) for one in subjects) else FAILED


def _leave(rows: Sequence[Mapping[str, Any]], whose: Mapping[str, Finished], console: Console) -> None:
    """Leave what was measured beside the artefacts, for reports; where that can't be, the measurement stands."""
    for name, one in whose.items():
        timed = [row for row in rows if row["name"] == name and row["latency"] is not None]
        try:
            if timed:
                speeds.leave(one.store, one.key, timed)
        except OSError as error:
            say(console, f"{name}: reports won't have its speed: {error}")


def _backends(asked: Sequence[str] | None, devices: Sequence[str]) -> tuple[list[str], list[str]]:
    """Backends by name, and what is told of those that are not there. Raises ConfigError."""
    from dualprune.stages.export.backends import known

    try:
        missing = {name: one.missing() for name, one in zip(asked or USUAL, known(asked or USUAL), strict=True)}
    except ValueError as error:
        raise ConfigError("--backend", [str(error)]) from None
    told = [text for text in missing.values() if text is not None]
    for name, one in zip(asked or (), known(asked or ()), strict=True):
        if not set(devices) & set(one.devices):
            told.append(f"{name} runs on {' and '.join(one.devices)} alone, and {' and '.join(devices)} is timed here")
    if asked and told:
        raise ConfigError("--backend", told)
    return [name for name, text in missing.items() if text is None], told


def _devices(asked: Sequence[str] | None) -> list[str]:
    from dualprune.stages.export.backends import devices

    there = devices()
    for name in asked or ():
        if name not in ("cpu", "cuda"):
            raise ConfigError("--device", [f"there is no device {name!r}; there are cpu and cuda"])
        if name not in there:
            raise ConfigError("--device", ["torch finds no CUDA device on this machine"])
    return list(asked or there)


def _subjects(found: Sequence[Finished], inputs: Origin) -> tuple[list[Subject], dict[str, Finished]]:
    """The dense networks first, each once, then what came of them; and whose these are, by name. Raises ConfigError."""
    from dualprune.stages.export.subjects import built, is_dense, subject

    dense: dict[str, Subject] = {}
    results: list[Subject] = []
    taken: set[str] = set()
    whose: dict[str, Finished] = {}
    for one in found:
        base = one if is_dense(one.manifest) else dense_of(one, is_dense)
        above, before = (one, "dense of ") if base is None else (base, "")
        place = f"{before}{above.store.url}/{above.key}"
        if place not in dense:
            name = title(above, taken, before)
            dense[place] = _made(above, built if base is None else subject, name, inputs, None)
        if base is one:
            whose[dense[place].name] = one
        else:
            name = title(one, taken)
            whose[name] = one
            results.append(_made(one, subject, name, inputs, dense[place].name))
    return [*dense.values(), *results], whose


def _made(of: Finished, make: Callable[..., Subject], name: str, inputs: Origin, dense: str | None) -> Subject:
    """A network ready to be timed. Raises ConfigError."""
    from dualprune.stages.export.errors import NotExported

    try:
        return make(of.store.folder, of.key, name, inputs, dense)
    except SpecError as error:
        raise ConfigError(of.name, [text for _, text in error.problems]) from None
    except (Damaged, FileNotFoundError, NotExported) as error:
        raise ConfigError(of.name, [str(error)]) from None


def _noted(console: Console) -> Callable[[str], None]:
    """What is told of what lasts, where somebody watches."""
    return (lambda text: say(console, text, "dim")) if redraws(console) else (lambda text: None)


def _listed(given: str) -> list[str]:
    return list(dict.fromkeys(part.strip() for part in given.split(",") if part.strip()))


def _numbers(given: str) -> list[int]:
    return [_number(part) for part in given.split(",")]


def _number(given: str) -> int:
    try:
        found = int(given)
    except ValueError:
        found = 0
    if found < 1:
        raise argparse.ArgumentTypeError(f"a whole number from 1 on is needed, not {given!r}")
    return found


def _seconds(given: str) -> float:
    try:
        found = float(given)
    except ValueError:
        found = 0.0
    if not 0 < found < float("inf"):
        raise argparse.ArgumentTypeError(f"a number of seconds above 0 is needed, not {given!r}")
    return found
