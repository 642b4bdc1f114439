"""Figures: what they show is what manifests say, at any width; and the parts that they are made of."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dualprune.pipeline.reports.page.collect import collect
from dualprune.pipeline.reports.page.facts import Run, Stage, Tensor, Way
from dualprune.pipeline.reports.page.figures import base
from dualprune.pipeline.reports.page.figures.layout import BEND, layers, with_bends
from dualprune.pipeline.reports.page.figures.listed import branch_by_branch, lanes
from dualprune.pipeline.reports.page.figures.table import FIGURES, figures
from dualprune.pipeline.reports.page.uncertain import difference, half_width
from dualprune.pipeline.store import speeds
from dualprune.stages.artefacts.manifest import read
from tests.pipeline.reports.page.made import CHOICE, LADDER, Made, ladder, make


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with a choice, and a measured speed."""
    folder = tmp_path_factory.mktemp("choice")
    store = make(str(folder), CHOICE)
    latency = {"low": 1e-3, "middle": 2e-3, "high": 3e-3}
    ratio = {"low": 1.4, "middle": 1.5, "high": 1.6}
    row = {
        "machine": "fast",
        "backend": "onnx",
        "device": "cpu",
        "batch": 8,
        "threads": 1,
        "latency": latency,
        "ratio": ratio,
        "verdict": "gain",
    }
    speeds.leave(store, CHOICE[2].key, [row])
    return collect(store, "made")


def marks(spec: Any) -> Iterator[dict[str, Any]]:
    """Data of all marks that say something."""
    if isinstance(spec, dict):
        for one in (spec.get("data") or {}).get("values", []):
            if "tip" in one:
                yield one
        for value in spec.values():
            yield from marks(value)
    elif isinstance(spec, list):
        for value in spec:
            yield from marks(value)


def drawn(run: Run, name: str, width: int = base.WIDE) -> list[dict[str, Any]]:
    """The marks of a figure."""
    (figure,) = (one for one in figures(run) if one.name == name)
    return list(marks(figure.spec(width)))


def test_all_figures_are_there(run: Run) -> None:
    names = [figure.name for figure in figures(run)]
    wanted = "tradeoff tradeoff-bytes graph layers bits convergence settling learning masks size speed time"
    assert names == wanted.split()
    assert len(FIGURES) == len(names) + 2, "no network has fewer multiply-accumulates, and none was chosen by a fit"


@pytest.mark.parametrize("width", [base.WIDE, base.NARROW])
def test_the_tradeoff_is_what_manifests_say(run: Run, tmp_path: Path, width: int) -> None:
    store = make(str(tmp_path), CHOICE)
    whole = read(store.folder / CHOICE[0].key)
    assert whole is not None
    found = {one["tip"].split(":")[0]: one for one in drawn(run, "tradeoff", width)}
    assert set(found) == {made.name for made in CHOICE if made.chosen is None}
    for made in CHOICE[:5]:
        manifest = read(store.folder / made.key)
        assert manifest is not None
        metrics, mark = manifest["metrics"], found[made.name]
        assert mark["x"] == whole["metrics"]["network_weights"] / metrics["network_nonzeros"]
        assert mark["y"] == metrics["test_accuracy"]
    assert found["harsh"]["y"] > 71, "far below all others: at the edge"
    assert "71.00 %, −28.25 against dense" in found["harsh"]["tip"]


def test_layers_and_bits_are_what_manifests_say(run: Run, tmp_path: Path) -> None:
    manifest = read(make(str(tmp_path), CHOICE).folder / CHOICE[4].key)
    assert manifest is not None
    shares = [one for one in drawn(run, "layers") if one["stage"] == "quantize"]
    assert [one["x"] for one in shares] == [100 * one["nonzeros"] / one["size"] for one in manifest["tensors"].values()]
    places = [one for one in drawn(run, "bits") if one["part"] == "places"]
    stored = manifest["storage"]["tensors"].values()
    unit = 1.0 if max(one["total_bits"] for one in stored) < 8000 else 1000.0
    assert [one["x2"] * unit for one in places] == pytest.approx([one["total_bits"] / 8 for one in stored])
    assert [one["x"] * unit for one in places] == pytest.approx([one["data_bits"] / 8 for one in stored])


def test_residuals_are_those_of_the_rows(run: Run) -> None:
    found = {one["tip"].split(":")[0]: one["y"] for one in drawn(run, "convergence") if "primal" in one["tip"]}
    for stage in run.stages.values():
        for row in [] if stage.chooses else stage.updates:
            assert found[f"{stage.name}, epoch {row['epoch']}"] == row["residual"]


def test_masks_size_speed_and_time(run: Run) -> None:
    assert run.overlap is not None
    assert len(drawn(run, "masks")) == len(run.overlap.shares)
    assert [one["x2"] for one in drawn(run, "size")] == [stage.metric("bytes") for stage in run.along()]
    (one,) = drawn(run, "speed")
    assert (one["x"], one["low"], one["high"]) == (1.5, 1.4, 1.6)
    told = [mark["tip"] for mark in drawn(run, "time")]
    assert "prune-10x: 23 s, broke off" in told
    assert "prune-10x: 29 s, done" in told


def test_tables_have_all_that_is_drawn(run: Run) -> None:
    for figure in figures(run):
        assert figure.table.rows
        assert all(len(row) == len(figure.table.titles) for row in figure.table.rows), figure.name
        assert figure.sentence.endswith(".")


