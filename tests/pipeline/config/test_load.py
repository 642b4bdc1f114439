"""Configuration: what is wrong is found all at once, each with its place; overrides; recipes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import NamedTuple

import pytest

from dualprune.pipeline.config.load import RECIPES, Config, load
from dualprune.pipeline.config.problems import ConfigError, brief
from dualprune.pipeline.config.smoke import smoke
from dualprune.pipeline.dag import trained
from dualprune.stages.kinds.constrained import check
from dualprune.stages.kinds.table import phases
from dualprune.stages.networks.builtin import MODELS
from tests.kinds import KINDS_SAID, listed
from tests.pipeline.common import config, line, loaded, problems

HALF = '{set: cardinality, tensors: "*", rate: 2}'
BETWEEN = """
    admm: &admm {updates: 1, lr: 2e-3, rho: 3e-3}
    retrain: &retrain {epochs: 1, lr: 2e-3}
  - name: v1.5-quarter
    kind: prune
    parent: half
    constraints:  # of the third
      - """
"""From the second stage's constraint to the third's."""
TRAIN = "    train: {epochs: 2, lr: 4e-3}\n"
ONE_AMOUNT = "give exactly one of `rate`, `keep` and `count`"


def test_settings_are_typed(tmp_path: Path) -> None:
    """What is not said has its default; what holds for all stages is in each of them."""
    settings, _ = loaded(tmp_path)
    assert [stage.name for stage in settings.stages] == ["dense", "half", "v1.5-quarter", "other"]
    assert [stage.parents for stage in settings.stages] == [(), ("dense",), ("half",), ("dense",)]
    assert {stage.spec.model.name for stage in settings.stages} == {"digits_cnn"}
    assert settings.top.engine.accumulate == 1
    quarter = settings.stages[2].spec
    assert quarter.kind == "prune"
    assert quarter.admm.rho == 3e-3


def test_a_stage_may_say_differently_what_holds_for_all(tmp_path: Path) -> None:
    """Its own value takes the place of the common one."""
    settings, _ = loaded(tmp_path, ("kind: train", "kind: train\n    batch: 32\n    optimizer: {name: sgd}"))
    assert [stage.spec.batch for stage in settings.stages] == [32, 64, 64, 64]
    assert [stage.spec.optimizer.name for stage in settings.stages] == ["sgd", "adam", "adam", "adam"]


class Bad(NamedTuple):
    """One mistake: a change to CONFIG, text of the line at fault, the dotted path, and words of the message."""

    old: str
    new: str
    at: str
    path: str
    words: str


UNKNOWN = {
    "at the top": Bad("cluster:", "clutser:", "clutser", "clutser", "did you mean 'cluster'?"),
    "in a top block": Bad("workers: 1", "wrokers: 1", "wrokers", "cluster.wrokers", "did you mean 'workers'?"),
    "in a common block": Bad(
        "{name: dig", "{clases: 2, name: dig", "clases", "model.clases", "did you mean 'classes'?"
    ),
    "of a stage": Bad(TRAIN, TRAIN + "    sede: 1\n", "sede", "stages[0].sede", "did you mean 'seed'?"),
    "in a block": Bad("epochs: 2,", "epochs: 2, lrs: 1,", "lrs", "stages[0].train.lrs", "did you mean 'lr'?"),
    "where null may stand": Bad(
        "  - name: v1.5-quarter",
        "    distill: {weight: 0.5, temprature: 2}\n  - name: v1.5-quarter",
        "temprature",
        "stages[1].distill.temprature",
        "did you mean 'temperature'?",
    ),
    "of a set": Bad(HALF, "{kep: 1, " + HALF[1:], "kep", "stages[1].constraints[0].kep", "did you mean 'keep'?"),
    "of another kind": Bad(
        TRAIN, TRAIN + "    regrow: true\n", "regrow", "stages[0].regrow", "belongs to prune stages"
    ),
    "of two other kinds": Bad(
        TRAIN,
        TRAIN + "    constraints: []\n",
        "[]",
        "stages[0].constraints",
        f"belongs to {listed('and')} stages",
    ),
    "kind misspelt": Bad("kind: train", "knd: train", "knd", "stages[0].knd", "unknown setting; did you mean 'kind'?"),
    "parent misspelt": Bad(TRAIN, TRAIN + "    parnet: x\n", "parnet", "stages[0].parnet", "did you mean 'parent'?"),
}
TYPES = {
    "text, not int": Bad(
        "workers: 1", "workers: many", "many", "cluster.workers", "number from 1 on, or {min, max}, not"
    ),
    "least above most": Bad("workers: 1", "workers: {min: 3, max: 2}", "min", "cluster.workers", "other way round"),
    "no most": Bad("workers: 1", "workers: {min: 3}", "min", "cluster.workers.max", "is missing"),
    "no such bound": Bad(
        "workers: 1", "workers: {min: 1, max: 2, mix: 1}", "mix", "cluster.workers.mix", "mean 'min'?"
    ),
    "float, not int": Bad("epochs: 2", "epochs: 2.5", "2.5", "stages[0].train.epochs", "not 2.5"),
    "bool, not float": Bad("lr: 4e-3", "lr: true", "lr: true", "stages[0].train.lr", "not True"),
    "text, not float": Bad("lr: 4e-3", "lr: '4e-3'", "'4e-3'", "stages[0].train.lr", "not '4e-3'"),
    "int, not text": Bad("name: tiny", "name: 12", "name: 12", "name", "not 12"),
    "a value, not settings": Bad(
        TRAIN,
        "    train: 5\n",
        "train: 5",
        "stages[0].train",
        "a mapping is needed, such as {epochs: 5, lr: 1e-3}, not 5",
    ),
    "a name, not a model": Bad(
        "{name: digits_cnn}",
        "digits_cnn",
        "digits_cnn",
        "model",
        "a mapping is needed, such as {name: digits_cnn}, not 'digits_cnn'",
    ),
    "a name, not a constraint": Bad(
        HALF,
        "cardinality",
        "- cardinality",
        "stages[1].constraints[0]",
        "a mapping is needed, such as {set: cardinality, tensors: \"*\", rate: 4}, not 'cardinality'",
    ),
    "empty settings": Bad("{workers: 1}", "", "cluster:", "cluster", "a mapping is needed, not None"),
    "no choice of these": Bad("wandb: disabled", "wandb: now and then", "now and", "monitor.wandb", "'offline'"),
    "not there": Bad("epochs: 2, ", "", "lr: 4e-3", "stages[0].train.epochs", "is missing"),
    "no block": Bad(TRAIN, "", "name: dense", "stages[0].train", "is missing"),
    "not a stage": Bad("  - name: dense", "  - words\n  - name: dense", "words", "stages[0]", "a stage is a mapping"),
}
VALUES = {
    "infinite": Bad("lr: 4e-3", "lr: .inf", ".inf", "stages[0].train.lr", "finite"),
    "no number": Bad("lr: 4e-3", "lr: .nan", ".nan", "stages[0].train.lr", "not nan"),
    "negative": Bad("lr: 4e-3", "lr: -4e-3", "-4e-3", "stages[0].train.lr", "greater than 0, not -0.004"),
    "rate < 1": Bad("rate: 2", "rate: 0.5", "rate: 0.5", "stages[1].constraints[0].rate", "or equal to 1, not 0.5"),
    "two amounts": Bad("rate: 2", "rate: 2, keep: 0.5", "keep", "stages[1].constraints[0]", ONE_AMOUNT),
    "no amount": Bad(", rate: 2", "", '"*"}', "stages[1].constraints[0]", ONE_AMOUNT),
    "no set": Bad(
        "set: cardinality",
        "set: ball",
        "ball",
        "stages[1].constraints[0].set",
        "there is no set 'ball'; there are cardinality, filter, ",
    ),
    "set misspelt": Bad(
        "set: cardinality",
        "set: cardinalty",
        "cardinalty",
        "stages[1].constraints[0].set",
        "there is no set 'cardinalty'; did you mean 'cardinality'?",
    ),
    "a set of another kind": Bad(
        "set: cardinality",
        "set: levels",
        "levels",
        "stages[1].constraints[0].set",
        "'levels' is for quantize stages, and this is of another kind; there are cardinality",
    ),
    "no constraints": Bad("\n      - " + HALF, " []", "constraints: []", "stages[1].constraints", "at least 1"),
    "two origins": Bad("{shards:", "{source: digits, shards:", "source", "data", "give either `source`"),
    "unknown data set": Bad(
        "{shards:", "{source: nist, shards:", "nist", "data.source", "'digits', 'mnist' or 'cifar10'"
    ),
    "offload of nothing": Bad(
        "name: tiny", "name: tiny\nengine: {zero: 0, offload: true}", "engine:", "engine", "needs `zero` 1, 2 or 3"
    ),
    "a GPU for two ranks": Bad(
        "cluster: {workers: 1}",
        "cluster: {workers: 2, gpus: 0.5}",
        "cluster:",
        "cluster",
        "a share of one to `workers: 1`",
    ),
    "a GPU and a half": Bad(
        "cluster: {workers: 1}",
        "cluster: {workers: 1, gpus: 1.5}",
        "cluster:",
        "cluster",
        "give each worker whole GPUs",
    ),
    "unknown model": Bad("digits_cnn", "digits", "name: digits}", "model.name", "there are alexnet, digits_cnn"),
    "a stage's unknown model": Bad(
        TRAIN, TRAIN + "    model: {name: nonet}\n", "nonet", "stages[0].model.name", "there is no model 'nonet'"
    ),
    "no layer": Bad(
        'tensors: "*"',
        "layers: Conv3d",
        "Conv3d",
        "stages[1].constraints[0].layers",
        "no layer of digits_cnn that has weights is a 'Conv3d'; there are Conv2d: 0.weight, 2.weight; Linear: 6.weight",
    ),
    "nothing to leave out": Bad(
        '"*"', '["*", "!conv*"]', "!conv*", "stages[1].constraints[0].tensors[1]", "'!conv*' matches no tensor of"
    ),
    "no tensor": Bad('"*"', '"conv*"', "conv*", "stages[1].constraints[0].tensors", "'conv*' matches no tensor of"),
    "only biases": Bad(
        '"*"', '"*.bias"', "*.bias", "stages[1].constraints[0].tensors", "matches nothing that can be constrained"
    ),
    "overlap": Bad(
        HALF,
        HALF + '\n      - {set: cardinality, tensors: "0.*", rate: 2}',
        '"0.*"',
        "stages[1].constraints[1]",
        "0.weight of shape (16, 1, 3, 3): `cardinality` and `cardinality` contradict each other",
    ),
    "nothing left": Bad("rate: 2", "rate: 1e9", "1e9", "stages[1].constraints[0]", "at least one must stay"),
    "too many": Bad("rate: 2", "count: 145", "count", "stages[1].constraints[0]", "but the tensor has 144"),
}
GRAPH = {
    "unknown kind": Bad(
        "kind: train",
        "kind: trane",
        "trane",
        "stages[0].kind",
        f"one of {KINDS_SAID}, not 'trane'",
    ),
    "no kind": Bad(
        "    kind: train\n",
        "",
        "name: dense",
        "stages[0].kind",
        f"must be one of {KINDS_SAID}, not None",
    ),
    "no such parent": Bad("parent: half", "parent: hafl", "hafl", "stages[2].parent", "did you mean 'half'?"),
    "parent no name": Bad("parent: half", "parent: [half]", "[half]", "stages[2].parent", "not ['half']"),
    "no parent": Bad("    parent: half\n", "", "v1.5-quarter", "stages[2]", "a prune needs a `parent`"),
    "empty parent": Bad("parent: half", "parent: null", "v1.5-quarter", "stages[2]", "a prune needs a `parent`"),
    "own parent": Bad("parent: half", "parent: v1.5-quarter", "parent: v1", "stages[2].parent", "v1.5-quarter -> v1.5"),
    "name twice": Bad("name: other", "name: half", "the fourth", "stages[3].name", "'half' already, stages[1]"),
    "name no file's": Bad("name: other", "name: a/b", "a/b", "stages[3].name", "not 'a/b'"),
    "run's name no file's": Bad("name: tiny", "name: ../tiny", "../tiny", "name", "not '../tiny'"),
    "no name": Bad("name: other", "seed: 1", "the fourth", "stages[3].name", "not None"),
    "a teacher without such modules": Bad(
        "  - name: half\n    kind: prune\n    parent: dense\n",
        "  - name: big\n    kind: train\n    model: {name: resnet20}\n    train: {epochs: 1, lr: 1e-3}\n"
        "  - name: half\n    kind: prune\n    parent: dense\n    distill: {weight: 0.5, hidden: {modules: '8'}}\n"
        "    teacher: big\n",
        "hidden: {modules",
        "stages[2].distill.hidden",
        "in the teacher no module is called '8'",
    ),
    "a teacher of other classes": Bad(
        "  - name: half\n    kind: prune\n    parent: dense\n",
        "  - name: big\n    kind: train\n    model: {name: lenet5, classes: 7}\n    train: {epochs: 1, lr: 1e-3}\n"
        "  - name: half\n    kind: prune\n    parent: dense\n    distill: {weight: 0.5}\n    teacher: big\n",
        "teacher: big",
        "stages[2].teacher",
        "big has outputs that its own can't learn from: lenet5, 7 classes, not 10",
    ),
    "looked into, and no transformer": Bad(
        "  - name: half\n    kind: prune\n    parent: dense\n",
        "  - name: half\n    kind: prune\n    parent: dense\n    distill: {weight: 0.5, attention: 1}\n",
        "attention: 1",
        "stages[1].distill.attention",
        "no list of layers has attention in them; name `modules`",
    ),
    "another model than the parent's": Bad(
        "    parent: half\n", "    parent: half\n    model: {name: lenet5}\n", "lenet5", "stages[2].model", "half"
    ),
    "low rank over zeros": Bad(
        'tensors: "*", rate: 4}',
        'tensors: "0.*", rate: 4}\n      - {set: lowrank, tensors: "6.weight", rank: 4}',
        "of the third",
        "stages[2].constraints",
        "low rank would fill the zeros that half left in 6.weight",
    ),
    "low rank over zeros of a budget": Bad(
        HALF + BETWEEN + '{set: cardinality, tensors: "*", rate: 4}',
        HALF[:-1] + ", scope: global}" + BETWEEN + '{set: lowrank, tensors: "6.weight", rank: 4}',
        "of the third",
        "stages[2].constraints",
        "low rank would fill the zeros that half left in 6.weight; leave it out, or set `regrow: true`",
    ),
    "low rank by training over zeros": Bad(
        "  - name: v1.5-quarter\n",
        "  - name: low\n    kind: trp\n    parent: half\n    constraints:  # of low\n"
        '      - {tensors: "6.weight", energy: 0.1}\n'
        "    train: {epochs: 1, lr: 1e-3}\n  - name: v1.5-quarter\n",
        "of low",
        "stages[2].constraints",
        "low: low rank would fill the zeros that half left in 6.weight; leave it out",
    ),
    "more filters than the parent leaves": Bad(
        HALF + BETWEEN + '{set: cardinality, tensors: "*", rate: 4}',
        '{set: filter, tensors: "0.*", count: 4}' + BETWEEN + '{set: filter, tensors: "0.*", count: 5}',
        "of the third",
        "stages[2].constraints",
        "leaves room for 45 weights in 0.weight by filter, but half for only 36; keep fewer, or set `regrow: true`",
    ),
    "more than the parent leaves": Bad(
        "rate: 2",
        "rate: 8",
        "of the third",
        "stages[2].constraints",
        "v1.5-quarter: asks for 36 weights in 0.weight, but half leaves only 18; keep fewer, or set `regrow: true`",
    ),
}
BAD = {
    f"{what}: {case}": bad
    for what, cases in (("unknown", UNKNOWN), ("type", TYPES), ("value", VALUES), ("graph", GRAPH))
    for case, bad in cases.items()
}


@pytest.mark.parametrize("chain", ["", "simplecache::"])
@pytest.mark.parametrize("place", ["store", "shards"])
def test_a_password_in_a_url_is_refused_and_not_repeated(tmp_path: Path, place: str, chain: str) -> None:
    """It would be written to logs and manifests."""
    path = config(tmp_path)
    path.write_text(path.read_text().replace(f"{place}: {tmp_path}", f"{place}: {chain}ftp://user:pa55word@host"))
    (text,) = problems(path)
    assert f"{place}: holds a password" in text
    assert "pa55word" not in text


@pytest.mark.parametrize("url", ["nowhere://x", "s3:/bucket/x"])
@pytest.mark.parametrize("setting", ["store", "data.shards", "model.weights", "stages[0].data.shards"])
def test_a_url_that_can_not_be_meant_is_refused_at_its_place(tmp_path: Path, setting: str, url: str) -> None:
    """Wherever a file has one; what is meant is in `stages.files.urls`."""
    of_stage = f"kind: train\n    data: {{shards: '{url}'}}"
    change = {
        "store": (f"store: {tmp_path / 'store'}", f"store: '{url}'"),
        "data.shards": (f"shards: {tmp_path / 'shards'}", f"shards: '{url}'"),
        "model.weights": ("digits_cnn}", f"digits_cnn, weights: '{url}'}}"),
        "stages[0].data.shards": ("kind: train", of_stage),
    }[setting]
    path = config(tmp_path, change)
    (found,) = problems(path)
    assert found.startswith(f"file.yaml:{line(path, url)}: {setting}: {url}")


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_bad_input_is_refused_with_its_place(tmp_path: Path, bad: Bad) -> None:
    """`file.yaml:LINE: dotted.path: message`, and one mistake gives no messages about other places."""
    path = config(tmp_path, (bad.old, bad.new))
    found = problems(path)
    head = f"file.yaml:{line(path, bad.at)}: {bad.path}"
    assert any(problem.startswith(f"{head}: ") and bad.words in problem for problem in found), found
    assert all(problem.startswith(head) for problem in found), found


def test_what_is_looked_into_is_not_compiled(tmp_path: Path) -> None:
    """Outputs alone may be distilled in a run that is."""
    learns = ("    parent: dense\n", "    parent: dense\n    distill: {weight: 0.5}\n")
    path = config(tmp_path, learns, ("batch: 64", "batch: 64\nengine: {compile: true}"))
    assert load(str(path))[0].top.engine.compile
    (found,) = problems(path, "stages.half.distill.hidden={modules: '0'}")
    assert "distill: `hidden`, `attention` and `maps` look into networks, which `engine.compile` hides" in found


def test_all_problems_of_a_file_are_found_at_once(tmp_path: Path) -> None:
    """Top level, several stages, types, sets and graph: one message for each, in one error."""
    path = config(
        tmp_path,
        ("workers: 1", "workers: 0"),
        ("epochs: 2", "epochs: two"),
        ("rate: 2", "rate: 0.5"),
        ("parent: half", "parent: none"),
        ('"8.*"', '"9.*"'),
    )
    found = problems(path)
    places = ("cluster.workers", "stages[0].train.epochs", "stages[1].constraints[0].rate")
    places += ("stages[2].parent", "stages[3].constraints[0].tensors")
    assert sorted(problem.split(": ")[1] for problem in found) == sorted(places)


def test_the_error_counts_and_lists_its_problems(tmp_path: Path) -> None:
    """What a person sees is the file, the number of problems, and a line for each."""
    path = config(tmp_path, ("workers: 1", "workers: 0"), ("epochs: 2", "epochs: two"))
    with pytest.raises(ConfigError) as caught:
        load(str(path))
    head, *rows = str(caught.value).splitlines()
    assert head == f"{path}: 2 problems"
    assert rows == [f"  {problem}" for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("old", "new", "place"),
    [
        ("batch: 64", "batch: 0", "batch"),
        ("{name: dig", "{classes: 1, name: dig", "model.classes"),
        ("{name: dig", "{clases: 2, name: dig", "model.clases"),
        ("{shards:", "{shift: 9, shards:", "data.shift"),
        ("digits_cnn", "digits", "model.name"),
    ],
)
def test_what_holds_for_all_stages_is_wrong_once(tmp_path: Path, old: str, new: str, place: str) -> None:
    """A common setting is reported where it stands, not once for each stage that takes it."""
    found = problems(config(tmp_path, (old, new)))
    assert [problem.split(": ")[1] for problem in found] == [place]


def test_a_cycle_is_named(tmp_path: Path) -> None:
    """The stages along it, in order, at one of them."""
    found = problems(config(tmp_path, ("parent: dense", "parent: v1.5-quarter")))
    assert len(found) == 1
    assert "the stages form a cycle: " in found[0]
    assert found[0].split("cycle: ")[1] in ("half -> v1.5-quarter -> half", "v1.5-quarter -> half -> v1.5-quarter")


def test_regrowth_lets_a_child_ask_for_more(tmp_path: Path) -> None:
    """With `regrow` the parent's masks set no bound; its own children have its."""
    settings, _ = loaded(tmp_path, ("rate: 2", "rate: 8"), ("parent: half", "parent: half\n    regrow: true"))
    assert settings.stages[2].spec.kind == "prune"


