"""Kills at random moments: one worker rank, one machine, the driver, the job; afterwards the run is finished.

    python -m tests.soak.kills --n 30 [--first I] [--seed S] [--json PATH] [--kinds worker node driver job]

What is killed in the trial `i` of a kind, and when, is a function of (seed, kind, i). A killed worker or
machine is made good by the run itself; a killed driver or job, by the same command once more. After each,
every stage is done, none that was finished before is repeated, every artefact is whole, and all of them have
the bits of a run that nobody disturbed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from rich import box
from rich.console import Console
from rich.table import Table

from dualprune.stages.artefacts.manifest import MANIFEST, damages
from dualprune.stages.files.folder import Folder
from tests.running import CONFIG, Nodes, Running, bits, dualprune, json_of, or_gone, title

Kind = Literal["worker", "node", "driver", "job"]
KINDS: tuple[Kind, ...] = get_args(Kind)
EARLY = 0.25
"""Share of the drivers and jobs that are killed before anything trains."""


@dataclass(frozen=True)
class Reference:
    """A run that nobody disturbed."""

    bits: dict[str, str]
    seconds: float
    """From its start to its end."""
    training: float
    """Seconds after its start at which the first stage trains."""


@dataclass
class Row:
    """One kill, and what came of it."""

    kind: Kind
    number: int
    moment: float
    """Of the time that is expected until the first training (`early`) or from then on."""
    early: bool
    at: str = ""
    """The last line of output before it."""
    codes: list[int] = field(default_factory=list)
    """Exit codes of the command, which was given once or twice."""
    finished: int = 0
    """Stages that were done when it came."""
    resumed: str = ""
    """Where the stage at work went on."""
    litter: int = 0
    """Files in finished artefacts' folders that are no part of them."""
    seconds: float = 0.0
    """Of all of it, the undisturbed run's time taken off."""
    problems: list[str] = field(default_factory=list)


def reference(folder: Path) -> Reference:
    """Run CONFIG in `folder` and leave it alone."""
    (folder / "small.yaml").write_text(CONFIG)
    began = time.monotonic()
    with Running(folder, "run", "small.yaml", "--json") as run:
        run.wait_for("dense: training")
        training = time.monotonic() - began
        code, lines = run.end()
    if code != 0:
        raise RuntimeError("\n".join(lines))
    return Reference(bits(folder), time.monotonic() - began, training)


def trial(kind: Kind, number: int, seed: int, folder: Path, expected: Reference, nodes: Nodes | None = None) -> Row:
    """Start a run in `folder`, kill what `kind` says at the moment that (seed, kind, number) says, and finish it.

    `nodes` is a cluster with two nodes, for the kind `node`; it has two again afterwards.
    """
    choice = random.Random(f"{seed} {kind} {number}")
    early = kind in ("driver", "job") and choice.random() < EARLY
    row = Row(kind, number, choice.random(), early)
    began = time.monotonic()
    for attempt in range(5):
        shutil.rmtree(folder / "runs", ignore_errors=True)
        # A machine that is faster now than it was for the reference may be done before the moment comes.
        if _killed(kind, row.moment * 0.8**attempt, choice, folder, expected, nodes, row):
            break
    else:
        row.problems.append("the run was always done before it could be killed")
    row.seconds = time.monotonic() - began - expected.seconds
    return row


def _killed(
    kind: Kind, moment: float, choice: random.Random, folder: Path, expected: Reference, nodes: Nodes | None, row: Row
) -> bool:
    """One try of a trial; False if the run was done too early. Notes in `row` what came of it."""
    (folder / "small.yaml").write_text(CONFIG)
    arguments = ["run", "small.yaml", "--json"]
    if nodes is not None:
        arguments += ["--set", f"cluster.address={nodes.address}"]
    environment = nodes.ENVIRONMENT if nodes is not None else {}
    with Running(folder, *arguments, environment=environment) as run:
        if row.early:
            time.sleep(moment * expected.training)
        else:
            run.wait_for("dense: training")
            time.sleep(moment * (expected.seconds - expected.training))
        done = _done(folder)
        row.finished, row.at = len(done), run.lines[-1] if run.lines else "before its first line"
        if run.process.poll() is not None or not _strike(kind, choice, run, nodes):
            return False
        code, lines = run.end()
    if kind in ("driver", "job") and lines and lines[-1].startswith("{") and not _undone(lines):
        return False  # all was done, and it was on its way out
    row.codes = [code]
    row.problems += [f"after the kill: {text}" for text in _damages(folder)]
    if kind in ("driver", "job"):
        code, lines = dualprune(folder, *arguments)
        row.codes.append(code)
    _judge(row, folder, expected, done, lines)
    return True


def _strike(kind: Kind, choice: random.Random, run: Running, nodes: Nodes | None) -> bool:
    """Kill; False if there is nothing left to be killed."""
    if kind == "worker":
        workers = [process for process in run.group() if "RayTrainWorker" in title(process)]
        if not workers:
            return False
        victim = choice.choice(sorted(workers, key=lambda process: process.pid))
        return bool(or_gone(lambda: victim.kill() or True, False))
    if kind == "node":
        assert nodes is not None
        nodes.kill(choice.choice(nodes.workers()))
        nodes.add()
    elif kind == "driver":
        run.process.kill()
    elif choice.random() < 0.5:
        run.process.send_signal(signal.SIGTERM)
    else:
        os.killpg(run.process.pid, signal.SIGTERM)
    return True


