"""Networks by name: libraries' and users' own."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dualprune.pipeline.blame import origin
from dualprune.stages.files import source
from dualprune.stages.networks import builtin, code
from dualprune.stages.networks.build import build_model, parameters_of
from dualprune.stages.networks.code import source_of, unchanged, written_out
from dualprune.stages.networks.structure import Structure, load
from dualprune.stages.networks.zoo import MAKERS
from dualprune.stages.settings.base import SpecError
from dualprune.stages.settings.training import LIBRARIES, Model

BERT = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8, "vocab_size": 11}


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is importable, with a module that imports one beside it."""
    folder = tmp_path / "own"
    (folder / "zoo_parts").mkdir(parents=True)
    (folder / "zoo_parts" / "blocks.py").write_text("from torch import nn\nblock = nn.Linear\n")
    (folder / "zoo_net.py").write_text(
        "from torch import nn\nfrom zoo_parts.blocks import block\n\n\n"
        "def small(width=4, **more):\n    return nn.Sequential(block(3, width), nn.ReLU(), block(width, 2))\n\n\n"
        "def turning():\n    net = nn.Linear(2, 2)\n    net.turn = nn.Parameter(net.weight.cfloat())\n"
        "    return net\n\n\n"
        "def wide():\n    net = nn.Linear(2, 2)\n    net.register_buffer('turn', net.weight.detach().cdouble())\n"
        "    return net\n\n\n"
        "def broken():\n    raise RuntimeError('no such width')\n\n\ndef text():\n    return 'net'\n"
    )
    monkeypatch.syspath_prepend(str(folder))
    for name in [name for name in sys.modules if name.startswith("zoo_")]:
        monkeypatch.delitem(sys.modules, name)
    return folder


def problems(settings: Model) -> str:
    """What is wrong with a network that can't be built."""
    with pytest.raises(SpecError) as caught:
        build_model(settings, device="meta")
    return str(caught.value)


def test_the_tables_agree() -> None:
    """Settings know the libraries without importing them."""
    assert set(MAKERS) == set(LIBRARIES)


@pytest.mark.parametrize(
    ("name", "args", "layer"),
    [
        ("torchvision:squeezenet1_0", {}, "classifier.1.weight"),
        ("torchvision:mobilenet_v3_small", {"dropout": 0.1}, "classifier.3.weight"),
        ("timm:efficientnet_lite0", {}, "classifier.weight"),
        ("timm:resnet10t", {"in_chans": 1}, "fc.weight"),
        ("torchvision:regnet_x_400mf", {}, "fc.weight"),  # computes with tensors as it is built
        ("transformers:BertForSequenceClassification", BERT, "classifier.weight"),
    ],
)
def test_a_librarys_network_has_as_many_outputs_as_asked_for(name: str, args: dict[str, Any], layer: str) -> None:
    """And what else it is given."""
    pytest.importorskip(name.partition(":")[0])
    assert parameters_of(Model(name=name, args=args, classes=7))[layer].shape[0] == 7


def test_a_network_that_goes_by_its_versions_is_remade() -> None:
    """From its tensors alone, as artefacts have them."""
    settings = Model(name="torchvision:mnasnet0_5", classes=3)
    tensors = dict(build_model(settings).state_dict())
    network = load(build_model(settings), Structure(), tensors)
    assert all(torch.equal(tensors[name], tensor) for name, tensor in network.state_dict().items())


def test_arguments_reach_the_network(own: Path) -> None:
    """And make it another one: settings with other arguments are not the same."""
    narrow, wide = (Model(name="zoo_net:small", args={"width": width}) for width in (4, 6))
    assert narrow != wide
    assert parameters_of(narrow)["0.weight"].shape == (4, 3)
    assert parameters_of(wide)["0.weight"].shape == (6, 3)