def test_masks_bound_grandchildren_through_plain_training(tmp_path: Path) -> None:
    """A stage of training keeps its parent's masks, so what comes after it can't grow back either."""
    between = "  - name: tuned\n    kind: train\n    parent: half\n    train: {epochs: 1, lr: 1}\n"
    path = config(
        tmp_path,
        ("rate: 2", "rate: 8"),
        ("parent: half", "parent: tuned"),
        ("  - name: v1.5", between + "  - name: v1.5"),
    )
    assert all("stages[3].constraints: v1.5-quarter: asks for" in problem for problem in problems(path))


@pytest.mark.parametrize(
    ("text", "at", "words"),
    [
        ("name: x\nname: y\n", ":2: ", "the key 'name' was given on line 1 already"),
        ("name: [x\nstages: 1\n", ":2: ", "expected ',' or ']', but got ':', in what [ opened on line 1"),
        ("name: x\n\tstages: 1\n", ":2: ", "a tab can't stand here; use spaces"),
        ("name: x\nstore: *nowhere\n", ":2: ", "undefined alias"),
        ("name: !!python/name:os.system x\n", ":1: ", "there is no type !!python/name:os.system here"),
        ("name: x\nstore: {{ store }}\n", ":2: ", ""),
        ("a: 1\n---\nb: 1\n", ":2: ", "another document"),
        ("a: &a {b: *a}\n", "", ""),
        ("", "", "a mapping is needed"),
        ("- a\n- b\n", "", "a mapping is needed"),
    ],
)
def test_what_is_no_settings_at_all_is_refused(tmp_path: Path, text: str, at: str, words: str) -> None:
    """Broken YAML is a ConfigError, with the line where there is one."""
    (tmp_path / "file.yaml").write_text(text)
    (found,) = problems(tmp_path / "file.yaml")
    assert found.startswith(f"file.yaml{at}" if at else "")
    assert words in found


