"""What pruning gained: bytes, and measured speed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from dualprune.pipeline.reports.page.facts import Run, Speed, Stage
from dualprune.pipeline.reports.page.figures.base import (
    Figure,
    Spec,
    Table,
    linear_ticks,
    padded,
    plural,
    quantitative,
    size,
    tick_count,
    times,
)
from dualprune.pipeline.reports.page.figures.marks import axis, dots, mark, rows
from dualprune.pipeline.reports.page.theme import colour

DRAWN = 30
"""Rows, at most."""
BACKENDS = {
    "torch": "PyTorch",
    "compile": "torch.compile",
    "csr": "sparse rows",
    "2:4": "2:4 kernels",
    "onnx": "ONNX Runtime",
}
SAID = {"no gain": "no gain", "slower": "slower", "gain": "faster"}


def sizes(run: Run) -> Figure | None:
    """Bytes of the whole network, at each stage on the way."""
    along = [stage for stage in run.along() if stage.metric("bytes")]
    if len(along) < 2:
        return None
    sentence = "All of the network's tensors with their zeros left out, the place of each weight included."
    table = Table(
        ("stage", "bytes", "times fewer", "multiply-accumulates"),
        tuple((one.name, f"{one.metric('bytes'):,.0f}", times(run.smaller(one)), _macs(one)) for one in run.done()),
    )
    return Figure("size", "Size", sentence, partial(_sizes_spec, run, along[-DRAWN:]), table)


def _macs(stage: Stage) -> str:
    found = stage.metric("macs")
    return "-" if found is None else f"{found:,.0f}"


def _sizes_spec(run: Run, stages: Sequence[Stage], width: int) -> Spec:
    found = [stage.metric("bytes") or 0.0 for stage in stages]
    right = [
        f"{size(one)}{'' if stage is run.dense else f', {times(run.smaller(stage))} less'}"
        for stage, one in zip(stages, found, strict=True)
    ]
    frame = rows([stage.name for stage in stages], right, width)
    most = max(found)
    x = quantitative("x", (0, most * 1.02))
    data = [
        {"row": number, "x": 0, "x2": one, "tip": f"{stage.name}: {one:,.0f} bytes"}
        for number, (stage, one) in enumerate(zip(stages, found, strict=True))
    ]
    last = len(data) - 1
    layers = [frame.bars(data[:last], x, "grey"), frame.bars(data[last:], x, "blue")]
    return frame.spec([*layers, *frame.texts({last})], bottom=4)


def speed(run: Run) -> Figure | None:
    """Times as fast as dense, as measured."""
    found = [
        (stage, one)
        for stage in run.stages.values()
        for one in stage.speeds
        if one.ratio is not None and one.verdict != "dense"
    ]
    if not found:
        return None
    along = set(run.way.stages)
    drawn = sorted(found, key=lambda pair: pair[0].name not in along)[:DRAWN]
    sentence = (
        "Times as fast as the dense network, timed side by side; lines are 99 % intervals. Blue is certainly faster."
    )
    if len(drawn) < len(found):
        sentence += f" {plural(len(found) - len(drawn), 'more row')} in the table."
    table = Table(
        ("network", "machine", "backend", "device", "batch", "a call, ms", "times as fast", "99 %", "verdict"),
        tuple(
            (
                stage.name,
                one.machine,
                BACKENDS.get(one.backend, one.backend),
                one.device if one.device != "cpu" else f"cpu, {plural(one.threads, 'thread')}",
                one.batch,
                f"{1000 * one.seconds:.3g}",
                f"{one.ratio:.2f}×",
                "-" if one.low is None or one.high is None else f"{one.low:.2f} to {one.high:.2f}",
                SAID.get(one.verdict or "", one.verdict),
            )
            for stage, one in found
        ),
    )
    return Figure("speed", "Measured speed", sentence, partial(_speed_spec, drawn), table)


def _speed_spec(found: Sequence[tuple[Stage, Speed]], width: int) -> Spec:
    names = [
        f"{stage.name}, {BACKENDS.get(one.backend, one.backend)}, batch {one.batch}"
        f"{'' if one.device == 'cpu' else f' on {one.device}'}"
        for stage, one in found
    ]
    ratios = [one.ratio or 1.0 for _, one in found]
    frame = rows(names, [f"{one:.2f}×" for one in ratios], width)
    ends = [end for _, one in found for end in (one.low, one.high) if end is not None]
    bounds = padded([*ratios, *ends, 1.0], 0.06)
    ticks = linear_ticks(*bounds, tick_count(frame.width, 60))
    x = quantitative("x", bounds, axis=axis("times as fast as dense", ticks, "format(datum.value, '~r') + '×'"))
    at = {"x": x, "y": frame.y}
    line = [{"row": -0.5, "row2": len(found) - 0.5, "x": 1.0}]
    layers = [mark("rule", line, {**at, "y2": {"field": "row2"}}, stroke=colour("soft"), strokeDash=[4, 3])]
    data: list[dict[str, Any]] = [
        {
            "row": number,
            "x": one.ratio,
            "low": one.low or one.ratio,
            "high": one.high or one.ratio,
            "gain": one.verdict == "gain",
            "tip": f"{names[number]}: {one.ratio:.2f}× as fast as dense ({SAID.get(one.verdict or '', '-')})",
        }
        for number, (_, one) in enumerate(found)
    ]
    for gain, name in ((False, "grey"), (True, "blue")):
        these = [one for one in data if one["gain"] is gain]
        if these:
            spans = [{"row": one["row"], "x": one["low"], "x2": one["high"]} for one in these]
            layers.append(mark("rule", spans, {**at, "x2": {"field": "x2"}}, stroke=colour(name), strokeWidth=2))
            layers.append(dots(these, at, name, 70))
    return frame.spec([*layers, *frame.texts()])