def _judge(row: Row, folder: Path, expected: Reference, done: dict[str, Any], lines: list[str]) -> None:
    """Note what does not hold after the run was finished."""
    row.resumed = "; ".join(line for line in lines if "goes on after step" in line)
    if row.codes[-1] != 0:
        row.problems.append(f"the run ended with {row.codes[-1]}: " + "\n".join(lines[-20:]))
        return
    row.problems += [f"{name} is not done" for name in _undone(lines)]
    after = _done(folder)
    row.problems += [f"{key} was finished and was made again" for key, files in done.items() if after.get(key) != files]
    row.problems += _damages(folder)
    found = bits(folder)
    row.problems += [
        f"{name} has other bits" for name in sorted(expected.bits) if found.get(name) != expected.bits[name]
    ]
    row.problems += [f"{name} should not be there" for name in sorted(set(found) - set(expected.bits))]
    for manifest in folder.glob(f"runs/*/{MANIFEST}"):
        own = {MANIFEST, *json.loads(manifest.read_text()).get("files", {})}
        row.litter += sum(file.is_file() and file.name not in own for file in manifest.parent.rglob("*"))


def _undone(lines: list[str]) -> list[str]:
    """Stages that a run's last line, its JSON, doesn't say to be finished."""
    return [stage["name"] for stage in json_of(lines)["stages"] if stage["state"] not in ("done", "cached")]


def _done(folder: Path) -> dict[str, Any]:
    """Of each finished stage, when its files were written and what is in them."""
    return {
        manifest.parent.name: {
            file.name: (file.stat().st_mtime_ns, hashlib.sha256(file.read_bytes()).hexdigest())
            for file in manifest.parent.iterdir()
            if file.is_file() and not file.name.endswith(".part")
        }
        for manifest in folder.glob(f"runs/*/{MANIFEST}")
        if manifest.parent.name != "data"
    }


def _damages(folder: Path) -> list[str]:
    """What is wrong with artefacts that say of themselves that they are finished."""
    return [text for key in _done(folder) for text in damages(Folder(str(folder / "runs" / key)))]


def _show(rows: Sequence[Row], expected: Reference) -> None:
    table = Table(title=f"Kills (an undisturbed run takes {expected.seconds:.0f} s)", box=box.SIMPLE_HEAD)
    for name in ("kind", "kills", "recovered", "stages done before", "went on from a checkpoint", "litter", "more s"):
        table.add_column(name, justify="left" if name == "kind" else "right")
    for kind in dict.fromkeys(row.kind for row in rows):
        of = [row for row in rows if row.kind == kind]
        more = sorted(row.seconds for row in of)
        table.add_row(
            kind,
            str(len(of)),
            str(sum(not row.problems for row in of)),
            "".join(f" {n}x{sum(row.finished == n for row in of)}" for n in range(4)),
            str(sum(bool(row.resumed) for row in of)),
            str(sum(row.litter for row in of)),
            f"{more[len(more) // 2]:.0f}",
        )
    console = Console(width=140)
    console.print(table)
    for row in rows:
        for problem in row.problems:
            console.print(f"{row.kind} {row.number} (moment {row.moment:.3f}, at {row.at!r}): {problem}", markup=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Kill, and report; 1 if anything did not hold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=30, help="kills of each kind")
    parser.add_argument("--first", type=int, default=0, help="number of the first of them: goes on with a list")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--json", type=Path, metavar="PATH", help="write all rows there, after each kill")
    asked = parser.parse_args(arguments)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="dualprune-kills-") as name:
        folder = Path(name)
        (folder / "undisturbed").mkdir()
        expected = reference(folder / "undisturbed")
        for kind in asked.kinds:
            _of_kind(kind, asked, folder, expected, rows)
    _show(rows, expected)
    return int(any(row.problems for row in rows))


def _of_kind(kind: Kind, asked: argparse.Namespace, folder: Path, expected: Reference, rows: list[Row]) -> None:
    """Add to `rows` all trials of one kind; those of machines on one cluster."""
    place = folder / kind
    place.mkdir()
    nodes = Nodes(place) if kind == "node" else None
    try:
        if nodes is not None:
            nodes.add()
            nodes.add()
        for number in range(asked.first, asked.first + asked.n):
            rows.append(trial(kind, number, asked.seed, place, expected, nodes))
            print(json.dumps(asdict(rows[-1])), flush=True)
            if asked.json is not None:
                facts = {name: vars(asked)[name] for name in ("first", "n", "seed")}
                facts["undisturbed_seconds"] = expected.seconds
                asked.json.write_text(json.dumps({**facts, "rows": [asdict(row) for row in rows]}, indent=1))
    finally:
        if nodes is not None:
            nodes.end()


if __name__ == "__main__":
    sys.exit(main())
