"""What a run would do, and why."""

from __future__ import annotations

import gc
import importlib
import io
import logging
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from dualprune.pipeline import output
from dualprune.pipeline.cli import main as cli
from dualprune.pipeline.config.load import load, read
from dualprune.pipeline.config.problems import ConfigError
from dualprune.pipeline.plan import make as planning
from dualprune.pipeline.plan.state import Planned
from dualprune.pipeline.plan.why import record
from dualprune.pipeline.store.store import Store
from dualprune.stages.artefacts import manifest as manifests
from dualprune.stages.data.format import SPLITS, read_manifest
from dualprune.stages.data.make import builtin as sources
from dualprune.stages.data.make.convert import Options, convert
from dualprune.stages.data.shards import write
from dualprune.stages.files.folder import MARK, Folder, sha256
from dualprune.stages.networks.build import build_model
from dualprune.stages.settings.training import Model
from tests.pipeline.common import artefact, config, line, loaded, manifest, shards
from tests.stages.conftest import jpegs


def planned(folder: Path, *overrides: str) -> dict[str, Planned]:
    """CONFIG's plan by stage name."""
    return {p.node.name: p for p in planning.make(*loaded(folder, overrides=list(overrides)))[1]}


def recorded(folder: Path, *done: str, overrides: Sequence[str] = ()) -> None:
    """Leave a plan as a run does, and finished artefacts for some of its stages."""
    settings, problems = loaded(folder, overrides=list(overrides))
    store, plan = planning.make(settings, problems)
    record(settings.top.name, store, plan)
    for p in plan:
        if p.node.name in done:
            artefact(store.url, p.node.key)


ALL = ("dense", "half", "v1.5-quarter", "other")


def test_a_first_plan_runs_all(tmp_path: Path) -> None:
    """Nothing is in the store; planning leaves no plan behind either."""
    plan = planned(tmp_path)
    assert {(p.state, p.why, p.manifest) for p in plan.values()} == {("run", "not run yet", None)}
    assert Folder(str(tmp_path / "store")).names() == [MARK]


def test_an_artefact_with_right_hashes_is_done(tmp_path: Path) -> None:
    """Whoever put it there; its manifest comes along."""
    artefact(str(tmp_path / "store"), planned(tmp_path)["dense"].node.key)
    plan = planned(tmp_path)
    assert plan["dense"].state == "cached"
    assert plan["dense"].manifest == manifest()
    assert [p.state for p in plan.values()].count("run") == 3


def pretrained(folder: Path, name: str = "digits_cnn", scale: float = 1.0, classes: int = 10) -> Path:
    """A file of a network's weights, all of them `scale`."""
    state = build_model(Model(name=name, classes=classes)).state_dict()
    path = folder / "w.safetensors"
    path.write_bytes(safetensors.torch.save({n: torch.full_like(tensor, scale) for n, tensor in state.items()}))
    return path


def test_weights_are_in_the_key_by_content_and_only_of_the_first_stage(tmp_path: Path) -> None:
    """Another file at the same place is another stage, and so are all after it; the same elsewhere is the same."""
    without = planned(tmp_path)
    given = ("name: digits_cnn", f"name: digits_cnn, weights: {pretrained(tmp_path)}")
    plan = {p.node.name: p.node for p in planning.make(*loaded(tmp_path, given))[1]}
    digest = sha256((tmp_path / "w.safetensors").read_bytes())
    assert plan["dense"].spec.model.sha256 == digest
    assert plan["dense"].material["spec"]["model"] == {"name": "digits_cnn", "sha256": digest}
    assert {node.spec.model.weights for name, node in plan.items() if name != "dense"} == {None}
    for name in ("half", "v1.5-quarter", "other"):
        assert plan[name].material["spec"] == without[name].node.material["spec"]
    (tmp_path / "elsewhere").mkdir()
    moved = (given[0], f"name: digits_cnn, weights: {pretrained(tmp_path / 'elsewhere')}")
    keys = {name: node.key for name, node in plan.items()}
    assert {p.node.name: p.node.key for p in planning.make(*loaded(tmp_path, moved))[1]} == keys
    pretrained(tmp_path, scale=2.0)
    again = {p.node.name: p.node.key for p in planning.make(*loaded(tmp_path, given))[1]}
    assert set(again.values()).isdisjoint(keys.values())
    assert set(keys.values()).isdisjoint(p.node.key for p in without.values())
    assert len(Folder(str(tmp_path / "store")).names("weights")) == 2


