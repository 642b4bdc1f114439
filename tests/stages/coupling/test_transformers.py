"""Heads and hidden units of transformers by class, and of timm's: found, cut at random, and exact."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from tests.stages.coupling.check import exact

WORDS = {"vocab_size": 100}
BERT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
DISTIL = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48}
T5 = {"d_model": 32, "num_layers": 2, "num_heads": 4, "d_kv": 8, "d_ff": 48}
CLASSES: dict[str, dict[str, Any]] = {
    "BertForSequenceClassification": {**WORDS, **BERT},
    "RobertaForSequenceClassification": {**WORDS, **BERT},
    "DistilBertForSequenceClassification": {**WORDS, **DISTIL},
    "LlamaForCausalLM": {**WORDS, **BERT, "num_key_value_heads": 2},
    "T5EncoderModel": {**WORDS, **T5},
    "ViTForImageClassification": {**BERT, "image_size": 16, "patch_size": 8},
}
HEADS = {"LlamaForCausalLM": [2, 2], "T5EncoderModel": [4]}
"""Llama's queries share heads of keys and values, which go with all that ask them; T5's layers share biases by head."""


@pytest.mark.parametrize("name", CLASSES)
def test_heads_by_class(name: str) -> None:
    transformers = pytest.importorskip("transformers")
    kind = getattr(transformers, name)
    torch.manual_seed(0)
    network = kind(kind.config_class(**CLASSES[name]))
    given = {"input_ids": torch.randint(5, 99, (2, 7)), "attention_mask": torch.ones(2, 7, dtype=torch.long)}
    if name.startswith("ViT"):
        given = {"pixel_values": torch.randn(2, 3, 16, 16)}
    found = exact(network, **given)
    heads = [space.size for space in found.spaces if space.heads]
    assert heads == HEADS.get(name, [4, 4])
    assert 48 in [space.size for space in found.spaces]
    assert not found.coupling.unknown


def test_gpt2_keeps_its_heads_and_loses_hidden_units() -> None:
    """One layer makes its queries, keys and values, which its code divides by a width that it does not keep alone."""
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=100)
    found = exact(transformers.GPT2LMHeadModel(config), input_ids=torch.randint(5, 99, (2, 7)))
    assert [space.size for space in found.spaces if not space.heads] == [128] * 2
    heads = [space.size for space in found.spaces if space.heads]
    assert heads == [4] * 2 or sum("c_attn" in name for name in found.refused) == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["test_vit", "resnet10t", "mobilenetv3_small_050", "test_convnext"])
def test_networks_of_timm(name: str) -> None:
    timm = pytest.importorskip("timm")
    if name not in timm.list_models():
        pytest.skip(f"this timm has no {name}")
    network: nn.Module = timm.create_model(name, num_classes=10)
    side = timm.get_pretrained_cfg(name).input_size[1] if "vit" in name else 64
    found = exact(network, torch.randn(2, 3, side, side))
    assert not found.refused
    assert any(space.heads for space in found.spaces) == ("vit" in name)
