"""Learning from what is within a teacher: hidden states, what attention gives, and its maps."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from dualprune.stages.artefacts import artefact
from dualprune.stages.files.folder import Folder
from dualprune.stages.kinds.constrained import check
from dualprune.stages.kinds.job import Parent, StageJob, key_material
from dualprune.stages.kinds.table import parse
from dualprune.stages.networks.builtin import MODELS
from dualprune.stages.objectives.base import Batch, Objective
from dualprune.stages.settings.base import SpecError
from dualprune.stages.settings.distill import Compared, Distill
from dualprune.stages.training.stage import run_stage
from dualprune.stages.training.teacher import Teacher, Watch, probabilities
from tests.ranks import on_ranks
from tests.stages.conftest import MakeTask
from tests.stages.training.test_ranks import SGD, rank_main
from tests.stages.training.test_stage import DENSE, made, quiet, resumed, run, same_bytes
from tests.stages.training.test_stage_solver import rows

pytestmark = pytest.mark.usefixtures("one_rank")

ALL: dict[str, Any] = {"hidden": 1, "attention": 0.5, "maps": 2.0}


class Attention(nn.Module):
    """Of two heads, 8 wide."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(16, 16) for _ in range(4))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """[n, t, 16] to the same."""
        q, k, v = (f(x).unflatten(2, (-1, 8)).transpose(1, 2) for f in (self.q, self.k, self.v))
        mask = None if mask is None else mask[:, None, None, :]
        y: Tensor = self.out(F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2))
        return y


class Layer(nn.Module):
    """Attention and two feed-forward layers, with dropout."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.attention, self.first, self.second = Attention(), nn.Linear(16, 32), nn.Linear(32, 16)
        self.one, self.two, self.dropout = nn.LayerNorm(16), nn.LayerNorm(16), nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, None]:
        """[n, t, 16] to the same, and more, as some networks have it."""
        x = self.one(x + self.attention(x, mask))
        return self.two(x + self.dropout(self.second(F.gelu(self.first(x))))), None


class Encoder(nn.Module):
    """The rows of pictures of 8 x 8 are its tokens."""

    def __init__(self, classes: int, depth: int = 2, dropout: float = 0.1) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(8, 16), nn.Linear(16, classes)
        self.layers = nn.ModuleList(Layer(dropout) for _ in range(depth))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """[n, 1, 8, 8] to [n, classes]."""
        x = self.embed(x.squeeze(1))
        for layer in self.layers:
            x, _ = layer(x, mask)
        y: Tensor = self.head(x.mean(1))
        return y


class Hidden(Encoder):
    """Whose attention torch has in one piece."""

    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        self.layers = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 2)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """As above."""
        y: Tensor = self.head(self.layers(self.embed(x.squeeze(1))).mean(1))
        return y