def test_what_is_left_out_of_weights_is_in_the_key_and_in_a_note(tmp_path: Path) -> None:
    """Of the stage that starts from them; and it is said when it changes."""
    weights = pretrained(tmp_path, classes=7)

    def plan(skip: str) -> tuple[Store, list[Planned]]:
        given = f"name: digits_cnn, weights: {{file: {weights}, skip: {skip}}}"
        return planning.make(*loaded(tmp_path, ("name: digits_cnn", given)))

    store, found = plan('"8.*"')
    dense = found[0]
    assert dense.node.material["spec"]["model"]["skip"] == ["8.*"]
    (note,) = dense.notes
    assert "8.weight (10, 128) ((7, 128) in the file)" in note
    record("tiny", store, found)
    _, again = plan('["8.*", "0.*"]')
    assert {p.node.key for p in again}.isdisjoint(p.node.key for p in found)
    assert again[0].why == "changed model.skip: ['8.*'] -> ['8.*', '0.*']"


@pytest.mark.parametrize("own", [False, True])
def test_weights_that_do_not_fit_are_refused_with_their_line(tmp_path: Path, own: bool) -> None:
    """Before anything runs; together with what else is wrong around the file."""
    weights = pretrained(tmp_path, classes=7)
    changes = [("{name: digits_cnn}", f"{{name: digits_cnn, weights: {weights}}}"), ("batch: 64", "batch: 101")]
    if own:
        train = "    train: {epochs: 2, lr: 4e-3}"
        changes[0] = (train, f"{train}\n    model: {{name: digits_cnn, weights: {weights}}}")
    with pytest.raises(ConfigError) as caught:
        planning.make(*loaded(tmp_path, *changes))
    at = "file.yaml:12: stages[0].model.weights" if own else "file.yaml:5: model.weights"
    misfit = "8.weight has shape (7, 128), and (10, 128) is needed; 8.bias has shape (7,), and (10,) is needed"
    assert f"{at}: {weights} does not fit digits_cnn of 10 classes: {misfit}" in caught.value.problems
    assert sum("a batch of 101" in problem for problem in caught.value.problems) == 1
    assert not Folder(str(tmp_path / "store")).exists("weights")


def test_a_stage_with_a_parent_starts_from_that(tmp_path: Path) -> None:
    """Weights of its own are refused."""
    path = config(tmp_path, ("parent: half", "parent: half\n    model: {name: digits_cnn, weights: w.pth}"))
    with pytest.raises(ConfigError, match=r"model\.weights: are what a stage without a parent starts from"):
        load(str(path))


