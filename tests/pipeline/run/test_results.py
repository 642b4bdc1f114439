"""Rows of results, for programs and for people."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from dualprune.pipeline.plan import make as planning
from dualprune.pipeline.run.results import AMOUNTS, MACS, advice, as_json, as_table, result, status
from dualprune.pipeline.store.store import Store
from dualprune.stages.objectives.table import OBJECTIVES
from tests.pipeline.common import artefact, loaded, manifest, scored, scores

FIELDS = ["name", "kind", "key", "state", *AMOUNTS, *MACS, "val_accuracy", "test_accuracy", "residual", "advice"]
FIELDS += ["seconds", "artefact", "chosen", "why"]
WHOLE = {"weights": 4608, "nonzeros": 1152, "network_rate": 71568 / 68112, "network_weights": 71568}
WHOLE |= {"network_nonzeros": 68112, "bytes": 273_500, "dense_bytes": 287_016, "rate": 4.0}
"""What a stage says of its weights that constrained one of a network's four tensors."""


def shown(rows: list) -> list[str]:
    """The table's lines as printed."""
    console = Console(file=io.StringIO(), width=160)
    console.print(as_table(rows))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_a_row_has_exactly_these_fields(tmp_path: Path) -> None:
    """Programs read them by name; numbers are the manifest's, unrounded."""
    store, plan = planning.make(*loaded(tmp_path))
    node = plan[1].node
    value = as_json("tiny", [result(node, "done", store, manifest()), result(node, "failed", store, None, "broke")])
    assert json.loads(json.dumps(value)) == value
    assert list(value) == ["run", "stages"]
    done, failed = value["stages"]
    assert set(AMOUNTS) == {"rate", "nonzeros", *WHOLE}
    assert list(done) == list(failed) == FIELDS
    assert done == {
        "name": "half",
        "kind": "prune",
        "key": node.key,
        "state": "done",
        **dict.fromkeys((*AMOUNTS, *MACS)),  # an artefact from before these were noted
        "rate": 2.0,
        "nonzeros": 35304,
        "val_accuracy": 97.5,
        "test_accuracy": 96.25,
        "residual": 0.125,
        "advice": None,
        "seconds": 12.5,
        "artefact": f"{tmp_path / 'store'}/{node.key}",
        "chosen": None,
        "why": None,
    }
    said = {name: failed[name] for name in ("name", "kind", "key", "state", "why")}
    assert said == {"name": "half", "kind": "prune", "key": node.key, "state": "failed", "why": "broke"}
    assert {failed[name] for name in FIELDS if name not in said} == {None}


def test_status_says_what_the_store_has(tmp_path: Path) -> None:
    """Done, failed with its reason, to be gone on with, to be run."""
    store, plan = planning.make(*loaded(tmp_path))
    keys = {p.node.name: p.node.key for p in plan}
    artefact(store.url, keys["dense"])
    store.note_failure(keys["half"], "broke")
    store.folder.write(f"{keys['other']}/checkpoints/step-00000007/part-0-of-1.json", b"")
    rows = {row.name: row for row in status(planning.make(*loaded(tmp_path))[1], store)}
    assert {name: (row.state, row.why) for name, row in rows.items()} == {
        "dense": ("done", None),
        "half": ("failed", "broke"),
        "other": ("resume", "goes on after step 7, its last checkpoint"),
        "v1.5-quarter": ("run", "not run yet"),
    }


