"""Timed networks: as tables, as sentences where nothing was gained, and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from dualprune.stages.export.speed import Speed, Subject

BUSY = 0.1
"""Share of the time that may be waited before it is told."""
SAID = {
    "no gain": "no gain on this backend",
    "slower": "slower than dense on this backend",
    "gain": "faster, but by less than its MACs are fewer",
}
"""Of a verdict that needs a reason."""


def networks(subjects: Sequence[Subject]) -> Table:
    """What the networks are made of. MACs are of one sample, those with zeros too."""
    table = _titled(("network",), ("parameters", "not zero", "bytes", "MACs", "fewer MACs"))
    by_name = {one.name: one for one in subjects}
    for one in subjects:
        facts, dense = one.facts, by_name[one.dense or one.name].facts
        table.add_row(
            escape(one.name),
            f"{facts.parameters:,}",
            f"{facts.parameters - facts.zeros:,}",
            f"{facts.bytes:,}",
            f"{facts.cost.macs:,}",
            f"{dense.cost.macs / max(1, facts.cost.macs):.2f}x",
        )
    return table


def table(rows: Sequence[Speed]) -> Table:
    """Latency with its quartiles, and speed-up over the dense network with the bounds of 99 % certainty."""
    words = ("device", "backend")
    numbers = ("batch", "ms", "quartiles", "samples/s", "speed-up", "99 %", "of MACs' ratio")
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
    """A sentence for each network and reason for which it is no faster, or was not timed, and where that is so."""
    found: dict[tuple[str, str, tuple[str, ...]], dict[str, list[str]]] = {}
    for row in rows:
        said = "not timed" if row.latency is None else SAID.get(row.verdict or "")
        if said is not None and row.why:
            backend = row.title if row.place.device == "cpu" else f"{row.title} on {row.place.device}"
            places = found.setdefault((row.name, said, row.why), {})
            places.setdefault(backend, []).append(str(row.place.batch))
    for (name, said, why), places in found.items():
        where = "; ".join(f"{backend}, batch {' and '.join(batches)}" for backend, batches in places.items())
        yield f"{name}: {said} ({where}): {'; '.join(why)}"
    waited = max((row.waited for row in rows if row.waited is not None), default=0.0)
    if waited > BUSY:
        share = f"up to {100 * waited:.0f} % of the time this process waited for a processor"
        yield f"the machine is busy: {share}; on a quiet one intervals are narrower"


def as_json(subjects: Sequence[Subject], rows: Sequence[Speed], machines: Mapping[str, str]) -> dict[str, Any]:
    """The object that `--json` prints. Times are seconds; `low` and `high` of a latency are its quartiles.

    `machines` are what the devices are called.
    """
    return {
        "networks": [
            {
                "name": one.name,
                "dense": one.dense,
                "parameters": one.facts.parameters,
                "nonzeros": one.facts.parameters - one.facts.zeros,
                "bytes": one.facts.bytes,
                **asdict(one.facts.cost),
            }
            for one in subjects
        ],
        "speeds": [
            {
                **{name: value for name, value in asdict(row).items() if name != "place"},
                **asdict(row.place),
                "machine": machines[row.place.device],
                "throughput": row.throughput,
            }
            for row in rows
        ],
    }


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