def test_small_pictures_under_the_default_scale_get_a_word(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With what to set, of each stage without a parent, and none once it is set, or where nobody noted sizes."""
    for number, (data, label) in enumerate(jpegs(60)):
        (tmp_path / "tree" / f"n{label}").mkdir(parents=True, exist_ok=True)
        Image.open(io.BytesIO(data)).resize((32, 40)).save(tmp_path / "tree" / f"n{label}" / f"{number}.png")
    convert(str(tmp_path / "made"), "small", dict.fromkeys(SPLITS, str(tmp_path / "tree")), Options(), processes=1)
    data = ("data.source=null", f"data.shards={tmp_path}/made", "batch=20", "model={name: squeezenet1_1, classes: 3}")

    def notes(*overrides: str) -> dict[str, tuple[str, ...]]:
        settings, problems = load(str(file), [*data, *overrides])
        return {p.node.name: p.notes for p in planning.make(settings, problems)[1]}

    file = tmp_path / "small.yaml"
    file.write_text(
        "name: small\nstore: %s\nmodel: {name: digits_cnn}\ndata: {source: digits}\nstages:\n"
        "  - {kind: train, name: dense, train: {epochs: 1, lr: 0.1}}\n"
        "  - {kind: train, name: more, parent: dense, train: {epochs: 1, lr: 0.1}}\n" % (tmp_path / "store")
    )
    told = notes()
    assert told["more"] == ()
    assert "short sides of 32 to 32 pixels" in told["dense"][0]
    assert (
        "made 224 large, some from 9; set data.scale to [0.5, 1] or so, or data.shift with crop and" in told["dense"][0]
    )
    for fine in (("data.scale=[0.5,1]",), ("data.shift=4", "data.crop=32", "data.resize=32"), ("data.crop=31",)):
        assert notes(*fine) == {"dense": (), "more": ()}
    assert cli.main(["plan", str(file), *(part for one in data for part in ("--set", one))]) == output.DONE
    assert "dense: training pictures are small" in " ".join(capsys.readouterr().out.split())


def test_a_limit_is_what_counts(tmp_path: Path) -> None:
    """Of samples, for steps and for batches that fit."""
    plan = planned(tmp_path, "data.limit=70")
    assert (plan["dense"].size.epochs, plan["dense"].size.steps) == (2, 2)
    with pytest.raises(ConfigError, match="a batch of 64 is larger than the 63 training samples"):
        planned(tmp_path, "data.limit=63")


def test_an_unchanged_plan_is_all_done(tmp_path: Path) -> None:
    """Nothing runs twice."""
    recorded(tmp_path, *ALL)
    assert {p.state for p in planned(tmp_path).values()} == {"cached"}


def test_a_changed_setting_is_named_with_both_values(tmp_path: Path) -> None:
    """At the stage it is of; its descendants run again for its sake; nothing else does."""
    recorded(tmp_path, *ALL)
    plan = planned(tmp_path, "stages.half.admm.rho=0.5")
    assert {name: (p.state, p.why) for name, p in plan.items()} == {
        "dense": ("cached", "done"),
        "half": ("run", "changed admm.rho: 0.003 -> 0.5"),
        "v1.5-quarter": ("run", "its parent half runs again"),
        "other": ("cached", "done"),
    }


def test_both_reasons_are_given(tmp_path: Path) -> None:
    """An own change and the parent's."""
    recorded(tmp_path, *ALL)
    plan = planned(tmp_path, "stages.half.seed=1", "stages.v1.5-quarter.batch=32")
    assert plan["v1.5-quarter"].why == "changed batch: 64 -> 32; its parent half runs again"


def test_a_parent_that_is_the_teacher_too_is_named_once(tmp_path: Path) -> None:
    """As most recipes with `distill` have it."""
    taught = ("stages.half.teacher=dense", "stages.half.distill={weight: 0.5}")
    recorded(tmp_path, *ALL, overrides=taught)
    assert planned(tmp_path, *taught, "stages.dense.seed=1")["half"].why == "its parent dense runs again"


def test_changed_data_is_named(tmp_path: Path) -> None:
    """Other shards at the same place."""
    recorded(tmp_path, *ALL)
    settings, problems = load(str(config(tmp_path)))
    shards(tmp_path / "shards", content="b")
    plan = {p.node.name: p for p in planning.make(settings, problems)[1]}
    assert plan["dense"].why == "its data changed"
    assert plan["half"].why == "its data changed; its parent dense runs again"


def test_moved_data_changes_nothing(tmp_path: Path) -> None:
    """The same shards at another place."""
    recorded(tmp_path, *ALL)
    shards(tmp_path / "elsewhere")
    assert {p.state for p in planned(tmp_path, f"data.shards={tmp_path / 'elsewhere'}").values()} == {"cached"}


def test_another_parent_is_named(tmp_path: Path) -> None:
    """Also where that one is done."""
    recorded(tmp_path, *ALL)
    plan = planned(tmp_path, "stages.v1.5-quarter.parent=dense")
    assert plan["v1.5-quarter"].why == "its parent dense is another one than before"


def test_a_new_parent_and_none_is_named(tmp_path: Path) -> None:
    """A stage that had no parent and has one now."""
    recorded(tmp_path, *ALL)
    change = ("kind: train", "kind: train\n    parent: first")
    first = ("stages:\n", "stages:\n  - {name: first, kind: train, train: {epochs: 1, lr: 1}}\n")
    plan = {p.node.name: p for p in planning.make(*loaded(tmp_path, change, first))[1]}
    assert plan["first"].why == "not run yet"
    assert plan["dense"].why == "it has another parent"


def test_a_lost_artefact_is_run_again(tmp_path: Path) -> None:
    """Its children, whose key is the same, are done as they are."""
    recorded(tmp_path, "half", "v1.5-quarter", "other")
    plan = planned(tmp_path)
    assert (plan["dense"].state, plan["dense"].why) == ("run", "not finished yet")
    assert plan["half"].state == plan["v1.5-quarter"].state == "cached"


@pytest.mark.parametrize("damage", ["changed", "missing", "no json", "other json", "a file unlisted"])
def test_a_damaged_artefact_counts_as_absent(tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str) -> None:
    """With a warning that names it."""
    recorded(tmp_path, *ALL)
    key = planned(tmp_path)["half"].node.key
    folder = tmp_path / "store" / key
    if damage == "changed":
        (folder / "model.safetensors").write_bytes(b"weight")
    elif damage == "missing":
        (folder / "model.safetensors").unlink()
    elif damage == "no json":
        (folder / "manifest.json").write_bytes(b"{")
    elif damage == "other json":
        (folder / "manifest.json").write_bytes(b"[]")
    else:
        (folder / "manifest.json").write_bytes(b"{}")
    with caplog.at_level(logging.WARNING):
        plan = planned(tmp_path)
    assert {name: p.state for name, p in plan.items()}["half"] == "run"
    (warning,) = [record.getMessage() for record in caplog.records if record.name == "dualprune.pipeline.store.store"]
    assert key in warning
    assert "counts as absent" in warning


def test_a_checkpoint_is_gone_on_from(tmp_path: Path) -> None:
    """The newest one's steps are in the reason; an artefact outweighs it."""
    recorded(tmp_path, "dense")
    key = planned(tmp_path)["half"].node.key
    for step in (9, 120):
        Folder(str(tmp_path / "store")).write(f"{key}/checkpoints/step-{step:08d}/part-0-of-1.json", b"{}")
    plan = planned(tmp_path)
    assert (plan["half"].state, plan["half"].why) == ("resume", "goes on after step 120, its last checkpoint")
    artefact(str(tmp_path / "store"), key)
    assert planned(tmp_path)["half"].state == "cached"


def test_stages_are_looked_for_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that takes its time is asked for several at once; here none is answered before all four are asked for."""
    recorded(tmp_path, *ALL)
    all_asked = threading.Barrier(4, timeout=60)
    answer = manifests.read

    def read(folder: Folder) -> dict[str, Any] | None:
        all_asked.wait()
        return answer(folder)

    monkeypatch.setattr(manifests, "read", read)
    assert {p.state for p in planned(tmp_path).values()} == {"cached"}


def test_of_what_was_never_begun_the_store_is_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An object store takes a while for each answer, and one listing of it tells."""
    recorded(tmp_path, "dense")
    asked, answer = [], manifests.read
    monkeypatch.setattr(manifests, "read", lambda folder: asked.append(folder.url) or answer(folder))
    plan = planned(tmp_path)
    assert asked == [f"{tmp_path}/store/{plan['dense'].node.key}"]
    assert plan["dense"].state == "cached"


def without_torch(*command: str, **environment: str) -> str:
    """What a command says that ends well in a process that imports nothing heavy."""
    show = f"import sys; from dualprune.pipeline.cli.main import main; code = main({list(command)}); "
    show += "print(code, *({'torch', 'ray', 'deepspeed'} & set(sys.modules)))"
    call = [sys.executable, "-c", show]
    said = subprocess.run(call, check=True, capture_output=True, text=True, env=os.environ | environment).stdout
    assert said.splitlines()[-1] == "0", said
    return "".join(said.splitlines(keepends=True)[:-1])


def test_what_is_done_needs_no_torch(tmp_path: Path) -> None:
    """Networks are not looked at, so that a plan of thousands of stages takes seconds, and little memory."""
    recorded(tmp_path, *ALL)
    without_torch("plan", str(tmp_path / "file.yaml"))


def test_how_stages_stand_needs_no_torch(tmp_path: Path) -> None:
    """Done or not, and with data that came along, once that is in the store."""
    recorded(tmp_path, "dense")
    file = config(tmp_path, (f"shards: {tmp_path / 'shards'}", "source: digits"))
    draft = read(str(file))
    planning.make(draft.sound(), draft.problems)
    without_torch("status", str(file))


def test_a_network_is_looked_at_once(tmp_path: Path, answers_kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And its weights are held to it once: a plan that was made before says the same, and needs no torch."""
    file = str(config(tmp_path, ("name: digits_cnn", f"name: digits_cnn, weights: {pretrained(tmp_path, scale=0.0)}")))
    assert cli.main(["plan", file, "--json"]) == output.DONE
    said = capsys.readouterr().out
    assert "are zero, and a `train` stage" in said
    assert without_torch("plan", file, "--json", XDG_CACHE_HOME=str(answers_kept)) == said


def test_a_network_of_ones_own_that_changed_is_looked_at_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In what its module imports, too."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "own_network.py").write_text(OWN_NETWORK)
    counted = []
    for width in (4, 4, 6):
        (tmp_path / "own_width.py").write_text(f"WIDTH = {width}")
        for name in ("own_network", "own_width"):
            sys.modules.pop(name, None)
        importlib.invalidate_caches()
        draft = read(str(config(tmp_path, ("name: digits_cnn", "name: own_network:network"), ("8.*", "3.*"))))
        half = planning.make(draft.sound(), draft.problems)[1][1]
        assert half.size is not None
        assert half.size.counts is not None
        counted.append((half.size.counts.weights, "own_network" in sys.modules))
    assert counted == [(4 * 64 + 10 * 4, True), (4 * 64 + 10 * 4, False), (6 * 64 + 10 * 6, True)]


OWN_NETWORK = """
from torch import nn
from own_width import WIDTH
def network():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 10))
"""


def test_what_is_not_done_is_looked_at(tmp_path: Path) -> None:
    """Though the file was read without its networks, and what is wrong is said each time."""
    planned(tmp_path)
    wrong = ('tensors: "8.*", rate: 2', 'tensors: "9.*", rate: 2')
    for _ in range(2):
        draft = read(str(config(tmp_path, wrong)))
        with pytest.raises(ConfigError) as caught:
            planning.make(draft.sound(), draft.problems)
        (problem,) = caught.value.problems
        assert "'9.*' matches no tensor of digits_cnn" in problem


def test_garbage_is_looked_for_again_after_a_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not while the store is read; after what is refused, too."""
    recorded(tmp_path, "dense")
    on, answer = [], manifests.read
    monkeypatch.setattr(manifests, "read", lambda folder: on.append(gc.isenabled()) or answer(folder))
    planned(tmp_path)
    refused(tmp_path)
    assert on == [False]
    assert gc.isenabled()


