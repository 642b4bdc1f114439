"""What every benchmark shares: its two options, fair timing on a machine that drifts, and its output."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.console import Console, JustifyMethod
from rich.table import Table

from dualprune.stages.export.machine import machine as processor

Row = dict[str, Any]

WIDEST = 1000
"""Characters of a printed table."""


@dataclass(frozen=True)
class Options:
    """What the command line said."""

    quick: bool
    json: Path | None

    def also(self, name: str) -> Options:
        """The same for a second table, whose JSON goes beside the first's: `PATH-NAME.json`."""
        return self if self.json is None else replace(self, json=self.json.with_stem(f"{self.json.stem}-{name}"))


def options(about: str, arguments: Sequence[str] | None = None) -> Options:
    """Read the options that all benchmarks take."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--quick", action="store_true", help="measure less, in about half a minute: rougher numbers")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the rows and the machine's facts there too")
    return Options(**vars(parser.parse_args(arguments)))


def machine() -> dict[str, Any]:
    """What a number has to be read with."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "cpus": os.cpu_count(),
        "processor": processor(),
    }


def interleaved(
    variants: Mapping[str, Callable[[], object]],
    rounds: int,
    block: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Milliseconds per call of each variant: one number a round, the median over a block of calls.

    A shared machine's speed drifts over minutes, so numbers are comparable within a round only. The
    variants take turns, each in every place of the order equally often, and the first call of a block
    is not counted: it finds the caches full of the previous variant's tensors. What runs on one thread
    and never waits is better timed by `time.process_time`, which stands still while others have the core.
    """
    names = list(variants)
    times: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        turn = number % len(names)
        order = names[turn:] + names[:turn]
        # Reversed every other cycle, so that no variant always follows the same one.
        for name in order if number // len(names) % 2 == 0 else reversed(order):
            variants[name]()
            times[name].append(statistics.median(_milliseconds(variants[name], clock) for _ in range(block)))
    return times


def ratios(times: Sequence[float], base: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median and upper quartile of the per-round ratios."""
    low, middle, high = statistics.quantiles([a / b for a, b in zip(times, base, strict=True)], n=4, method="inclusive")
    return low, middle, high


def report(title: str, rows: Sequence[Row], asked: Options) -> None:
    """Print the rows as a table, and write them as JSON where that was asked for."""
    facts = machine()
    table = Table(
        title=title,
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        caption=", ".join(f"{name} {value}" for name, value in facts.items()),
    )
    for name in rows[0]:
        widest = max(len(_cell(row[name])) for row in rows)
        side: JustifyMethod = "left" if isinstance(rows[0][name], str) else "right"
        table.add_column(name.replace("_", " "), justify=side, min_width=widest)
    for row in rows:
        table.add_row(*(_cell(value) for value in row.values()))
    # In a narrow terminal, or in none, rich would squeeze the table and drop columns.
    needed = Console(width=WIDEST).measure(table).maximum
    Console(width=max(Console().width, needed)).print(table)
    if asked.json is not None:
        asked.json.parent.mkdir(parents=True, exist_ok=True)
        asked.json.write_text(
            json.dumps({"title": title, "quick": asked.quick, "rows": rows, "machine": facts}, indent=2)
        )


def _milliseconds(call: Callable[[], object], clock: Callable[[], float]) -> float:
    began = clock()
    call()
    return (clock() - began) * 1000


def _cell(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return "-".join(_cell(part) for part in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)