def test_many_stages_are_dots_of_which_the_way_is_named(tmp_path: Path) -> None:
    run = collect(make(str(tmp_path), ladder(60)), "made")
    (figure,) = (one for one in figures(run) if one.name == "graph")
    spec = figure.spec(base.WIDE)
    assert len(list(marks(spec))) == 60
    (names,) = (layer["data"]["values"] for layer in spec["layer"] if layer["mark"]["type"] == "text")
    assert {one["text"] for one in names} <= set(run.way.stages)
    assert run.way.chosen in {one["text"] for one in names}


def test_smaller_networks_are_compared_with_the_dense_one(tmp_path: Path) -> None:
    """A shrunk network has fewer weights in all: what it keeps is of the dense one."""
    shapes = {"0.weight": (16, 9), "2.weight": (16, 144)}
    stages = (LADDER[0], Made("shrunk", ("dense",), 1, 98, kind="shrink", shapes=shapes))
    run = collect(make(str(tmp_path), stages), "made")
    assert run.fewer(run.stages["shrunk"]) == (144 + 4608 + 8192) / (144 + 2304)


def test_a_network_with_nothing_to_show_has_few_figures() -> None:
    stage = Stage(
        "dense", "a" * 16, "train", tensors=(Tensor("w", 4, 4),), state="done", metrics={"test_accuracy": 90.0}
    )
    run = Run("one", "store", "finished", "has finished", {"dense": stage}, Way("dense", "dense", ("dense",)))
    assert [figure.name for figure in figures(run)] == ["graph"]
    assert figures(Run("none", "store", "unfinished", "is not", {})) == []


def test_layers_of_a_graph() -> None:
    parents = {"a": [], "b": ["a"], "c": ["a"], "d": ["b", "a"]}
    assert [set(level) for level in layers(parents)] == [{"a"}, {"b", "c"}, {"d"}]
    bent, bends = with_bends(parents)
    (bend,) = bends["a", "d"]
    assert bend.startswith(BEND)
    assert bent["d"] == ["b", bend]
    assert list(bent).index(bend) < list(bent).index("d")
    assert layers({}) == []


def test_a_list_goes_branch_by_branch() -> None:
    parents = {"d": [], "a": ["d"], "b": ["d"], "a2": ["a"], "b2": ["b"], "c": ["a2", "b2"]}
    assert list(branch_by_branch(parents)) == ["d", "a", "a2", "b", "b2", "c"]


def test_lanes_of_a_list() -> None:
    """The last child goes on in its parent's lane; what is still awaited keeps its own."""
    parents: dict[str, list[str]] = {"d": [], "a": ["d"], "b": ["d"], "c": ["a", "b"], "e": ["c"], "f": ["d"]}
    assert lanes(parents) == {"d": 0, "a": 1, "b": 2, "c": 1, "e": 1, "f": 0}
    assert lanes({"a": [], "b": ["a"], "c": ["b"]}) == {"a": 0, "b": 0, "c": 0}


def test_crossings_are_few() -> None:
    parents = {"r": [], "a": ["r"], "b": ["r"], "x": ["b"], "y": ["a"]}
    _, middle, last = layers(parents)
    assert [{"a": "y", "b": "x"}[name] for name in middle] == last


@pytest.mark.parametrize(("low", "high"), [(0, 1), (97.31, 99.52), (0, 12345), (-0.02, 0.03), (5, 5)])
def test_linear_ticks(low: float, high: float) -> None:
    ticks = base.linear_ticks(low, high, 6)
    assert 1 <= len(ticks) <= 8
    assert all(low <= one <= high for one in ticks)


@pytest.mark.parametrize(("low", "high"), [(1, 30), (0.002, 0.5), (1, 1e6), (95, 112), (3.1, 4.2)])
def test_log_ticks(low: float, high: float) -> None:
    ticks = base.log_ticks(low, high, 6)
    assert 1 <= len(ticks) <= 6
    assert ticks == sorted(ticks)


def test_labels_keep_apart() -> None:
    found = base.spread([10, 11, 50, 99, 100], 14, 0, 100)
    assert all(b - a >= 14 - 1e-9 for a, b in itertools.pairwise(sorted(found)))
    assert max(found) <= 100


def test_long_names_are_shortened() -> None:
    assert base.shortened("short", 100) == "short"
    found = base.shortened("encoder.layer.11.attention.output.dense.weight", 120)
    assert "…" in found
    assert base.width_of(found) <= 120


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.3, "0.3 s"),
        (75.0, "75 s"),
        (90 * 3.0, "4.5 min"),
        (600.0, "10 min"),
        (3 * 3600.0, "3.0 h"),
        (90 * 3600.0, "3.8 days"),
    ],
)
def test_times(value: float, text: str) -> None:
    assert base.lasting(value) == text


def test_what_test_examples_can_tell() -> None:
    def of(accuracy: float) -> Stage:
        return Stage("a", "a", "train", metrics={"test_accuracy": accuracy})

    assert half_width(of(50), 10000) == pytest.approx(0.98, abs=0.01)
    full = half_width(of(100), 400)
    assert full is not None
    assert 0 < full < 1, "all of them right is no certainty"
    assert half_width(of(50), None) is None
    both = difference(of(50), of(50), 10000)
    assert both == pytest.approx(0.98 * 2**0.5, abs=0.01)