def refused(folder: Path, *changes: tuple[str, str]) -> list[str]:
    """What `make` finds wrong."""
    settings, problems = loaded(folder, *changes)
    if not changes:
        for file in (folder / "shards").iterdir():
            file.unlink()
    with pytest.raises(ConfigError) as caught:
        planning.make(settings, problems)
    return caught.value.problems


def test_a_store_that_can_not_be_written_is_refused(tmp_path: Path) -> None:
    """A file stands where its folder should."""
    (tmp_path / "store").write_text("in the way")
    (found,) = refused(tmp_path, ("batch: 64", "batch: 64"))
    path = tmp_path / "file.yaml"
    assert found.startswith(f"file.yaml:{line(path, 'store: ')}: store: {tmp_path / 'store'} can't be written: ")


def test_missing_shards_are_refused(tmp_path: Path) -> None:
    """Once, where all stages take them from one place."""
    (found,) = refused(tmp_path)
    at = line(tmp_path / "file.yaml", "data: ")
    assert (
        found
        == f"file.yaml:{at}: data: {tmp_path / 'shards'} holds no manifest.json, so no shards that dualprune wrote"
    )


@pytest.mark.parametrize("setting", ["crop: 100", "workers: 2"])
def test_settings_that_do_nothing_to_the_pictures_are_refused(tmp_path: Path, setting: str) -> None:
    """Before any machine is taken: those for encoded ones of any size."""
    where = tmp_path / "shards"
    settings, problems = loaded(tmp_path, (f"{{shards: {where}}}", f"{{shards: {where}, {setting}}}"))
    with pytest.raises(ConfigError) as caught:
        planning.make(settings, problems)
    (found,) = caught.value.problems
    at = line(tmp_path / "file.yaml", "data: ")
    assert found.startswith(f"file.yaml:{at}: data: data.{setting.split(':')[0]} is for pictures")