class Turned(Encoder):
    """Whose samples are along the second axis."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """As above."""
        x = self.embed(x.squeeze(1)).transpose(0, 1)
        for layer in self.layers:
            x, _ = layer(x)
        y: Tensor = self.head(x.mean(0))
        return y


NETWORKS = {
    "encoder": Encoder,
    "calm": lambda classes: Encoder(classes, dropout=0),
    "deep": lambda classes: Encoder(classes, 3),
    "wide": lambda classes: nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, classes)),
    "narrow": lambda classes: nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, classes)),
    "overwritten": lambda classes: nn.Sequential(
        nn.Flatten(), nn.Linear(64, 8), nn.ReLU(inplace=True), nn.Linear(8, classes)
    ),
    "hidden": Hidden,
    "turned": Turned,
}


@pytest.fixture
def stage(make_task: MakeTask, monkeypatch: pytest.MonkeyPatch) -> MakeTask:
    """Stages of networks of this file."""
    for name, make in NETWORKS.items():
        monkeypatch.setitem(MODELS, name, make)

    def make_stage(*args: Any, model: str = "encoder", **settings: Any) -> StageJob:
        return make_task(*args, model=model, **settings)

    return make_stage


def spec(**inside: Any) -> dict[str, Any]:
    """A prune at once, and an epoch of training on what a teacher says alone."""
    return {
        "kind": "prune",
        "constraints": [{"set": "cardinality", "tensors": "layers.*first.weight", "rate": 2}],
        "admm": None,
        "retrain": {"epochs": 1, "lr": 0.01},
        "distill": {"weight": 1.0, **inside},
    }


def of(batch: Batch, inside: dict[str, Any], known: Tensor | None = None) -> tuple[Tensor, Encoder, Encoder, Teacher]:
    """How far a network is from another but for its outputs, both of them, and the teacher."""
    torch.manual_seed(0)
    student, other = Encoder(3).eval(), Encoder(3).eval()
    aim = Objective(
        call=lambda network, batch: network(batch["image"], batch.get("mask")),
        loss=lambda outputs, batch: outputs.sum(),
        good=lambda batch: torch.tensor(len(batch["image"])),
        metrics={},
        best="",
        distil=lambda given, wanted, batch, temperature: 0 * given.sum(),
        known=None if known is None else lambda batch: known,
    )
    teacher = Teacher(other, Distill.model_validate({"weight": 1.0, **inside}), aim, bf16=False)
    teacher.teaches(student)
    with teacher.looking():
        outputs = aim.call(student, batch)
    return teacher.apart(outputs, batch), student, other, teacher


def loaded(found: artefact.Artefact) -> Encoder:
    """The network of an artefact."""
    network = artefact.network(found)
    assert isinstance(network, Encoder)
    return network


def states(network: Encoder, batch: Batch) -> dict[str, list[Tensor]]:
    """What is within a network, by hand."""
    x, found = network.embed(batch["image"].squeeze(1)), dict[str, list[Tensor]](hidden=[], attention=[], maps=[])
    found["hidden"].append(x)
    for layer in network.layers:
        assert isinstance(layer, Layer)
        q, k = (f(x).unflatten(2, (2, 8)).transpose(1, 2) for f in (layer.attention.q, layer.attention.k))
        scores = q @ k.transpose(2, 3) / 8**0.5
        if (mask := batch.get("mask")) is not None:
            scores = scores.masked_fill(~mask[:, None, None], -1e30)
        found["maps"].append(scores.softmax(-1))
        found["attention"].append(layer.attention(x, mask))
        x = layer(x, mask)[0]
        found["hidden"].append(x)
    return found


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("padded", [False, True])
def test_differences_by_hand(name: str, padded: bool) -> None:
    """Means over what is known of a sample, summed over samples and modules; one sample is not good."""
    batch: dict[str, Tensor] = {"image": torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(1))}
    known = torch.tensor([True, True, False, True])
    lengths = [8, 8, 8, 8]
    if padded:
        lengths = [8, 3, 5, 1]
        batch["mask"] = torch.arange(8) < torch.tensor(lengths)[:, None]
        known = batch["mask"] & known[:, None]
    found, student, other, _ = of(batch, {name: 2.0}, known)
    wanted = torch.tensor(0.0)
    for a, b in zip(states(student, batch)[name], states(other, batch)[name], strict=True):
        for n in (0, 1, 3):
            t = lengths[n]
            squares = (a[n] - b[n]).square()
            wanted = wanted + 2 * (squares[:, :t, :t] if name == "maps" else squares[:t]).mean()
    torch.testing.assert_close(found, wanted)
    found.backward()
    assert all(one.grad is None for one in other.parameters())
    grads = {path: one.grad is not None and bool(one.grad.any()) for path, one in student.named_parameters()}
    assert grads["embed.weight"]
    assert grads["layers.1.attention.q.weight"]
    assert grads["layers.1.second.weight"] == (name == "hidden")
    assert grads["layers.1.attention.out.weight"] == (name != "maps")


@pytest.mark.parametrize("way", ["plain", "causal", "truths", "added", "groups"])
def test_probabilities_are_those_of_attention(way: str) -> None:
    """Of which the values are one row for each key."""
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(2, heads, 5, 4, generator=generator) for heads in (4, 2 if way == "groups" else 4))
    mask = torch.rand(2, 1, 5, 5, generator=generator) > 0.3
    mask[..., 0] = True
    more: dict[str, Any] = {
        "plain": {"scale": 0.3},
        "causal": {"is_causal": True},
        "truths": {"attn_mask": mask},
        "added": {"attn_mask": torch.zeros(2, 1, 5, 5).masked_fill(~mask, -torch.inf)},
        "groups": {"enable_gqa": True},
    }[way]
    values = torch.eye(5).expand(2, k.shape[1], 5, 5)
    torch.testing.assert_close(
        probabilities(q, k, values, **more), F.scaled_dot_product_attention(q, k, values, **more)
    )


LIBRARIES = ["bert", "gpt2", "llama", "timm", "torchvision"]


def tiny(name: str) -> tuple[nn.Module, dict[str, Tensor]]:
    """A transformer of a library, of two layers and two heads, and what it is called with."""
    small = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    tokens = {
        "input_ids": torch.randint(0, 20, (3, 6)),
        "attention_mask": torch.tensor([[1] * 6, [1] * 4 + [0] * 2, [1] * 6]),
    }
    if name == "torchvision":
        return torchvision.models.VisionTransformer(16, 8, 2, 2, 16, 32), {"x": torch.randn(3, 3, 16, 16)}
    if name == "timm":
        make = pytest.importorskip("timm").create_model
        network: nn.Module = make("vit_tiny_patch16_224", depth=2, embed_dim=16, num_heads=2, img_size=32)
        return network, {"x": torch.randn(3, 3, 32, 32)}
    pytest.importorskip("transformers")
    library: Any = importlib.import_module("transformers")
    kinds = {"bert": "BertForSequenceClassification", "gpt2": "GPT2LMHeadModel", "llama": "LlamaForCausalLM"}
    kind = getattr(library, kinds[name])
    ends = {"bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 0}
    names = {"n_embd": 16, "n_layer": 2, "n_head": 2} | ends if name == "gpt2" else small | ends
    made_: nn.Module = kind(kind.config_class(vocab_size=20, **names))
    return made_, tokens


@pytest.mark.parametrize("name", LIBRARIES)
def test_networks_of_libraries_are_looked_into(name: str) -> None:
    """Of those of transformers it is what they give of themselves; of torch's own attention there are no maps."""
    torch.manual_seed(0)
    network, given = tiny(name)
    watch = Watch(network.eval(), Distill.model_validate({"weight": 1.0, **ALL}))
    with torch.no_grad(), watch.looking() as seen:
        network(**given)
    found = {key: [one for (of, _), there in seen.items() if of == key for one in there] for key in ALL}
    maps = 0 if name == "torchvision" else 2
    assert [len(one) for one in found.values()] == [3, 2, maps]
    assert all(one.shape[0] == 3 and one.shape[-1] == 16 for one in found["hidden"] + found["attention"])
    if name in ("timm", "torchvision"):
        return
    network.config._attn_implementation = "eager"  # type: ignore[union-attr]
    with torch.no_grad():
        told: Any = network(**given, output_hidden_states=True, output_attentions=True)
    known = given["attention_mask"].bool()
    last = 3 if name == "bert" else 2  # the others norm what the last layer gives
    for ours, theirs in zip(found["hidden"][:last], told.hidden_states, strict=False):
        torch.testing.assert_close(ours[known], theirs[known])
    for ours, theirs in zip(found["maps"], told.attentions, strict=True):
        torch.testing.assert_close(ours.transpose(1, 2)[known], theirs.transpose(1, 2)[known])


