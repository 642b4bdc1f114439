"""What came of a run: one sentence, and four numbers. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from dualprune.pipeline.measured import number
from dualprune.pipeline.reports.page.facts import Run, Stage
from dualprune.pipeline.reports.page.figures.base import (
    finite,
    lasting,
    percent,
    plural,
    signed,
    size,
    times,
)
from dualprune.pipeline.reports.page.gaps import listed
from dualprune.pipeline.reports.page.uncertain import difference

SAME = 1.005
"""Times fewer from which on it is worth a word."""


@dataclass(frozen=True)
class Number:
    """One of the large ones."""

    value: str
    of: str
    """What it is."""
    beside: str
    """What it compares with."""


def verdict(run: Run) -> str:
    """One sentence on what the run came to."""
    chosen, dense = run.chosen, run.dense
    if chosen is None or dense is None:
        return _nothing(run)
    if chosen.name == dense.name:
        value = chosen.value()
        shown = "is trained" if value is None else f"reaches {_shown(chosen, value)} on test"
        return f"{chosen.name} {shown}; nothing is pruned{' yet' if run.state == 'going' else ''}."
    lost = _lost(run, chosen, dense)
    kept = _kept(run, chosen)
    comma = "," if "," in kept else ""
    return f"{chosen.name} {kept}{f'{comma} and {lost}' if lost else ''}."


def _nothing(run: Run) -> str:
    failed = [stage.name for stage in run.stages.values() if stage.state == "failed"]
    if failed:
        return f"Nothing is done: {listed(failed)} failed."
    running = [stage for stage in run.stages.values() if stage.state == "running"]
    if running:
        return f"Nothing is done yet: {running[0].name} is being trained."
    return "Nothing is done."


def _kept(run: Run, stage: Stage) -> str:
    """What of the network is left."""
    rate, said = run.fewer(stage) or 1.0, []
    if rate >= 1.5:
        said.append(f"keeps one weight in {rate:.2g}" if rate < 10 else f"keeps one weight in {rate:,.0f}")
    elif rate >= SAME:
        said.append(f"keeps {percent(100 / rate)} of the weights")
    bits = [one.bits for one in stage.tensors if one.bits not in (None, 32)]
    if bits:
        low, high = min(bits, key=_bits), max(bits, key=_bits)
        said.append(f"on {low if low == high else f'{low} to {high}'} bit{'' if high == 1 else 's'} each")
    cheaper = run.cheaper(stage) or 1.0
    if cheaper >= SAME:
        said.append(f"needs {percent(100 / cheaper)} of the multiply-accumulates")
    if not said:
        return "keeps all weights"
    first, *rest = said
    first = first if first.startswith(("keeps", "needs")) else f"keeps all weights {first}"
    return ", ".join([first, *rest])


def _bits(bits: int | None) -> int:
    return bits or 0


def _lost(run: Run, stage: Stage, dense: Stage) -> str | None:
    """What that costs, by the best metric on test."""
    value, before = stage.value(), dense.value()
    if value is None or before is None or stage.measures.best != dense.measures.best:
        return None
    of, apart = stage.measures, value - before
    margin = difference(stage, dense, run.samples)
    if of.unit == "%":
        shown = f"{abs(apart):.2f} points"
        if margin is not None and abs(apart) <= margin:
            return f"is level with {dense.name}: {signed(apart, of.unit)} points, within ±{margin:.2f}"
    else:
        shown = f"{number(abs(apart), of.unit)}{f' {of.unit}' if of.unit else ''} of {of.best.replace('_', ' ')}"
    if apart == 0:
        return f"is level with {dense.name}"
    better = (apart > 0) is of.higher
    return f"{'gains' if better else 'loses'} {shown}"


def _shown(stage: Stage, value: float) -> str:
    return f"{number(value, stage.measures.unit)} {stage.measures.unit}".strip()


def numbers(run: Run) -> list[Number]:
    """Rate, metric, bytes and time; fewer where they are not known."""
    chosen, dense = run.chosen, run.dense
    found = []
    if chosen is not None and dense is not None:
        found += [one for of in (_rate, _metric, _size) if (one := of(run, chosen, dense)) is not None]
    spent = [stage.seconds for stage in run.done() if stage.seconds is not None]
    if spent:
        failed = sum(stage.state == "failed" for stage in run.stages.values())
        retries = sum(map(_lost_attempts, run.stages.values()))
        told = [plural(len(spent), "stage"), f"{failed} failed" if failed else "none failed"]
        told += [plural(retries, "retry", "retries")] if retries else []
        found.append(Number(lasting(sum(spent)), "of training", ", ".join(told)))
    return found


def _lost_attempts(stage: Stage) -> int:
    """Of a stage that was tried again, be it by another driver."""
    history = stage.history
    if history is None:
        return 0
    return len(history.retries) + len(history.failures) - (stage.state == "failed")


def _rate(run: Run, chosen: Stage, dense: Stage) -> Number | None:
    rate = run.fewer(chosen)
    if rate is None:
        return None
    left, whole = chosen.metric("network_nonzeros"), dense.metric("network_weights")
    if left is None or whole is None:
        left, whole = chosen.metric("nonzeros"), chosen.metric("weights")
    beside = f"{left:,.0f} of {whole:,.0f}" if left is not None and whole is not None else ""
    return Number(times(rate), "fewer weights", beside)


def _metric(run: Run, chosen: Stage, dense: Stage) -> Number | None:
    split = "test" if chosen.value() is not None else "val"
    value, before = finite(chosen.value(split)), finite(dense.value(split))
    if value is None:
        return None
    name = f"{split} {chosen.measures.best.replace('_', ' ')}"
    beside = ""
    if before is not None and chosen.name != dense.name:
        points = " points" if chosen.measures.unit == "%" else ""
        apart = signed(value - before, chosen.measures.unit)
        beside = f"{apart}{points} against {dense.name}, {_shown(dense, before)}"
    return Number(_shown(chosen, value), name, beside)


def _size(run: Run, chosen: Stage, dense: Stage) -> Number | None:
    stored, whole = chosen.metric("bytes"), dense.metric("dense_bytes")
    if stored is None or whole is None:
        return None
    return Number(size(stored), "stored, with indexes", f"{times(whole / stored)} less than {size(whole)}")