@pytest.mark.parametrize(
    ("shape", "known", "words"),
    [
        ([3, 8, 8], {}, "fails on a batch of image float32 [2, 3, 8, 8] (samples, channels, height, width), label "),
        ([1, 28, 28], {}, "fails on a batch of image float32 [2, 1, 28, 28] (samples, channels, height, width), "),
        ([1, 8, 8], {"labels": 12}, "the data has 12 classes, and digits_cnn 10; set model.classes to 12"),
        ([1, 8, 8], {"classes": ["dog"] * 11}, "set model.classes to 11"),
    ],
    ids=["channels", "size", "labels", "classes"],
)
def test_a_network_that_can_not_take_the_pictures_is_refused(
    tmp_path: Path, shape: list[int], known: dict[str, Any], words: str
) -> None:
    """When planning, at the model's line; though with other data of these splits it could."""
    settings, problems = loaded(tmp_path)
    planning.make(settings, problems)
    folder = Folder(str(tmp_path / "shards"))
    there = folder.read_json("manifest.json")
    there["splits"] = {split: entry | {"shape": shape} for split, entry in there["splits"].items()}
    folder.write_json("manifest.json", there | known)
    with pytest.raises(ConfigError) as caught:
        planning.make(settings, problems)
    (found,) = caught.value.problems
    assert found.startswith(f"file.yaml:{line(tmp_path / 'file.yaml', 'model: {')}: model: ")
    assert words in found


