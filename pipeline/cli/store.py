"""`dualprune store`: what a store holds, whether it is whole, and what of it can go."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import yaml
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dualprune.pipeline import dag, measured
from dualprune.pipeline.config import load as config
from dualprune.pipeline.config.problems import ConfigError, argued, like
from dualprune.pipeline.output import DONE, FAILED, answer, complain, say, show
from dualprune.pipeline.plan import make as planning
from dualprune.pipeline.store import garbage, inventory
from dualprune.pipeline.store.inventory import Entry
from dualprune.pipeline.store.locks import Holder, living
from dualprune.pipeline.store.store import Store
from dualprune.stages.artefacts.manifest import Damaged, read
from dualprune.stages.files import urls
from dualprune.stages.objectives.measures import measures

RUNS = "./runs"
"""The store, where none is given."""
NUMBERS = ("size", "weights", "left", "share", "residual", "bytes")
"""Titles of columns that are set to the right, beside those of rates and of what was measured."""


def add(verbs: Any) -> None:
    """Add `store` and its subcommands to the command line's."""
    text = "look into a store: what it holds, whether it is whole, what of it can go"
    store = verbs.add_parser("store", help=text, description=text)
    commands = store.add_subparsers(required=True, metavar="COMMAND")
    for name, command, text in (
        ("ls", _ls, "list the stages in a store"),
        ("show", _show, "say all that is known of one stage"),
        ("verify", _verify, "read every artefact and checkpoint, and say which are not what was written"),
        ("gc", _gc, "remove what the given configurations don't need; asks before it does"),
    ):
        verb = commands.add_parser(name, help=text, description=text)
        if name == "show":
            text = (
                "a stage's key, the beginning of it, or its name where no other in the store has it; or CONFIG STAGE, "
            )
            text += "of that configuration and its store"
            verb.add_argument("key", metavar="STAGE", nargs="+", help=text)
        if name == "gc":
            verb.add_argument("configs", metavar="CONFIG", nargs="+", help="what is needed by any of these stays")
            verb.add_argument("--yes", action="store_true", help="don't ask")
            text = (
                "a setting that the runs were given, such as cluster.workers=1; several may follow; of one setting the "
                "last value counts: "
            )
            text += "what ran with another value, such as another seed, is not kept"
            verb.add_argument("--set", metavar="A.B=C", action="append", default=[], help=text)
        text = f"folder or fsspec URL (default: {RUNS})"
        default = None if name == "show" else RUNS
        verb.add_argument("--store", metavar="URL", type=argued(urls.checked), default=default, help=text)
        verb.add_argument("--json", action="store_true", help="print one JSON object as the last line of output")
        verb.set_defaults(command=command, works=name == "gc")


def opened(url: str, setting: str) -> Store:
    """The store at a URL that a setting gave, if there is one. Raises ConfigError."""
    try:
        store = Store(url)
        there = store.folder.exists()
    except Exception as error:  # noqa: BLE001 - each filesystem has errors of its own; all mean the same here
        raise ConfigError(setting, [f"{url} can't be read: {error}"]) from None
    if not there:
        raise ConfigError(setting, [f"there is no store at {url}; `{setting}` says where it is"])
    return store


def _ls(options: argparse.Namespace, console: Console) -> int:
    store = opened(options.store, "--store")
    found = inventory.entries(store)
    if found:
        show(console, _table(found))
    say(console, f"{store.url}: {len(found)} stages, {_size(sum(entry.bytes for entry in found))}")
    if options.json:
        answer({"store": store.url, "stages": [measured.as_json(entry, entry.measures) for entry in found]})
    return DONE


def _show(options: argparse.Namespace, console: Console) -> int:
    store, given = named(options.key, options.store, "store show")
    try:
        key = inventory.find(store, given)
        found = read(store.folder / key)
    except (inventory.Unknown, Damaged) as error:
        raise ConfigError("store show", [str(error)]) from None
    (entry,) = (entry for entry in inventory.entries(store) if entry.key == key)
    show(console, _table([entry]))
    if found is not None:
        _facts(store, found, console)
    elif entry.why:
        say(console, entry.why)
    if options.json:
        answer(found if found is not None else measured.as_json(entry, entry.measures))
    return DONE