def test_a_network_of_ones_own_has_the_bits_of_a_built_in_one(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same function under both names."""
    network = source.load("zoo_net:small")
    monkeypatch.setitem(builtin.MODELS, "small", lambda classes: network())
    found = []
    for name in ("small", "zoo_net:small"):
        torch.manual_seed(3)
        found.append(build_model(Model(name=name)).state_dict())
    assert all(torch.equal(found[0][of], found[1][of]) for of in found[0])


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("torchvision:resnet51", "torchvision has no classification network 'resnet51'; did you mean resnet5"),
        ("torchvision:fcn_resnet50", "torchvision has no classification network 'fcn_resnet50'"),
        ("nets.of.nobody:net", "there is no module nets, neither beside the configuration nor where Python looks"),
        ("zoo_net:smal", "has no smal; it has small, turning, wide, broken, text"),
        ("zoo_net:text", "zoo_net:text returned str, and a torch.nn.Module is needed"),
        ("zoo_net:turning", "zoo_net:turning has complex parameters, which are not trained: turn; keep each as a real"),
        (
            "zoo_net:wide",
            "zoo_net:wide has complex numbers of a type that can't be saved: turn; keep them as complex64",
        ),
        ("zoo_net:", "is not of the form package.module:name"),
        ("zoonet", "there is no model 'zoonet'; there are alexnet, digits_cnn"),
    ],
)
def test_what_is_not_there_is_told(own: Path, name: str, said: str) -> None:
    """With what there is."""
    assert said in problems(Model(name=name))


def test_a_library_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Is told with what to install."""
    for library, extra in (("timm", "timm"), ("transformers", "text")):
        monkeypatch.setitem(sys.modules, library, None)
        assert f"pip install 'dualprune[{extra}]'" in problems(Model(name=f"{library}:any"))


def test_errors_of_a_users_code_have_its_line(own: Path) -> None:
    """Of the function, and of the module's import."""
    with pytest.raises(SpecError) as caught:
        build_model(Model(name="zoo_net:broken"))
    assert "RuntimeError: no such width" in str(caught.value)
    assert (origin(caught.value) or "").startswith(f"{own}/zoo_net.py:22: raise RuntimeError")
    (own / "zoo_bad.py").write_text("import torch\n\n1 / 0\n")
    with pytest.raises(SpecError) as caught:
        build_model(Model(name="zoo_bad:net"))
    assert "ZeroDivisionError" in str(caught.value)
    assert f"{own}/zoo_bad.py:3" in f"{caught.value} {origin(caught.value)}"


def test_changed_code_is_another_network(own: Path) -> None:
    """Of the module itself and of one beside it that it imports; not of one that it does not."""
    settings = Model(name="zoo_net:small")
    first = source_of(settings)
    planned = settings.model_copy(update={"source": first})
    unchanged(planned)
    (own / "other.py").write_text("x = 1\n")
    assert source_of(settings) == first
    (own / "zoo_parts" / "blocks.py").write_text("from torch import nn\nblock = nn.Linear  # changed\n")
    assert source_of(settings) not in (None, first)
    with pytest.raises(SpecError, match="is not the code that its stage was planned with"):
        unchanged(planned)


def test_changed_code_of_a_built_in_network_is_noticed(tmp_path: Path) -> None:
    """Of what it goes through, and of nothing else in the file; as it is, older keys stay."""
    assert {name: source_of(Model(name=name)) for name in builtin.MODELS} == dict.fromkeys(builtin.MODELS)
    text = code.BUILTIN.read_text(encoding="utf-8")
    changed = tmp_path / "builtin.py"
    changed.write_text(text.replace("nn.Conv2d(1, 20, 5)", "nn.Conv2d(1, 20, 5, bias=False)"))
    now = code.built_in(changed)
    assert {name for name, digest in now.items() if digest != code.FIRST[name]} == {"lenet5"}
    changed = tmp_path / "other.py"
    changed.write_text(text.replace("nn.init.kaiming_normal_", "nn.init.xavier_normal_"))
    now = code.built_in(changed)
    assert {name for name, digest in now.items() if digest != code.FIRST[name]} == {"resnet20", "resnet32", "resnet56"}


TABLED = '''
from functools import lru_cache

WIDTH = 4
"""Of all."""
DEEP: int = 2
OTHER = 1


def named(build):
    """Nothing."""
    return build


@named
def small(classes):
    """Of one layer."""
    return WIDTH, classes


class Large:
    """Of many layers."""

    deep = DEEP
    """How many."""


MODELS: dict = {"small": small, "large": lambda classes: Large()}
'''


@pytest.mark.parametrize(
    ("before", "after", "changed"),
    [
        ("Of one layer", "Of a single layer", set()),
        ("How many", "Layers", set()),
        ('    """Of one layer."""', "    # of one layer", set()),
        ("return WIDTH, classes", "return (WIDTH,\n        classes)", set()),
        ("OTHER = 1", "OTHER = 2", set()),
        ("WIDTH = 4", "WIDTH = 5", {"small"}),
        ("DEEP: int = 2", "DEEP: int = 3", {"large"}),
        ("@named", "@lru_cache\n@named", {"small"}),
        ("    return build", "    return lru_cache(build)", {"small"}),
    ],
)
def test_code_is_what_is_run(tmp_path: Path, before: str, after: str, changed: set[str]) -> None:
    """Constants and decorators too; not what is said of it."""
    found = []
    for name, text in (("one.py", TABLED), ("other.py", TABLED.replace(before, after))):
        (tmp_path / name).write_text(text)
        found.append(code.built_in(tmp_path / name))
    assert before in TABLED
    assert {name for name in found[0] if found[0][name] != found[1][name]} == changed


def test_a_folder_of_transformers_is_written_out(tmp_path: Path) -> None:
    """What is in its config.json counts, not where it lies; arguments go before it."""
    pytest.importorskip("transformers")
    (tmp_path / "config.json").write_text(json.dumps({**BERT, "model_type": "bert", "vocab_size": 12}))
    settings = Model(name="transformers:BertModel", args={"config": str(tmp_path), "intermediate_size": 16})
    found = written_out(settings)
    assert found.args["config"] == {**BERT, "model_type": "bert", "vocab_size": 12}
    assert parameters_of(settings) == parameters_of(found)
    shapes = parameters_of(found)
    assert shapes["embeddings.word_embeddings.weight"].shape == (12, 8)
    assert shapes["encoder.layer.0.intermediate.dense.weight"].shape == (16, 8)
    with pytest.raises(SpecError, match=r"is no folder with a config\.json"):
        written_out(Model(name="transformers:BertModel", args={"config": str(tmp_path / "none")}))


def test_what_travels_is_what_lies_beside(own: Path, tmp_path: Path) -> None:
    """Not what is installed; what was placed can be imported."""
    files = source.travelling("zoo_net")
    assert set(files) == {"zoo_net.py", "zoo_parts/blocks.py"}
    assert source.travelling("torch.nn") == {}
    renamed = {path.replace("zoo_", "moved_"): data.replace(b"zoo_", b"moved_") for path, data in files.items()}
    source.place(renamed)
    assert isinstance(source.load("moved_net:small")(), nn.Module)