def test_a_network_that_stages_say_themselves_is_refused_at_each(tmp_path: Path) -> None:
    """And once for all that inherit it."""
    own = "kind: prune\n    parent: half\n    model: {name: digits_cnn}"
    settings, problems = loaded(tmp_path, ("kind: prune\n    parent: half", own))
    folder = Folder(str(tmp_path / "shards"))
    there = folder.read_json("manifest.json")
    folder.write_json("manifest.json", there | {"labels": 12})
    with pytest.raises(ConfigError) as caught:
        planning.make(settings, problems)
    text = "the data has 12 classes, and digits_cnn 10; set model.classes to 12"
    first, second = caught.value.problems
    assert first.endswith(f": model: {text}")
    assert second == f"file.yaml:{line(tmp_path / 'file.yaml', '    model: ')}: stages[2].model: {text}"


def test_an_override_that_does_not_suit_the_data_is_blamed_itself(tmp_path: Path) -> None:
    """Not the line that says the setting for all stages."""
    settings, problems = loaded(tmp_path, overrides=["stages.dense.batch=9999"])
    with pytest.raises(ConfigError) as caught:
        planning.make(settings, problems)
    text = "a batch of 9999 is larger than the 100 training samples"
    assert caught.value.problems == [f"--set stages.dense.batch=9999: stages[0].batch: {text}"]


