"""The fit over depth, width and resolution: what is drawn is what the artefact says."""

from __future__ import annotations

from pathlib import Path

import pytest

from dualprune.pipeline.choices.shapes import Measured, Point, Threed, decide
from dualprune.pipeline.reports.page import drawing
from dualprune.pipeline.reports.page.collect import collect
from dualprune.pipeline.reports.page.facts import Run
from dualprune.pipeline.reports.page.figures.surface import surface
from dualprune.stages.artefacts.manifest import MANIFEST, own_hash
from tests.pipeline.reports.page.made import LADDER, Made, make

STAGES = (
    LADDER[0],
    Made("half@best,width-0.8", ("dense",), 2, 92.9, kind="shrink"),
    Made("half", ("dense",), kind="threed", chosen="half@best,width-0.8"),
)
STAGE = {
    "kind": "shrink",
    "model": {"name": "resnet20"},
    "data": {"source": "cifar10"},
    "batch": 8,
    "retrain": {"epochs": 1, "lr": 0.1},
}


def chosen(folder: Path, depth: list[int], width: list[float], resolution: list[int]) -> Run:
    """A run whose last stage chose so, by chains of these values."""
    points = [Point(), *(Point(depth=one) for one in depth), *(Point(width=one) for one in width)]
    points += [Point(resolution=one) for one in resolution]
    samples = [
        Measured(
            one, 93 - 0.1 * one.depth - 9 * (1 - one.width) - 0.1 * (32 - (one.resolution or 32)), {"macs": _cost(one)}
        )
        for one in points
    ]
    chains = {"depth": depth, "width": width, "resolution": resolution}
    spec = Threed.model_validate({"kind": "threed", "stage": STAGE, "budget": {"macs": 0.6}, **chains})
    store = make(str(folder), STAGES)
    path = f"{STAGES[2].key}/{MANIFEST}"
    manifest = store.folder.read_json(path) | {"decision": decide(spec, samples, 32, True).facts()}
    store.folder.write_json(path, manifest | {"sha256": own_hash(manifest)})
    return collect(store, "made")


def _cost(point: Point) -> float:
    side: float = (point.resolution or 32) / 32
    return (1 - point.depth * 0.06) * point.width**2 * side**2


def test_slices_and_samples(tmp_path: Path) -> None:
    run = chosen(tmp_path, [3, 6, 9], [0.9, 0.8, 0.7], [28, 24])
    facts, figure = run.stages["half"].decision, surface(run)
    assert figure is not None
    *slices, legend = figure.spec(900)["concat"]
    assert [one["title"]["text"] for one in slices] == ["resolution 32", "resolution 28", "resolution 24"]
    tips = [one["tip"] for part in slices for layer in part["layer"] for one in layer["data"]["values"] if "tip" in one]
    assert sum(tip.startswith("chosen, ") for tip in tips) == 1
    assert len(tips) == len(facts["samples"]) + 1
    assert "3 blocks out, 100 % wide, resolution 32: measured 92.70 %" in " ".join(tips)
    assert [row[3] for row in figure.table.rows[:-1]] == [f"{one['value']:.2f}" for one in facts["samples"]]
    assert figure.table.rows[-1][4] == f"{facts['predicted']:.2f}"
    assert "98.50 % when it was trained" in figure.sentence
    assert len(legend["layer"]) == 8
    low, high = (layer["data"]["values"][0]["text"] for layer in legend["layer"][-2:])
    values = [one["value"] for one in facts["samples"]]
    assert (low, high) == (f"{min(values):.2f} %", f"{max(values):.2f} %")


@pytest.mark.parametrize(
    ("depth", "width", "resolution"), [([3, 6], [0.9, 0.7], []), ([], [0.9, 0.7], [28, 24]), ([3, 6], [], [28, 20])]
)
def test_two_axes_are_one_slice(depth: list[int], width: list[float], resolution: list[int], tmp_path: Path) -> None:
    pytest.importorskip("vl_convert")
    figure = surface(chosen(tmp_path, depth, width, resolution))
    assert figure is not None
    assert len(figure.spec(900)["concat"]) == 2, "and the legend"
    assert drawing.svg(figure.spec(350)).startswith("<svg")


def test_one_axis_is_no_surface(tmp_path: Path) -> None:
    assert surface(chosen(tmp_path, [], [0.9, 0.8, 0.7], [])) is None


def test_runs_without_a_fit(tmp_path: Path) -> None:
    assert surface(collect(make(str(tmp_path), LADDER), "made")) is None
