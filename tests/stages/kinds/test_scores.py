"""Whole stages of scores: gradients are those of a masked network, budgets are met, stopped stages end alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dualprune.stages.artefacts import artefact
from dualprune.stages.data.format import read_manifest
from dualprune.stages.export.export import export
from dualprune.stages.export.source import Origin, source
from dualprune.stages.files.folder import Folder
from dualprune.stages.kinds.job import StageJob
from dualprune.stages.networks.builtin import MODELS
from dualprune.stages.settings.base import SpecError
from dualprune.stages.training.cuts import fits
from dualprune.stages.training.stage import run_stage
from tests.ranks import on_ranks
from tests.stages.conftest import MakeTask
from tests.stages.training.test_ranks import SGD, rank_main
from tests.stages.training.test_shrink import PICTURES
from tests.stages.training.test_stage import DENSE, made, quiet, resumed, run, same_bytes, stopped
from tests.stages.training.test_stage_solver import rows

pytestmark = pytest.mark.usefixtures("one_rank")

UNITS: list[dict[str, Any]] = [
    {"set": "head", "tensors": ["q.weight", "k.weight", "v.weight"]},
    {"set": "filter", "tensors": "first.weight"},
    {"set": "row", "tensors": ["out.weight", "second.weight"]},
]
HEADS, WIDTH = 4, 8


def scores(macs: float | None = 0.5, **change: Any) -> dict[str, Any]:
    """Two epochs in which units of all sorts are scored, in the first of them."""
    return {
        "kind": "scores",
        "constraints": UNITS,
        "macs": macs,
        "train": {"epochs": 2, "lr": 0.003},
        "scores_lr": 0.5,
    } | change


class Transformer(nn.Module):
    """One block of a transformer; the rows of pictures of 8 x 8 are its tokens. It sees nothing of its last head."""

    def __init__(self, classes: int, useless: bool = False) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(8, 32), nn.Linear(32, classes)
        self.q, self.k, self.v, self.out = (nn.Linear(32, 32) for _ in range(4))
        self.first, self.second = nn.Linear(32, 64), nn.Linear(64, 32)
        self.one, self.two = nn.LayerNorm(32), nn.LayerNorm(32)
        self.heads, self.width, self.useless = HEADS, WIDTH, useless
        self.register_buffer("seen", torch.tensor([0.0, 1.0, 1.0, 1.0]).view(1, -1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """[n, 1, 8, 8] to [n, classes]."""
        x = self.embed(x[:, 0])
        n, t, _ = x.shape
        q, k, v = (f(x).view(n, t, self.heads, self.width).transpose(1, 2) for f in (self.q, self.k, self.v))
        found = (q @ k.transpose(-2, -1) * self.width**-0.5).softmax(-1) @ v
        if self.useless:
            found = found * self.seen
        x = self.one(x + self.out(found.transpose(1, 2).reshape(n, t, self.heads * self.width)))
        x = self.two(x + self.second(F.gelu(self.first(x))))
        y: Tensor = self.head(x.mean(1))
        return y


@pytest.fixture
def stage(make_task: MakeTask, monkeypatch: pytest.MonkeyPatch) -> MakeTask:
    """Stages of `transformer`, `digits_cnn` and others."""
    monkeypatch.setitem(MODELS, "transformer", Transformer)
    monkeypatch.setitem(MODELS, "partly", lambda classes: Transformer(classes, useless=True))

    def make(*args: Any, model: str = "transformer", **settings: Any) -> StageJob:
        return make_task(*args, model=model, **settings)

    return make


def test_a_budget_is_met_and_a_shrink_after_it_is_exact(stage: MakeTask) -> None:
    """Heads and filters are taken out; rows are zero, and stay."""
    made(stage(DENSE, "dense"))
    task = stage(scores(0.5), "scores", "dense")
    cut = run(task)
    facts = cut.manifest["scores"]
    assert 0.45 < facts["macs"] <= 0.5
    assert rows(task)[-1]["macs_left"] == facts["macs"]
    units = facts["units"]
    assert set(units) == {"head q.weight", "filter first.weight", "row out.weight", "row second.weight"}
    for name in ("out.weight", "second.weight"):
        alive = cut.network[name].any(1)
        assert int(alive.sum()) == units[f"row {name}"][1]
        assert torch.equal(cut.holds[name].any(1), alive)
    left = {name: int(value.any(1).sum()) for name, value in cut.network.items() if value.ndim == 2}
    assert left["q.weight"] == left["k.weight"] == left["v.weight"] == WIDTH * units["head q.weight"][1]
    assert left["first.weight"] == units["filter first.weight"][1]
    for name, mask in cut.holds.items():
        assert not cut.network[name][mask == 0].any()
    small = run(stage({"kind": "shrink"}, "small", "scores"))
    assert small.manifest["shrunk"]["difference"] < 1e-5
    assert small.manifest["shrunk"]["units"]["first.weight"] == units["filter first.weight"]
    with torch.no_grad():
        assert torch.allclose(artefact.network(cut)(PICTURES), artefact.network(small)(PICTURES), atol=1e-4)


@pytest.mark.parametrize("cost", ["weights", "macs"])
def test_heads_and_filters_alone_leave_just_what_a_shrink_counts(stage: MakeTask, cost: str) -> None:
    """Products within attention among them; in bf16, with micro-batches."""
    spec = scores(**{"macs": None, cost: 0.5}, constraints=UNITS[:2], precision="bf16")
    cut = run(stage(spec, "scores", accumulate=2))
    small = run(stage({"kind": "shrink"}, "small", "scores"))
    before, after = small.manifest["shrunk"][cost]
    assert after / before == pytest.approx(cut.manifest["scores"][cost])
    assert cut.manifest["scores"][cost] <= 0.5
    assert cut.manifest["scores"]["units"]["head q.weight"][1] < HEADS


def test_tiles_follow_in_a_second_stage(stage: MakeTask) -> None:
    """Of the smaller network, whose pruned rows count as gone and stay so."""
    run(stage(scores(0.5), "first"))
    small = run(stage({"kind": "shrink", "multiple": 4}, "small", "first"))
    tiles = {"set": "block", "tensors": ["q.weight", "out.weight", "first.weight", "second.weight"], "p": 4, "q": 4}
    found = run(stage(scores(0.6, constraints=[tiles]), "tiles", "small"))
    assert found.manifest["scores"]["macs"] <= 0.6
    for label, (size, left) in found.manifest["scores"]["units"].items():
        name = label.removeprefix("block ")
        there = found.network[name].unflatten(1, (-1, 4)).unflatten(0, (-1, 4)).abs().sum((1, 3)) > 0
        assert there.numel() == size
        assert int(there.sum()) == left
        assert not found.network[name][small.holds[name] == 0].any()


def test_tiles_are_exported_sparse(stage: MakeTask, tmp_path: Path) -> None:
    """In a file that is about as small as what is left, and gives the same tensors."""
    tiles = {"set": "block", "tensors": "6.weight", "p": 16, "q": 16}
    cut = run(stage(scores(None, weights=0.3, constraints=[tiles]), "scores", model="digits_cnn"))
    size, left = cut.manifest["scores"]["units"]["block 6.weight"]
    assert left < 0.25 * size
    found = export(
        source(Folder(str(tmp_path / "store")), "scores", Origin(noise=(1, 8, 8))), "sparse", tmp_path / "out"
    )
    assert found.apart == 0
    assert found.bytes < 0.35 * found.dense


def test_a_head_that_nothing_needs_goes_first(stage: MakeTask) -> None:
    """Its score gets no gradient; those of others rise."""
    made(stage(DENSE, "dense", model="partly"))
    spec = scores(0.8, constraints=UNITS[:1], scores_lr=0.2, weight=20.0)
    cut = run(stage(spec, "scores", "dense", model="partly"))
    assert cut.manifest["scores"]["units"]["head q.weight"][1] < HEADS
    assert not cut.network["q.weight"][:WIDTH].any()


def test_a_stopped_one_ends_with_the_same_bytes(stage: MakeTask) -> None:
    """While it learns and after it, with dropout's and the optimizers' numbers."""
    spec = scores(0.4, ramp=0.7, optimizer={"name": "adamw", "weight_decay": 0.01})
    whole, cut, within = (stage(spec, store=store, checkpoint_steps=7) for store in ("whole", "cut", "within"))
    first = run(whole)
    stopped(cut, 1)
    assert resumed(cut) == 7
    same_bytes(whole, cut)
    asked = iter([False] * 13)
    assert run_stage(within, quiet, lambda: next(asked, True)) is None
    assert resumed(within) == 14
    same_bytes(whole, within)
    assert artefact.load(Folder(within.store) / within.key).manifest["scores"] == first.manifest["scores"]


def test_filters_of_convolutions_have_scores_too(stage: MakeTask) -> None:
    cut = run(stage(scores(0.4, constraints=[{"set": "filter", "tensors": "*"}]), "scores", model="digits_cnn"))
    assert cut.manifest["scores"]["macs"] <= 0.4
    small = run(stage({"kind": "shrink"}, "small", "scores", model="digits_cnn"))
    before, after = small.manifest["shrunk"]["macs"]
    assert after / before == pytest.approx(cut.manifest["scores"]["macs"])
    assert small.manifest["shrunk"]["difference"] < 1e-5


ROWS, TILES = UNITS[2], {"set": "block", "tensors": "out.weight", "p": 4, "q": 4}
WRONG = [
    (scores(0.001), "macs", r"0\.001 of the multiply-accumulates can't be reached: .* 0\.[0-9]+ of them are left"),
    (scores(constraints=[{"set": "head", "tensors": "first.weight"}]), "constraints.0", "no heads of it can go"),
    (scores(constraints=[{"set": "filter", "tensors": "out.weight"}]), "constraints.0", "no filters of it can go"),
    (scores(constraints=[ROWS, TILES]), "constraints.1", "out.weight is held by `row` too"),
    (scores(constraints=[*UNITS[:1], TILES]), "constraints.1", "out.weight is held by `head` too"),
    (scores(constraints=[TILES | {"p": 5}]), "constraints.0", r"out.weight of shape \(32, 32\): .*5"),
]


@pytest.mark.parametrize(("spec", "place", "words"), WRONG)
def test_what_is_wrong_has_its_place(stage: MakeTask, spec: dict[str, Any], place: str, words: str) -> None:
    with pytest.raises(SpecError, match=f"^{place}: {words}"):
        run(stage(spec))


def test_a_plan_refuses_what_a_stage_would(stage: MakeTask) -> None:
    """A budget that can't be met, before anything is trained."""
    spec, place, words = WRONG[0]
    task = stage(spec)
    with pytest.raises(SpecError, match=f"^{place}: {words}"):
        fits(task.spec, read_manifest(task.shards))
    fits(stage(scores(0.3)).spec, read_manifest(task.shards))


def ranks(tasks: list[str]) -> None:
    """One of two ranks, which knows this file's network too."""
    MODELS["transformer"] = Transformer
    rank_main(tasks)


@pytest.mark.slow
def test_two_ranks_do_what_one_does(stage: MakeTask) -> None:
    """Under every ZeRO stage; and the same units are closed."""
    spec = scores(0.5) | SGD
    one = run(stage(spec, "one"))
    tasks = [stage(spec, f"zero{zero}", zero=zero) for zero in range(4)]
    tasks += [stage(spec, f"parts{zero}", zero=zero, accumulate=2) for zero in range(4)]
    interrupted = stage(spec, "interrupted", checkpoint_steps=3)
    stopped(interrupted, 1)
    on_ranks(2, ranks, [task.model_dump_json() for task in [*tasks, interrupted]])
    for task in [*tasks, interrupted]:
        got = artefact.load(Folder(task.store) / task.key)
        assert got.manifest["scores"] == one.manifest["scores"], task.key
        for name, mask in one.holds.items():
            assert torch.equal(mask, got.holds[name])
            assert not got.network[name][got.holds[name] == 0].any()
            assert torch.allclose(got.network[name], one.network[name], atol=1e-4), (task.key, name)