@pytest.mark.parametrize("setting", ["cluster.workers=65", "engine.accumulate=65", "cluster.workers={min: 1, max: 65}"])
def test_a_batch_that_leaves_workers_without_samples_is_refused(tmp_path: Path, setting: str) -> None:
    settings, problems = loaded(tmp_path, overrides=[setting])
    with pytest.raises(ConfigError) as caught:
        planning.make(settings, problems)
    (found,) = caught.value.problems
    assert found.endswith("batch: a batch of 64 is too small for 65 parts: cluster.workers times engine.accumulate")


def test_means_that_are_not_of_the_channels_are_refused(tmp_path: Path) -> None:
    (found,) = refused(tmp_path, ("/shards}", "/shards, mean: [0, 0, 0], std: [1, 1, 1]}"))
    at = line(tmp_path / "file.yaml", "data: {")
    assert found.startswith(f"file.yaml:{at}: data: data.mean and data.std have 3 values each, and the pictures 1 ch")


@pytest.mark.parametrize("where", ["/nowhere/at/all", "/etc/hosts"])
def test_a_stages_own_missing_shards_are_refused_there(tmp_path: Path, where: str) -> None:
    """No such folder, or no folder: at the stage's own `data`."""
    (found,) = refused(tmp_path, ("kind: train", f"kind: train\n    data: {{shards: '{where}'}}"))
    assert found.startswith(f"file.yaml:{line(tmp_path / 'file.yaml', where)}: stages[0].data: {where}")


@pytest.mark.parametrize(
    ("splits", "words"),
    [
        ("[]", "no samples for the split train"),
        ('{"train": {"samples": 0}}', "no samples for the split train"),
        ('{"train": {"samples": 5}}', "no samples for the split val"),
        (str({split: {"samples": 5} for split in SPLITS}).replace("'", '"'), "can't be read"),
    ],
)
def test_empty_and_damaged_shards_are_refused(tmp_path: Path, splits: str, words: str) -> None:
    """A manifest that lists no samples, or makes no sense."""
    settings, problems = loaded(tmp_path)
    (tmp_path / "shards" / "manifest.json").write_text(f'{{"splits": {splits}}}')
    with pytest.raises(ConfigError) as caught:
        planning.make(settings, problems)
    assert words in caught.value.problems[0]


@pytest.mark.parametrize("how", ["missing", "cut", "a folder"])
def test_damaged_shards_are_refused_by_name(tmp_path: Path, how: str) -> None:
    """Before any worker starts, with what finds the rest."""
    folder = str(tmp_path / "jpegs")
    write(folder, "jpegs", dict.fromkeys(("train", "val", "test"), jpegs(40)))
    file = Path(folder, "val-000000.tar")
    size = file.stat().st_size
    file.unlink()
    if how == "cut":
        file.write_bytes(bytes(size - 512))
    elif how == "a folder":
        file.mkdir()
    (found,) = refused(tmp_path, ("/shards}", "/jpegs}"))
    assert f"{file} " in found
    assert "is missing" in found if how == "missing" else f"not the {size} that the manifest says" in found
    assert how == "missing" or "`dualprune verify` finds what else is damaged" in found


def test_a_built_in_data_set_is_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Into the store, by the first plan that needs it; the next one finds it there."""
    calls = []

    def pictures(folder: str | None) -> dict[str, list[tuple[np.ndarray, int]]]:
        calls.append(folder)
        return {split: [(np.zeros((8, 8), np.uint8), 1)] * 64 for split in ("train", "val", "test")}

    monkeypatch.setitem(sources.SOURCES, "digits", pictures)
    settings, problems = loaded(tmp_path, (f"{{shards: {tmp_path / 'shards'}}}", "{source: digits}"))
    before, after = (planning.make(settings, problems)[1] for _ in range(2))
    assert calls == [None]
    assert (tmp_path / "store" / "data" / "digits" / "manifest.json").is_file()
    assert before[0].node.shards == str(tmp_path / "store" / "data" / "digits")
    assert [p.node.key for p in before] == [p.node.key for p in after]


OWN = """
def rows(n):
    print("made", n)
    return [{"image": [[[i / n] * 8] * 8], "label": i % 3} for i in range(n)]