class Talks(nn.Module):
    """Gives what it is made with, whatever it is called with."""

    def __init__(self, given: object) -> None:
        super().__init__()
        self.given = given

    def forward(self, x: Tensor) -> object:
        return self.given


@pytest.mark.parametrize("given", [{"a": (torch.ones(2, 3), None)}, [torch.ones(2, 3)]])
def test_the_first_of_several_tensors_counts(given: object) -> None:
    network = nn.ModuleDict({"talks": Talks(given)})
    watch = Watch(network, Distill(weight=0.5, hidden=Compared(modules="talks")))
    with watch.looking() as seen:
        network["talks"](torch.ones(2, 3))
    assert [one.shape for one in seen["hidden", "talks"]] == [(2, 3)]


@pytest.mark.parametrize("given", [None, {}, (None, 1), "text"])
def test_what_is_no_tensor_is_named(given: object) -> None:
    network = nn.ModuleDict({"talks": Talks(given)})
    watch = Watch(network, Distill(weight=0.5, hidden=Compared(modules="talks")))
    with watch.looking(), pytest.raises(SpecError, match="talks is no tensor, nor several, but a"):
        network["talks"](torch.ones(2, 3))


def test_nothing_is_kept_of_other_calls() -> None:
    """Such as those of an evaluation; and what was looked at is forgotten."""
    batch = {"image": torch.randn(2, 1, 8, 8)}
    _, student, _, teacher = of(batch, ALL)
    with teacher.looking():
        pass
    student(batch["image"])
    assert teacher._seen == {}
    assert teacher._student is not None
    assert teacher._student[1].seen is None


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_student_that_is_its_teacher_has_nothing_to_learn(stage: MakeTask, precision: str) -> None:
    """While it does not move, and but for dropout; all of it is added to what its outputs lose."""
    made(stage(DENSE, "dense"))
    still = {"precision": precision, "retrain": {"epochs": 1, "lr": 1e-30}}
    whole = {"set": "cardinality", "tensors": "layers.*first.weight", "rate": 1}
    losses = {}
    for name, inside in {"outputs": {}, "all": ALL, "twice": {name: 2 * one for name, one in ALL.items()}}.items():
        task = stage(spec(**inside) | still | {"constraints": [whole]}, name, "dense")
        run(task)
        losses[name] = rows(task)[0]["loss"]
    assert losses["outputs"] < losses["all"] < 0.1
    assert losses["twice"] - losses["all"] == pytest.approx(losses["all"] - losses["outputs"], rel=0.02)