def named(given: Sequence[str], url: str | None, verb: str) -> tuple[Store, str]:
    """A store, and what names one of its stages: of a configuration's, the key. Raises ConfigError.

    `given` are the words of a command line, STAGE or CONFIG STAGE, and `url` its store, if it says one.
    """
    if len(given) == 1:
        return opened(url or RUNS, "--store"), given[0]
    if len(given) > 2:
        raise ConfigError(verb, ["one stage is meant: STAGE, or CONFIG STAGE"])
    path, name = given
    settings = [] if url is None else [f"store={json.dumps(url)}"]
    draft = config.read(path, settings)
    top = draft.sound().top
    store = opened(top.store, "store" if url is None else "--store")
    _, plan = planning.standing(draft.sound(), draft.problems)
    keys = {node.name: node.key for planned in plan for node in (planned.node, *planned.trials)}
    if name not in keys:
        raise ConfigError(path, [f"there is no stage {name!r}{like(name, list(keys))}"])
    if keys[name] not in inventory.keys(store):
        raise ConfigError(verb, [f"{store.url} has nothing of {name}, whose key is {keys[name]}"])
    return store, keys[name]


def _facts(store: Store, found: Mapping[str, Any], console: Console) -> None:
    say(console, "\nparents")
    for above in inventory.lineage(store, found):
        shown = "not in this store"
        if above.manifest is not None:
            metrics = above.manifest["metrics"]
            network = f" (network {_rate(metrics['network_rate'])})" if metrics.get("network_rate") else ""
            of = measures(above.manifest)
            shown = f"{_rate(metrics.get('rate'))}{network}, {measured.validated(metrics, of.best, of.unit)}"
        say(console, f"{'  ' * above.depth}{above.name}  {above.key}  {shown}")
    if not found.get("parents"):
        say(console, "  none")
    if "shrunk" in found:
        say(console, "\ntaken out")
        for line in _taken(found["shrunk"]):
            say(console, f"  {line}")
    say(console, "\nsettings")
    settings = yaml.safe_dump(found.get("spec", {}), sort_keys=False, default_flow_style=None, width=100)
    say(console, "  " + settings.rstrip().replace("\n", "\n  "))
    tensors = _rows("tensor", "shape", "weights", "left", "share", "sets", "residual")
    for name, tensor in found.get("tensors", {}).items():
        residual = found.get("residuals", {}).get(name)
        tensors.add_row(
            escape(name),
            " x ".join(map(str, tensor["shape"])),
            f"{tensor['size']:,}",
            f"{tensor['nonzeros']:,}",
            f"{100 * tensor['nonzeros'] / max(1, tensor['size']):.2f} %",
            ", ".join(tensor.get("sets", [])),
            "-" if residual is None else f"{residual:.3f}",
        )
    files = _rows("file", "bytes", "sha256")
    for name, file in found.get("files", {}).items():
        files.add_row(escape(name), f"{file['bytes']:,}", file["sha256"])
    for table in (tensors, files):
        say(console, "")
        show(console, table)


def _taken(shrunk: Mapping[str, Any]) -> Iterator[str]:
    """Lines on what made a stage's network smaller."""
    for name, title in (("weights", "weights"), ("macs", "multiply-accumulates")):
        before, after = shrunk[name]
        yield f"{title}  {before:,.0f} -> {after:,.0f} ({100 * after / max(1, before):.1f} %)"
    for name, (before, after) in shrunk["units"].items():
        yield f"{name}  {before} -> {after}"
    for path, rank in shrunk.get("factorised", {}).items():
        yield f"{path}  two layers, of rank {rank}"
    for path, rank in shrunk.get("unfactorised", {}).items():
        yield f"{path}  whole, of rank {rank}: two layers would be no smaller"
    for path, loss in shrunk["blocks"].items():
        yield f"{path}  block gone; loss on validation without it {loss:.4g}"
    for name, count in shrunk.get("part", {}).items():
        yield f"{name}  {count} stay that are zero in a part of what makes or reads them"
    for name, reason in shrunk["refused"].items():
        yield f"{name}  can't be cut: {reason}"
    if shrunk["difference"] is not None:
        yield f"its outputs, before training, differ by {shrunk['difference']:.2g} of the largest"


def _verify(options: argparse.Namespace, console: Console) -> int:
    store = opened(options.store, "--store")
    found = inventory.verify(store)
    for damage in found.damages:
        complain(damage)
    checked = f"{found.artefacts} artefacts and {found.parts} parts of checkpoints"
    say(console, f"{store.url}: {checked}, {len(found.damages) or 'nothing'} damaged")
    if options.json:
        answer({"store": store.url, **asdict(found)})
    return FAILED if found.damages else DONE