"""


def test_a_data_set_of_ones_own_is_written_once_and_again_when_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By its source and its arguments; what was written decides what is run again."""
    monkeypatch.syspath_prepend(str(tmp_path))
    file = tmp_path / "own_rows.py"
    settings = "{source: own_rows:rows, args: {n: 300}}"
    keys = []
    for text in (OWN, OWN, OWN + "# a comment", OWN.replace("% 3", "% 5")):
        file.write_text(text)
        sys.modules.pop("own_rows", None)
        importlib.invalidate_caches()
        config, problems = loaded(tmp_path, (f"{{shards: {tmp_path / 'shards'}}}", settings))
        keys.append(planning.make(config, problems)[1][0].node.key)
    assert capsys.readouterr().out.count("made 300") == 3
    assert keys[0] == keys[1] == keys[2] != keys[3]


def test_pictures_among_other_fields_must_suit_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    text = "import numpy as np\ndef rows(): return [{'image': np.zeros((8, 8, 3), np.uint8), 'x': 1}] * 99"
    (tmp_path / "own_rows.py").write_text(text)
    sys.modules.pop("own_rows", None)
    found = refused(tmp_path, (f"{{shards: {tmp_path / 'shards'}}}", "{source: own_rows:rows}"))
    assert "digits_cnn with classify fails on a batch of image float32 [2, 3, 8, 8] (samples, " in found[0], found


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def rows(): return [][3]", r"own_rows:rows raised IndexError: .* \(at .*own_rows.py:1: def rows"),
        ("def rows(): return [1] * 9", "sample 0 is int: a sample is a mapping"),
        ("import nothing_there", r"importing own_rows raised ModuleNotFoundError: .* \(at .*own_rows.py:1"),
    ],
)
def test_errors_of_a_data_set_of_ones_own_are_told_with_their_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, said: str
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "own_rows.py").write_text(text)
    sys.modules.pop("own_rows", None)
    (found,) = refused(tmp_path, (f"{{shards: {tmp_path / 'shards'}}}", "{source: own_rows:rows}"))
    assert re.search(said, found), found
    assert ": data: " in found


def idx(folder: Path, label: int) -> Path:
    """A folder of MNIST's four files: just enough black pictures, all of one label."""
    folder.mkdir()
    for prefix, count in (("train", 5004), ("t10k", 4)):
        header = b"\0\0\x08" + bytes([3]) + count.to_bytes(4, "big") + 2 * (28).to_bytes(4, "big")
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(header + bytes(count * 28 * 28))
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(
            b"\0\0\x08\x01" + count.to_bytes(4, "big") + bytes([label]) * count
        )
    return folder


def test_another_folder_is_other_data(tmp_path: Path) -> None:
    """What it holds decides, and not its name; the store keeps the shards of each."""
    one, other = idx(tmp_path / "one", 1), idx(tmp_path / "other", 2)
    same = shutil.copytree(one, tmp_path / "same")
    path = config(
        tmp_path, (f"shards: {tmp_path / 'shards'}", "source: mnist"), ("digits_cnn", "lenet5"), ("8.*", "7.*")
    )
    found = {}
    for folder in (one, other, same, one):
        settings, problems = load(str(path), [f"data.folder={folder}", "batch=2"])
        dense = planning.make(settings, problems)[1][0].node
        found[folder.name] = (dense.key, dense.data_digest)
        assert read_manifest(dense.shards)["labels"] == (3 if folder == other else 2)
    assert found["one"] == found["same"] != found["other"]
    assert len(list((tmp_path / "store" / "data").iterdir())) == 2