def test_hidden_states_come_nearer_to_the_teachers(stage: MakeTask) -> None:
    """Than by learning from its outputs alone."""
    teacher = made(stage(DENSE | {"train": {"epochs": 3, "lr": 0.01}}, "dense"))
    pictures = torch.randn(20, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    apart = {}
    for name, inside in {"outputs": {}, "hidden": {"hidden": 1}}.items():
        found = run(stage(spec(**inside) | {"retrain": {"epochs": 3, "lr": 0.01}}, name, "dense"))
        with torch.no_grad():
            ours, theirs = (states(loaded(one), {"image": pictures})["hidden"] for one in (found, teacher))
        apart[name] = sum(float(F.mse_loss(*pair)) for pair in zip(ours, theirs, strict=True))
    assert apart["hidden"] < 0.7 * apart["outputs"]


@pytest.mark.parametrize("zero", [0, 3])
def test_a_stopped_one_ends_with_the_same_bytes(stage: MakeTask, zero: int) -> None:
    """Within an epoch, with dropout and micro-batches."""
    for store in ("whole", "cut"):
        made(stage(DENSE, "dense", store=store))
    whole, cut = (
        stage(spec(**ALL), "after", "dense", store=name, zero=zero, accumulate=2, checkpoint_steps=4)
        for name in ("whole", "cut")
    )
    run(whole)
    asked = iter([False] * 5)
    assert run_stage(cut, quiet, lambda: next(asked, True)) is None
    assert resumed(cut) == 6
    same_bytes(whole, cut)


def calm_main(tasks: list[str]) -> None:
    """One of two ranks, which knows this file's network too."""
    MODELS["calm"] = NETWORKS["calm"]
    rank_main(tasks)


@pytest.mark.slow
def test_two_ranks_do_what_one_does(stage: MakeTask) -> None:
    """Under every ZeRO stage, with micro-batches and shares of unequal size."""
    learns = spec(**ALL) | SGD | {"retrain": {"epochs": 2, "lr": 0.01}}
    made(stage(DENSE | SGD, "dense", model="calm"))
    one = run(stage(learns, "one", "dense", model="calm"))
    tasks = [
        stage(learns, f"zero{zero}", "dense", model="calm", zero=zero, accumulate=1 + zero % 2) for zero in range(4)
    ]
    on_ranks(2, calm_main, [task.model_dump_json() for task in tasks])
    for task in tasks:
        got = artefact.load(Folder(task.store) / task.key)
        for name, value in one.network.items():
            assert torch.allclose(got.network[name], value, atol=1e-4), (task.key, name)


def test_compiled_networks_are_refused(stage: MakeTask) -> None:
    """By a stage; a plan says so too."""
    made(stage(DENSE, "dense"))
    with pytest.raises(SpecError, match=r"^distill: .*which `engine.compile` hides"):
        run_stage(stage(spec(maps=1), "after", "dense", compile=True), quiet)


EPOCH = {"epochs": 1, "lr": 0.003}
FIRST = [{"tensors": "*first.weight"}]
HEADS = {"set": "head", "tensors": ["*.q.weight", "*.k.weight", "*.v.weight"]}
KINDS: dict[str, dict[str, Any]] = {
    "quantize": {
        "constraints": [{"set": "levels", "tensors": "*first.weight", "levels": "ternary"}],
        "admm": {"updates": 1, "lr": 0.003, "rho": 0.01},
    },
    "scores": {"constraints": [HEADS, {"set": "filter", **FIRST[0]}], "macs": 0.8, "train": EPOCH, "scores_lr": 1.0},
    "layerwise": {
        "constraints": [{"set": "nm", "tensors": "*first.weight", "n": 2, "m": 4}],
        "samples": 32,
        "retrain": EPOCH,
    },
    "gates": {"constraints": FIRST, "macs": 0.9, "train": EPOCH},
    "joint": {"constraints": FIRST, "macs": 0.9, "train": EPOCH},
    "partial": {"constraints": [FIRST[0] | {"share": 0.5, "strength": 0.1}], "train": EPOCH},
    "trp": {"constraints": [FIRST[0] | {"energy": 0.05}], "train": EPOCH},
}


@pytest.mark.parametrize(
    "kind",
    [
        "quantize",
        "scores",
        "layerwise",
        *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("gates", "joint", "partial", "trp")),
    ],
)
def test_all_kinds_learn_so(stage: MakeTask, kind: str) -> None:
    """Heads that are masked are there still, and have maps."""
    made(stage(DENSE, "dense"))
    losses = {}
    for name, inside in {"outputs": {}, "all": ALL}.items():
        task = stage(KINDS[kind] | {"kind": kind, "distill": {"weight": 1.0, **inside}}, name, "dense")
        run(task)
        losses[name] = rows(task)[0]["loss"]
    assert losses["all"] > 1.2 * losses["outputs"]


