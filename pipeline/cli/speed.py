"""`dualprune speed`: how much faster finished networks are than the dense ones they came from."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console

from dualprune.pipeline.cli.store import RUNS, opened
from dualprune.pipeline.config.problems import ConfigError, argued
from dualprune.pipeline.output import DONE, FAILED, answer, need_reader, redraws, say, show
from dualprune.pipeline.reports import speed as reports
from dualprune.pipeline.store import inventory
from dualprune.pipeline.store.store import Store
from dualprune.stages.artefacts.manifest import MANIFEST, Damaged, read
from dualprune.stages.files import urls
from dualprune.stages.files.folder import Folder
from dualprune.stages.settings.base import SpecError

if TYPE_CHECKING:
    from dualprune.stages.export.speed import Subject

USUAL = ("torch", "compile", "csr", "onnx")
"""Backends that are timed where none are named, of these what is installed."""


@dataclass(frozen=True)
class Found:
    """A finished stage that was asked for, or the dense one before it."""

    store: Store
    key: str
    name: str
    manifest: dict[str, Any]


def add(verbs: Any) -> None:
    """Add the verb to the command line's."""
    text = "time finished networks and the dense ones they came from side by side, and say where nothing was gained"
    verb = verbs.add_parser("speed", help=text, description=text)
    text = "a finished stage's key, the beginning of it, its name where no other in the store has it, or its folder"
    verb.add_argument("artefacts", metavar="ARTEFACT", nargs="+", help=text)
    what = verb.add_argument_group("what is timed")
    text = f"of {', '.join(USUAL)} (default: all that are installed); csr is torch with sparse linear layers"
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
    where = verb.add_argument_group("where things are")
    text = f"folder or fsspec URL of the store (default: {RUNS})"
    where.add_argument("--store", metavar="URL", type=argued(urls.checked), default=RUNS, help=text)
    text = "shards whose first samples the networks are called with (default: those that they were trained on)"
    where.add_argument("--data", metavar="SHARDS", type=argued(urls.checked), help=text)
    text = "call them with noise of this shape instead, such as 3,224,224: that needs no data"
    where.add_argument("--noise", metavar="N,...", type=_numbers, help=text)
    text = "print one JSON object as the last line of output"
    verb.add_argument_group("output").add_argument("--json", action="store_true", help=text)
    verb.set_defaults(command=_speed)


def _speed(options: argparse.Namespace, console: Console) -> int:
    from dualprune.stages.export.speed import speeds
    from dualprune.stages.export.timing import Effort

    backends, skipped = _backends(options.backend)
    devices = _devices(options.device)
    if options.data and options.noise:
        raise ConfigError("speed", ["give --data or --noise, not both"])
    found = [_found(given, options.store) for given in dict.fromkeys(options.artefacts)]
    subjects = _subjects(found, options)
    effort = Effort(options.seconds, options.repeats)
    rows = []
    for row in speeds(subjects, backends, options.batch, devices, options.threads, effort, _noted(console)):
        need_reader()
        rows.append(row)
    show(console, reports.networks(subjects))
    say(console, "")
    show(console, reports.table(rows))
    for text in [*reports.verdicts(rows), *skipped]:
        say(console, text)
    if options.json:
        answer(reports.as_json(subjects, rows))
    return DONE if all(any(r.name == one.name and r.latency for r in rows) for one in subjects) else FAILED


def _backends(asked: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """Backends by name, and what is told of those that are not there. Raises ConfigError."""
    from dualprune.stages.export.backends import known

    try:
        missing = {name: one.missing() for name, one in zip(asked or USUAL, known(asked or USUAL), strict=True)}
    except ValueError as error:
        raise ConfigError("--backend", [str(error)]) from None
    told = [text for text in missing.values() if text is not None]
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


def _found(given: str, url: str) -> Found:
    """A finished stage by what names it. Raises ConfigError."""
    above, _, last = given.rstrip("/").rpartition("/")
    try:
        if Folder(given).exists(MANIFEST):
            store, key = Store(above or ("/" if given.startswith("/") else ".")), last
        else:
            store = opened(url, "--store")
            key = inventory.find(store, given)
        manifest = read(store.folder / key)
    except (inventory.Unknown, Damaged) as error:
        raise ConfigError("speed", [str(error)]) from None
    if manifest is None:
        raise ConfigError("speed", [f"{given}: its stage is not done; {store.url}/{key} has no {MANIFEST}"])
    return Found(store, key, manifest.get("name", key), manifest)


def _subjects(found: Sequence[Found], options: argparse.Namespace) -> list[Subject]:
    """The dense networks first, each once, then what came of them. Raises ConfigError."""
    from dualprune.stages.export.subjects import built, is_dense, subject

    dense: dict[str, Subject] = {}
    results: list[Subject] = []
    shape = tuple(options.noise) if options.noise else None
    taken: set[str] = set()
    for one in found:
        with_parent = one if is_dense(one.manifest) else _parent(one, is_dense)
        if with_parent is not None:
            key = f"{with_parent.store.url}/{with_parent.key}"
            if key not in dense:
                name = _name(with_parent, taken)
                dense[key] = _made(with_parent, subject, name, dense=None, data=options.data, shape=shape)
        else:
            key = f"{one.store.url}/{one.key}: dense"
            dense[key] = _made(one, built, _name(one, taken, "dense of "), data=options.data, shape=shape)
        if with_parent is not one:
            name = _name(one, taken)
            results.append(_made(one, subject, name, dense=dense[key].name, data=options.data, shape=shape))
    return [*dense.values(), *results]


def _parent(of: Found, is_dense: Callable[[Any], bool]) -> Found | None:
    """The nearest stage before it of which nothing was pruned, if that is in the store."""
    for one in inventory.lineage(of.store, of.manifest):
        if one.manifest is not None and is_dense(one.manifest):
            return Found(of.store, one.key, one.name, dict(one.manifest))
    return None


def _name(of: Found, taken: set[str], before: str = "") -> str:
    """A stage's name; with the beginning of its key, where another one has it."""
    name = f"{before}{of.name}"
    name = f"{name} ({of.key[:8]})" if name in taken else name
    taken.add(name)
    return name


def _made(of: Found, make: Callable[..., Subject], name: str, **more: Any) -> Subject:
    """A network ready to be timed. Raises ConfigError."""
    from dualprune.stages.export.errors import NotExported
    from dualprune.stages.export.subjects import Unfit

    try:
        return make(of.store.folder, of.key, name, **more)
    except SpecError as error:
        raise ConfigError(of.name, [text for _, text in error.problems]) from None
    except (Damaged, FileNotFoundError, NotExported, Unfit) as error:
        raise ConfigError(of.name, [str(error)]) from None


def _noted(console: Console) -> Callable[[str], None]:
    """What is told of what lasts, where somebody watches."""
    return (lambda text: say(console, text, "dim")) if redraws(console) else (lambda text: None)


def _listed(given: str) -> list[str]:
    return list(dict.fromkeys(part.strip() for part in given.split(",") if part.strip()))


def _numbers(given: str) -> list[int]:
    return list(dict.fromkeys(map(_number, given.split(","))))


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