def _gc(options: argparse.Namespace, console: Console) -> int:
    store = opened(options.store, "--store")
    names, needed = _needed(store, options.configs, options.set)
    alive = living(store.folder)
    for line in _staying(store, names, needed, alive):
        say(console, f"  {line}")
    waste = _waste(store, needed, alive)
    for one in waste:
        say(console, f"  {one.path}  {_size(one.bytes)}  {one.why}")
    total = _size(sum(one.bytes for one in waste))
    say(console, f"{len(waste)} things can go, {total}" if waste else "nothing can go")
    agreed = bool(waste) and (options.yes or _agreed(console, total))
    left = _removed(store, needed, waste, console) if agreed else []
    if options.json:
        goes = [asdict(one) for one in waste]
        stays = sorted(needed.keys)
        answer({"store": store.url, "stays": stays, "goes": goes, "removed": agreed, "left": left})
    return DONE


def _staying(
    store: Store, names: Mapping[str, str], needed: garbage.Needed, alive: Mapping[str, Holder]
) -> Iterator[str]:
    """Lines on what is not removed, and why. `names` are those of the stages that are needed, by key."""
    for name, key in sorted((names[key], key) for key in inventory.keys(store) if key in names):
        yield f"{key}  {name}: stays"
    for name in sorted(needed.data):
        yield f"data/{name}: stays"
    for lock, holder in alive.items():
        yield f"{lock} is held by {holder}: what it works on stays"


def _removed(store: Store, needed: garbage.Needed, waste: list[garbage.Waste], console: Console) -> list[str]:
    """Remove it, but for what has come into use while somebody thought about it; the paths that are left."""
    still = {one.path for one in _waste(store, needed, living(store.folder))}
    left = [one.path for one in waste if one.path not in still]
    left += garbage.remove(store, [one for one in waste if one.path in still])
    say(console, f"removed {len(waste) - len(left)} things")
    for path in left:
        say(console, f"  {path} stayed: a run has begun to use it")
    return left


def _needed(store: Store, configs: Iterable[str], settings: Sequence[str]) -> tuple[dict[str, str], garbage.Needed]:
    """Names by key, and what configurations need of this store, wherever they would have theirs. Raises ConfigError."""
    names: dict[str, str] = {}
    shards: set[str] = set()
    weights: set[str | None] = set()
    for path in configs:
        _, plan = planning.make(*config.load(path, [*settings, f"store={json.dumps(store.url)}"]))
        nodes = [node for planned in plan for node in (planned.node, *planned.trials)]
        names |= {node.key: node.name for node in nodes}
        shards |= {planned.node.shards for planned in plan}
        trained = [dag.trained(planned.node.spec) for planned in plan]
        weights |= {spec.model.sha256 for spec in trained if spec is not None}
    here = f"{store.url}/data/"
    data = frozenset(url.removeprefix(here) for url in shards if url.startswith(here))
    return names, garbage.Needed(frozenset(names), data, frozenset(digest for digest in weights if digest))


def _waste(store: Store, needed: garbage.Needed, alive: Mapping[str, Holder]) -> list[garbage.Waste]:
    try:
        return garbage.find(store, needed, alive)
    except garbage.Busy as error:
        raise ConfigError("store gc", [str(error)]) from None


def _agreed(console: Console, total: str) -> bool:
    """Ask. Raises ConfigError where there is nobody to answer."""
    if sys.stdin is None or not sys.stdin.isatty():
        raise ConfigError("store gc", ["there is no terminal to ask on; with `--yes`, what is listed is removed"])
    console.print(f"remove them, {total}? [y/N] ", end="", highlight=False, markup=False)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _table(found: Sequence[Entry]) -> Table:
    titles = measured.titles(entry.measures for entry in found if entry.val is not None)
    table = _rows("key", "name", "kind", "rate", "network rate", *titles, "size", "finished", "state")
    for entry in found:
        state = f"{entry.state}, checkpoint at step {entry.checkpoint}" if entry.checkpoint is not None else entry.state
        table.add_row(
            entry.key,
            escape(entry.name or "-"),
            entry.kind or "-",
            _rate(entry.rate),
            _rate(entry.network_rate),
            *map(measured.cell, (entry.val, entry.test), (entry.measures, entry.measures), titles),
            _size(entry.bytes),
            "-" if entry.finished is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.finished)),
            state,
        )
    return table


def _rows(*titles: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in titles:
        last = title.splitlines()[-1]
        numbers = title.endswith("rate") or last in NUMBERS or last.split()[0] in measured.SPLITS
        table.add_column(title, justify="right" if numbers else "left", no_wrap=True)
    return table


def _rate(rate: float | None) -> str:
    return "-" if rate is None else f"{rate:.2f}x"


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