SHRUNK: dict[str, Any] = {
    "kind": "shrink",
    "constraints": [
        {"set": "head", "tensors": "*attention*", "keep": 0.5, "coupled": True},
        {"set": "filter", "tensors": "*first*", "keep": 0.5, "coupled": True},
    ],
    "retrain": {"epochs": 1, "lr": 0.003},
}


def test_a_network_with_fewer_heads_learns_from_one_with_all(stage: MakeTask) -> None:
    """What attention gives is as wide; maps are not of the same heads."""
    made(stage(DENSE, "dense"))
    small = run(stage(SHRUNK | {"distill": {"weight": 0.9, "hidden": 1, "attention": 1}}, "small", "dense"))
    assert small.network["layers.0.attention.q.weight"].shape == (8, 16)
    assert small.manifest["shrunk"]["units"]["layers.0.attention.q.weight"] == [2, 1]
    words = (
        r"distill.maps: scaled_dot_product_attention is \[3, 1, 8, 8\], .* here and \[3, 2, 8, 8\], .*use `attention`"
    )
    with pytest.raises(SpecError, match=words):
        run(stage(SHRUNK | {"distill": {"weight": 0.9, "maps": 1}}, "maps", "dense"))


OTHERS = [
    ("encoder", "deep", {"hidden": 1}, r"hidden: layers\.2 is in the teacher, and here it is not"),
    ("deep", "encoder", {"attention": 1}, r"attention: layers\.2\.attention is here, and in the teacher it is not"),
    (
        *("wide", "narrow", {"hidden": {"modules": "1"}}),
        r"hidden: 1 is \[3, 24\] here and \[3, 12\] in the teacher, for 3 samples; leave it out",
    ),
    (
        "turned",
        "turned",
        {"hidden": 1},
        r"hidden: the input of layers\.0 is \[8, 3, 16\] for 3 samples; its first axis",
    ),
    (
        "overwritten",
        "overwritten",
        {"hidden": {"layers": "Linear"}},
        r"hidden: what 1 gives is changed in place behind it; name the module that does so",
    ),
    ("hidden", "hidden", {"maps": 1}, r"maps: the teacher calls no `scaled_dot_product_attention`"),
]


