"""Where to look into networks: layers and attention of transformers by themselves, all else by patterns."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from dualprune.stages.networks.edits import EDITS, Remove
from dualprune.stages.networks.inside import Inside, attention, hidden, places
from dualprune.stages.settings.base import SpecError
from dualprune.stages.settings.distill import Compared, Distill

FOUND = {
    "bert": ("bert.encoder.layer.{}", "attention"),
    "gpt2": ("transformer.h.{}", "attn"),
    "llama": ("model.layers.{}", "self_attn"),
    "timm": ("blocks.{}", "attn"),
    "torchvision": ("encoder.layers.encoder_layer_{}", "self_attention"),
    "torch": ("layers.{}", "self_attn"),
}


def network(name: str) -> nn.Module:
    """A transformer of two layers, without memory for its weights."""
    with torch.device("meta"):
        if name == "torch":
            return nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, batch_first=True), 2)
        if name == "torchvision":
            return torchvision.models.VisionTransformer(32, 16, 2, 2, 16, 32)
        if name == "timm":
            vit: nn.Module = pytest.importorskip("timm").create_model("vit_tiny_patch16_224", depth=2)
            return vit
        pytest.importorskip("transformers")
        library: Any = importlib.import_module("transformers")
        kinds = {"bert": "BertForSequenceClassification", "gpt2": "GPT2LMHeadModel", "llama": "LlamaForCausalLM"}
        kind = getattr(library, kinds[name])
        found: nn.Module = kind(kind.config_class(num_hidden_layers=2, vocab_size=8))
        return found


@pytest.mark.parametrize("name", FOUND)
def test_layers_and_attention_of_transformers_are_found(name: str) -> None:
    of, (layer, attends) = network(name), FOUND[name]
    layers = tuple(layer.format(n) for n in range(2))
    assert hidden(of, Compared()) == Inside((layers[0],), layers)
    assert attention(of, Compared()) == Inside((), tuple(f"{one}.{attends}" for one in layers))


def test_a_removed_layer_is_none() -> None:
    of = network("torch")
    EDITS["remove"].apply(Remove(module="layers.0"), of)
    assert hidden(of, Compared()) == Inside(("layers.1",), ("layers.1",))


NAMED = [
    ({"modules": "layers.?"}, ("layers.0", "layers.1")),
    ({"modules": ["layers.*", "!layers.1*", "!*.*.*"]}, ("layers.0",)),
    ({"layers": "MultiheadAttention"}, ("layers.0.self_attn", "layers.1.self_attn")),
    ({"layers": ["Linear"], "modules": "*.1.linear?"}, ("layers.1.linear1", "layers.1.linear2")),
]


@pytest.mark.parametrize(("settings", "found"), NAMED)
def test_modules_go_by_name_and_type(settings: dict[str, Any], found: tuple[str, ...]) -> None:
    assert hidden(network("torch"), Compared(**settings)) == Inside((), found)


WRONG = [
    ({"modules": "layer.?"}, "no module is called 'layer.\\?'; there are layers, layers.0, .* and 9 more"),
    ({"layers": "BertLayer"}, "no module is a 'BertLayer'; there are Dropout, "),
    ({"modules": "layers", "layers": "Linear"}, "no module is of these names and types"),
]


@pytest.mark.parametrize(("settings", "words"), WRONG)
def test_what_names_nothing_is_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError, match=f"^distill.attention: {words}"):
        places(network("torch"), Distill(weight=1, attention=Compared(**settings)))


def test_networks_without_attention_have_no_default() -> None:
    with pytest.raises(SpecError, match=r"^distill\.hidden: no list of layers has attention in them; name `modules`"):
        places(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), Distill.model_validate({"weight": 1, "hidden": 1}))