def test_text_that_is_no_utf8_is_refused(tmp_path: Path) -> None:
    """A file of other bytes is bad input."""
    (tmp_path / "file.yaml").write_bytes(b"name: \xff\xfe")
    assert len(problems(tmp_path / "file.yaml")) == 1


@pytest.mark.parametrize("folder", [os.fsdecode(b"d\xe9"), "gone"])
def test_a_folder_that_nothing_can_run_in_is_told(folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray can't be started in one whose name is no UTF-8, and tries three times; one that is gone has no paths."""
    path = config(tmp_path)
    (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path / folder)
    if folder == "gone":
        (tmp_path / folder).rmdir()
    assert "the folder that this is called in" in problems(path)[0]


@pytest.mark.parametrize(
    ("name", "words"), [("x" * 5000, "File name too long"), ("pipe", "no regular file"), ("shut", "Permission denied")]
)
def test_what_is_no_file_of_settings_is_told(
    name: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that no file can have, a pipe as of `<(...)`, which can't be read twice, and a file that can't be read."""
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    Path("shut").touch(0o000)
    if name == "shut" and os.access("shut", os.R_OK):
        monkeypatch.setattr(Path, "read_bytes", lambda path: os.open("/proc/nothing", os.O_RDONLY))
        words = "No such file"
    assert words in problems(Path(name))[0]


def test_every_recipe_loads_by_name() -> None:
    """The files that come along are sound."""
    names = {file.stem for file in RECIPES.glob("*.yaml")}
    assert "digits" in names
    for name in names:
        settings, _ = load(name)
        assert settings.stages


def epochs_to(settings: Config) -> dict[str, int]:
    """Epochs of training of each stage and all that it comes from."""
    found: dict[str, int] = {}
    for stage in settings.stages:
        spec = trained(stage.spec)
        assert spec is not None
        found[stage.name] = sum(s.epochs for s in phases(spec)) + (found[stage.parents[0]] if stage.parents else 0)
    return found


@pytest.mark.parametrize("name", ["cifar10_resnet20", "cifar10_resnet20_quick", "cifar10_resnet56"])
def test_cifar10_recipes_compare_like_with_like(name: str) -> None:
    """Each method gets each rate in the same epochs, by the same budget, with the same teacher."""
    settings, _ = load(name)
    epochs, stages = epochs_to(settings), {stage.name: stage for stage in settings.stages}
    for rate in ("5x", "10x", "20x"):
        ours, *others = (stages[f"{method}-{rate}"] for method in ("admm", "magnitude", "gradual"))
        for other in others:
            assert epochs[other.name] == epochs[ours.name] > 0
            assert other.parents[1:] == ours.parents[1:] == (("dense",) if ours.spec.distill else ())
            for what in ("constraints", "distill", "data", "batch", "optimizer"):
                assert getattr(other.spec, what) == getattr(ours.spec, what)
            assert other.spec.retrain.lr == ours.spec.retrain.lr


@pytest.mark.parametrize("name", sorted({file.stem for file in RECIPES.glob("*.yaml")}))
def test_stages_of_recipes_are_named_for_what_they_leave(name: str) -> None:
    """`NAME-20x` leaves a twentieth, in the settings as given; in small, every recipe is still sound."""
    settings, _ = load(name)
    for stage in settings.stages:
        spec, rate = trained(stage.spec), stage.name.rpartition("-")[2]
        if rate.endswith("x") and spec is not None and spec.kind == "prune":
            assert check(spec).rate == pytest.approx(float(rate[:-1]), rel=0.01)
    assert [stage.name for stage in smoke(settings).stages] == [stage.name for stage in settings.stages]


def test_a_module_that_is_not_there_is_told_once(tmp_path: Path) -> None:
    """Whoever asks for it: its code for keys, the network to be built."""
    (found,) = problems(config(tmp_path, ("{name: digits_cnn}", "{name: 'no_such_own:net'}")))
    assert found.endswith("no_such_own, neither beside the configuration nor where Python looks for modules")


def test_a_name_that_is_nothing_lists_the_recipes() -> None:
    """No file and no recipe: say which recipes there are."""
    (found,) = problems(Path("no-such-recipe"))
    assert "no such file, and no such recipe" in found
    assert "digits" in found


def test_overrides_reach_top_and_stages(tmp_path: Path) -> None:
    """Values are YAML; a stage is named by its name, whatever dots and dashes are in it, or by its number."""
    settings, _ = loaded(
        tmp_path,
        overrides=[
            "name=again",
            "cluster.cpus=0.5",
            "engine.zero=3",
            "model={name: digits_cnn, classes: 12}",
            "seed=7",
            "stages.v1.5-quarter.retrain.epochs=9",
            "stages.0.train.lr=1e-3",
            "stages.other.constraints.0.rate=3",
            "stages.half.regrow=true",
        ],
    )
    assert settings.top.name == "again"
    assert (settings.top.cluster.cpus, settings.top.engine.zero) == (0.5, 3)
    dense, half, quarter, other = (stage.spec for stage in settings.stages)
    assert {spec.model.classes for spec in (dense, half, quarter, other)} == {12}
    assert {spec.seed for spec in (dense, half, quarter, other)} == {7}
    assert dense.kind == "train"
    assert dense.train.lr == 1e-3
    assert half.kind == quarter.kind == other.kind == "prune"
    assert (quarter.retrain.epochs, other.constraints[0].rate, half.regrow) == (9, 3, True)


def test_an_override_of_a_shared_block_is_one_stages_alone(tmp_path: Path) -> None:
    """YAML anchors share a mapping between stages; an override of one leaves the others as they were."""
    settings, _ = loaded(tmp_path, overrides=["stages.half.admm.rho=0.5", "stages.v1.5-quarter.retrain.epochs=4"])
    specs = [stage.spec for stage in settings.stages[1:]]
    assert [spec.admm.rho for spec in specs if spec.kind == "prune"] == [0.5, 3e-3, 3e-3]
    assert [spec.retrain.epochs for spec in specs if spec.kind == "prune"] == [1, 4, 1]


def test_a_later_override_wins(tmp_path: Path) -> None:
    """In the order they are given."""
    assert loaded(tmp_path, overrides=["seed=1", "seed=2"])[0].stages[0].spec.seed == 2


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("cluster.workers", "must read a.b=value"),
        ("=3", "must read a.b=value"),
        ("seed=[1", "'[1' is no YAML: expected ',' or ']'"),
        ("seed=2024-13-45", "seed: must be a valid integer, not '2024-13-45'"),
        ("seed=1:30", "seed: must be a valid integer, not '1:30'"),
        ("seed=1e3", "seed: must be a whole number, not 1000.0; write 1000"),
        ("stages[1].seed=1.5", "stages[1].seed: must be a valid integer"),
        ("stages.half..seed=1", "must read a.b=value"),
        ("store=./a #b", "#b would be left out as a comment"),
        ("name=12", "name: text is needed, not 12; put it in quotes"),
        ("stages.²=1", "there is no '²' in stages"),
        (f"stages.{'9' * 5000}=1", "in stages"),
        ("seed={{ seed }}", "is no YAML"),
        ("stages.zz.seed=1", "there is no 'zz' in stages; there are dense, half, "),
        ("stages.hafl.seed=1", "there is no 'hafl' in stages; did you mean 'half'?"),
        ("stages.half-4x.seed=1", "there is no 'half-4x' in stages; did you mean 'half'?"),
        ("stages.9.seed=1", "there is no '9' in stages"),
        ("name.first=1", "name holds a value, not settings"),
        ("stages.half.constraints.x.rate=3", "there is no 'x' in stages.1.constraints"),
        ("seed=-1", "seed: must be greater than or equal to 0, not -1"),
        ("cluster.workers=two", "cluster.workers: must be a number from 1 on, or {min, max}, not 'two'"),
        ("clutser.workers=2", "did you mean 'cluster'?"),
        ("cluster.wrokers=2", "cluster.wrokers: unknown setting; did you mean 'workers'?"),
        ("stages.half.constraints.0.rate=0.5", "stages[1].constraints[0].rate: must be greater than or equal to 1"),
        ("stages.half.parent=hafl", "stages[1].parent: there is no stage 'hafl'"),
        ("model={name: nonet}", "model.name: there is no model 'nonet'"),
        ("stages.half.model.name=nonet", "stages[1].model.name: there is no model 'nonet'"),
        ("data={source: nist}", "data.source: must be 'digits', 'mnist' or 'cifar10'"),
        ("stages=3", "a list of stages is needed"),
        ("stages.other=3", "stages[3]: a stage is a mapping"),
    ],
)
def test_a_bad_override_is_blamed_itself(tmp_path: Path, override: str, words: str) -> None:
    """The message names the override, not the line of the file that it replaces."""
    found = problems(config(tmp_path), override)
    assert all(problem.startswith(f"--set {brief(override)}: ") for problem in found), found
    assert any(words in problem for problem in found), found


def test_an_override_of_a_stage_beside_one_without_a_good_name(tmp_path: Path) -> None:
    """A stage's bad name is the problem that is told, not a failure of the override's."""
    found = problems(config(tmp_path, ("name: other", "name: 5")), "stages.half.seed=1")
    assert [problem.split(": ")[1] for problem in found] == ["stages[3].name"]


def test_a_stage_says_of_its_data_only_what_is_different(tmp_path: Path) -> None:
    """The rest is the file's; another origin takes nothing of the file's origin along."""
    changes = [("    parent: half\n", "    parent: half\n    data: {shift: 2}\n")]
    settings, _ = load(str(config(tmp_path, *changes)))
    by_name = {stage.name: stage.spec for stage in settings.stages}
    assert by_name["v1.5-quarter"].data == by_name["half"].data.model_copy(update={"shift": 2})
    (tmp_path / "again").mkdir()
    changes = [("    parent: half\n", "    parent: half\n    data: {source: digits}\n")]
    settings, _ = load(str(config(tmp_path / "again", *changes)))
    by_name = {stage.name: stage.spec for stage in settings.stages}
    assert (by_name["v1.5-quarter"].data.source, by_name["v1.5-quarter"].data.shards) == ("digits", None)


def test_a_model_that_can_not_be_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found before a machine is taken, with the user's own line."""

    def broken(classes: int) -> None:
        return int("many")  # the user's mistake

    monkeypatch.setitem(MODELS, "broken", broken)
    lines = Path(__file__).read_text().splitlines()
    line = next(number for number, text in enumerate(lines, 1) if text.endswith('int("many")  # the user\'s mistake'))
    (problem,) = problems(config(tmp_path), "model.name=broken")
    assert problem.endswith(
        "model: broken can't be built: ValueError: invalid literal for int() with base 10: 'many', "
        f'at {__file__}:{line}: return int("many")  # the user\'s mistake'
    )


@pytest.mark.parametrize(
    "address", ["ray:/x", "http://127.0.0.1:8265", "RAY://host:1", "host", "host:port", "a b:1", ""]
)
def test_an_address_of_no_cluster_is_refused(tmp_path: Path, address: str) -> None:
    """When the file is read: Ray would try for a while, or guess."""
    (found,) = problems(config(tmp_path), f"cluster.address={json.dumps(address)}")
    assert "cluster.address: must be auto, HOST:PORT or ray://HOST:PORT, not" in found


@pytest.mark.parametrize("address", ["auto", "host:6379", "10.0.0.1:6379", "ray://head:10001", "[::1]:6379"])
def test_addresses_are_as_ray_has_them(tmp_path: Path, address: str) -> None:
    assert loaded(tmp_path, overrides=[f"cluster.address={json.dumps(address)}"])[0].top.cluster.address == address
