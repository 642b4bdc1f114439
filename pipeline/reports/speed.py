"""Timed networks: as tables, as sentences where nothing was gained, and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from dualprune.stages.export.speed import Speed, Subject


def networks(subjects: Sequence[Subject]) -> Table:
    """What the networks are made of. MACs are of one sample, those with zeros too."""
    table = _titled(("network",), ("parameters", "not zero", "MACs", "fewer MACs"))
    by_name = {one.name: one for one in subjects}
    for one in subjects:
        facts, dense = one.facts, by_name[one.dense or one.name].facts
        table.add_row(
            escape(one.name),
            f"{facts.parameters:,}",
            f"{facts.parameters - facts.zeros:,}",
            f"{facts.cost.macs:,}",
            f"{dense.cost.macs / max(1, facts.cost.macs):.2f}x",
        )
    return table


def table(rows: Sequence[Speed]) -> Table:
    """Latency with its quartiles, and times as fast as the dense network with the bounds of 95 % certainty."""
    words = ("device", "backend")
    numbers = ("batch", "ms", "quartiles", "samples/s", "as fast", "95 %", "of MACs")
    found = _titled(("network", *words), numbers, ("",))
    for row in rows:
        if row.latency is None:
            continue
        ratio = row.ratio if row.verdict != "dense" else None
        found.add_row(
            escape(row.name),
            row.place.device if row.place.device != "cpu" else f"cpu, {_threads(row.place.threads)}",
            row.title,
            str(row.place.batch),
            _ms(row.latency.middle),
            f"{_ms(row.latency.low)} - {_ms(row.latency.high)}",
            f"{row.throughput:,.0f}",
            "1.00x" if row.verdict == "dense" else "-" if ratio is None else f"{ratio.middle:.2f}x",
            "" if ratio is None else f"{ratio.low:.2f} - {ratio.high:.2f}",
            "" if ratio is None or row.of_macs is None else f"{row.of_macs:.2f}",
            row.verdict if row.verdict in ("no gain", "slower") else "",
        )
    return found


def verdicts(rows: Sequence[Speed]) -> Iterator[str]:
    """A sentence for each network that is no faster in a place, with the reason, and each that was not timed."""
    for row in rows:
        place = f"{row.title}, {row.place.device}, batch {row.place.batch}"
        if row.verdict in ("no gain", "slower"):
            yield f"{row.name}: {_said(row.verdict)} on this backend ({place}): {'; '.join(row.why)}"
        elif row.latency is None:
            yield f"{row.name}: not timed ({place}): {'; '.join(row.why)}"


def as_json(subjects: Sequence[Subject], rows: Sequence[Speed]) -> dict[str, Any]:
    """The object that `--json` prints. Times are seconds; `low` and `high` of a latency are its quartiles."""
    return {
        "networks": [
            {
                "name": one.name,
                "dense": one.dense,
                "parameters": one.facts.parameters,
                "nonzeros": one.facts.parameters - one.facts.zeros,
                **asdict(one.facts.cost),
            }
            for one in subjects
        ],
        "speeds": [
            {
                **{name: value for name, value in asdict(row).items() if name != "place"},
                **asdict(row.place),
                "throughput": row.throughput,
            }
            for row in rows
        ],
    }


def _said(verdict: str) -> str:
    return "no gain" if verdict == "no gain" else "no gain, but slower"


def _titled(left: Sequence[str], right: Sequence[str], after: Sequence[str] = ()) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for titles, side in ((left, "left"), (right, "right"), (after, "left")):
        for title in titles:
            table.add_column(title, justify="right" if side == "right" else "left", no_wrap=True)
    return table


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.3g}"


def _threads(count: int) -> str:
    return f"{count} thread{'s' if count > 1 else ''}"