@pytest.mark.parametrize(("model", "teacher", "inside", "words"), OTHERS)
def test_a_teacher_that_does_not_match_is_refused(
    stage: MakeTask, model: str, teacher: str, inside: dict[str, Any], words: str
) -> None:
    """With the name of the layer, before anything is trained."""
    made(stage(DENSE | {"train": {"epochs": 0, "lr": 0.01}}, "dense", model=model))
    made(stage(DENSE | {"train": {"epochs": 0, "lr": 0.01}}, "teacher", model=teacher))
    held = {
        "set": "cardinality",
        "tensors": "1.weight" if model in ("wide", "overwritten") else "head.weight",
        "rate": 2,
    }
    task = stage(spec(**inside) | {"constraints": [held]}, "after", "dense", model=model)
    task = task.model_copy(update={"teacher": Parent(name="teacher", key="teacher")})
    with pytest.raises(SpecError, match=f"^distill.{words}"):
        run_stage(task, quiet)


def test_torchs_own_attention_has_hidden_states_too(stage: MakeTask) -> None:
    """In a teacher as well, which would call no modules by itself."""
    made(stage(DENSE, "dense", model="hidden"))
    tensors = {"constraints": [{"set": "cardinality", "tensors": "*linear1.weight", "rate": 2}]}
    run(stage(spec(hidden=1, attention=1) | tensors, "after", "dense", model="hidden"))


def test_a_plan_refuses_names_of_nothing(stage: MakeTask) -> None:
    task = stage(spec(hidden={"layers": "BertLayer"}), "after", "dense")
    with pytest.raises(SpecError, match=r"^distill\.hidden: no module is a 'BertLayer'"):
        check(task.spec)


def test_keys_of_what_distils_outputs_stay(stage: MakeTask) -> None:
    """And each of the new settings is in them."""
    task = stage(spec(temperature=3.0), "after", "dense")
    assert key_material(task.spec, "", [])["spec"]["distill"] == {"weight": 1.0, "temperature": 3.0}
    task = stage(spec(hidden=2, attention={"modules": "a"}, maps=1.5), "after", "dense")
    found = key_material(task.spec, "", [])["spec"]["distill"]
    assert found == {"weight": 1.0, "hidden": {"weight": 2.0}, "attention": {"modules": "a"}, "maps": 1.5}
    assert task.spec == parse(task.spec.model_dump(mode="json"))