def test_the_table_has_a_line_a_stage(tmp_path: Path) -> None:
    """With its numbers, or with what became of it."""
    store, plan = planning.make(*loaded(tmp_path))
    dense = manifest() | {"metrics": manifest()["metrics"] | {"rate": None, "residual": None}}
    rows = [
        result(plan[0].node, "done", store, dense),
        result(plan[1].node, "done", store, manifest()),
        result(plan[2].node, "failed", store, None, "broke"),
    ]
    above, head, *lines = shown(rows)
    assert above.split() == ["weights", "network", "network"]
    assert " ".join(head.split()) == "stage rate left rate left bytes val % test % residual seconds artefact"
    old = ["-", "-", "-"]  # of an artefact from before these were noted
    assert lines[0].split() == [plan[0].node.name, "-", "35,304", *old, "97.50", "96.25", "-", "12.5", plan[0].node.key]
    assert lines[1].split()[1:10] == ["2.00x", "35,304", *old, "97.50", "96.25", "0.125", "12.5"]
    assert lines[2].split() == [plan[2].node.name, *["-"] * 9, plan[2].node.key]
    assert lines[3].strip() == f"{plan[2].node.name} (failed: broke)"


def test_what_is_left_of_multiply_accumulates_is_shown_of_smaller_networks(tmp_path: Path) -> None:
    """In a column that other runs don't have."""
    store, plan = planning.make(*loaded(tmp_path))
    small = result(plan[1].node, "done", store, manifest(macs=30000.0, dense_macs=80000.0))
    _, head, *lines = shown([result(plan[0].node, "done", store, manifest()), small])
    assert " ".join(head.split()) == "stage rate left rate left bytes left val % test % residual seconds artefact"
    assert lines[0].split()[3:8] == ["-", "-", "-", "-", "97.50"]
    assert lines[1].split()[6:9] == ["37.5", "%", "97.50"]


def test_another_objectives_metrics_go_by_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For programs and in the table, also of stages that are not done; nothing says accuracy."""
    monkeypatch.setitem(OBJECTIVES, "scores", scores)
    store, plan = planning.make(*loaded(tmp_path, ("data:", "objective: scores\ndata:")))
    rows = [
        result(plan[0].node, "done", store, scored(0.0012345)),
        result(plan[1].node, "failed", store, None, "broke"),
    ]
    done, failed = as_json("tiny", rows)["stages"]
    assert (done["val_score"], done["test_score"], failed["val_score"]) == (0.0012345, 0.0012345, None)
    assert list(done) == list(failed) == [name.replace("accuracy", "score") for name in FIELDS]
    above, head, first, _, _ = shown(rows)
    assert above.split() == ["weights", "network", "network", "score", "score"]
    assert " ".join(head.split()) == "stage rate left rate left bytes val test residual seconds artefact"
    assert first.split()[6:8] == ["0.001234", "0.001234"]


def test_a_table_shows_reasons_as_they_are(tmp_path: Path) -> None:
    """Square brackets in an exception's text are no markup."""
    store, plan = planning.make(*loaded(tmp_path))
    rows = [result(plan[0].node, "failed", store, None, "ValueError: [/x] not in [red]")]
    assert "ValueError: [/x] not in [red]" in shown(rows)[3]


def test_results_are_read_from_the_store_alone(tmp_path: Path) -> None:
    """A row names where its artefact lies, as the store was named."""
    plan = planning.make(*loaded(tmp_path))[1]
    assert result(plan[0].node, "cached", Store("memory://x"), manifest()).artefact == f"memory://x/{plan[0].node.key}"


def test_a_part_of_the_network_and_all_of_it_are_told_apart(tmp_path: Path) -> None:
    """Where a stage constrains one tensor, the network is hardly smaller."""
    plan = planning.make(*loaded(tmp_path))[1]
    row = result(plan[1].node, "done", Store("memory://x"), manifest(**WHOLE))
    assert {name: getattr(row, name) for name in WHOLE} == WHOLE
    assert shown([row])[2].split()[1:6] == ["4.00x", "1,152", "1.05x", "68,112", "273,500"]


ADMM = {"updates": 3, "epochs": 1, "lr": 0.01, "rho": 0.001, "rho_growth": 2.0}


def ended(residual: float | None, admm: dict | None = ADMM) -> dict:
    """The manifest of a prune whose ADMM ended so."""
    return manifest(residual=residual) | {
        "spec": {"admm": admm},
        "rho": 0.008,
        "residuals": {"a": 0.1, "b.weight": 0.5},
    }


