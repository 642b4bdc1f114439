"""Networks beside the dense one, as a table and sentences."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.table import Table

if TYPE_CHECKING:
    from dualprune.stages.saliency.compare import Spread
    from dualprune.stages.saliency.look import Look

COMPARED = ("same answer", "changed", "better", "worse", "gradient x input", "quartiles", "ranks")
LISTED = 10
"""Changed samples that are told by number."""


def table(look: Look) -> Table:
    """A row for each network: whose answers changed, and how alike maps are, with quartiles."""
    found = Table(box=None, header_style="bold", pad_edge=False)
    found.add_column("network", no_wrap=True)
    for name in ("samples", *(COMPARED if look.compared else ())):
        found.add_column(name, justify="right", no_wrap=True)
    for subject in look.subjects:
        seen, beside = look.seen[subject.name], look.compared.get(subject.name)
        if beside is None:
            found.add_row(subject.name, str(len(seen.numbers)))
            continue
        found.add_row(
            subject.name,
            str(len(seen.numbers)),
            f"{100 * beside.agreement:.1f} %",
            f"{100 * (1 - beside.agreement):.1f} %",
            "-" if beside.better is None else str(beside.better),
            "-" if beside.worse is None else str(beside.worse),
            _mean(beside.product),
            "" if beside.product is None else f"{beside.product.low:.2f} - {beside.product.high:.2f}",
            _mean(beside.strength),
        )
    return found


def told(look: Look) -> Iterator[str]:
    """What the columns are, which samples changed, and what could not be shown."""
    first = look.subjects[0].name
    if look.compared:
        what = "gradient x input: mean correlation of samples' maps; ranks: rank correlation of the gradients' strength"
        yield f"compared with {first}; {what}"
    numbers = look.seen[first].numbers
    for name, beside in look.compared.items():
        if beside.changed:
            listed = ", ".join(str(numbers[place]) for place in beside.changed[:LISTED])
            more = f" and {len(beside.changed) - LISTED} more" if len(beside.changed) > LISTED else ""
            yield f"{name}: other answers to samples {listed}{more}"
        if beside.product is None:
            yield f"{name}: its inputs have another shape than those of {first}, so maps are not compared"
    yield from look.notes


def _mean(spread: Spread | None) -> str:
    return "-" if spread is None else f"{spread.mean:.3f}"