def test_a_large_residual_is_told_with_what_to_change(tmp_path: Path) -> None:
    """In the row, and marked in the table with a line below it."""
    plan = planning.make(*loaded(tmp_path))[1]
    large, small = (result(plan[1].node, "done", Store("memory://x"), ended(value)) for value in (0.33, 0.1))
    assert large.advice == (
        "ADMM ended with a residual of 0.33, 0.50 of b.weight (0.1 or less is good): putting weights into their sets "
        "then changed them by that share. Raise admm.rho (0.001 here, 0.008 at the end) to several times as much, or "
        "rho_growth, or give more admm.updates (3 here)"
    )
    assert small.advice is None
    scheduled = result(plan[1].node, "done", Store("memory://x"), ended(0.33, ADMM | {"rho_schedule": "cosine"}))
    assert scheduled.advice is not None
    assert "rho_growth" not in scheduled.advice, "the two don't go together"
    lines = shown([large, small])
    assert "0.330!" in lines[2]
    assert "0.100 " in lines[3]
    assert " ".join(" ".join(lines[4:]).split()) == f"! half: {large.advice}"


def test_only_what_admm_left_is_a_matter_of_rho() -> None:
    """Magnitude pruning is far from its constraints by its nature; a dense stage has none."""
    assert advice(ended(0.47)) is not None
    assert advice(ended(0.47, None)) is None
    assert advice(ended(None, None)) is None
    assert advice(manifest(residual=0.47)) is None  # without its settings nothing is said of them


def narrow(rows: list, width: int) -> list[str]:
    """The table's lines on a terminal of so many columns."""
    console = Console(file=io.StringIO(), width=width)
    console.print(as_table(rows, width))
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


@pytest.mark.parametrize("width", [60, 80, 100, 120, 200])
def test_the_table_fits_its_terminal(tmp_path: Path, width: int) -> None:
    """What has no room goes, and is named; what was measured stays, and so does every stage's line."""
    store, plan = planning.make(*loaded(tmp_path))
    named = replace(plan[1].node, name="a-quarter-of-all-weights-after-half-of-them-were-taken-v2")
    rows = [
        result(plan[0].node, "done", store, manifest(macs=3e9, dense_macs=4e9)),
        result(named, "done", store, ended(0.33) | {"metrics": {**ended(0.33)["metrics"], **WHOLE}}),
        result(plan[2].node, "failed", store, None, "broke " * 40),
    ]
    lines = narrow(rows, width)
    assert max(map(len, lines)) <= width
    head = next(line for line in lines if line.startswith("stage")).split()
    assert {"val", "test"} <= set(head)
    one = next(line for line in lines if line.startswith("a-quarter"))
    assert "97.50" in one
    told = " ".join(" ".join(lines).split())
    gone = told.partition("not shown for want of room: ")[2]
    for title in (
        "network left",
        "weights left",
        "seconds",
        "network rate",
        "artefact",
        "residual",
        "bytes",
        "MACs left",
    ):
        assert (title.split()[-1] in head) or (title in gone), title
    assert (gone == "") == (width >= 200)
    assert ("-v2 " in one) if width < 200 else (named.name in one)
    assert f"{plan[2].node.name} (failed: " in told
    assert "0.330!" in one or "residual" in gone


def test_a_pipe_gets_the_whole_table(tmp_path: Path) -> None:
    """However long names are."""
    store, plan = planning.make(*loaded(tmp_path))
    named = replace(plan[1].node, name="n" * 60)
    lines = shown([result(named, "done", store, manifest(**WHOLE))])
    assert "n" * 60 in lines[2]
    assert lines[2].split()[-1] == named.key


def test_a_table_of_no_stages() -> None:
    """Has its titles."""
    assert any(line.startswith("stage") for line in narrow([], 80))
