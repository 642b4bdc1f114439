"""The examples of the library's page run as they stand, and end pruned."""

from __future__ import annotations

import os
import re
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

import dualprune
from tests.processes import ROOT
from tests.running import Running

PAGE = ROOT / "stages" / "library" / "README.md"
NEEDS = {"The Trainer of transformers": ("transformers", "accelerate"), "Lightning": ("lightning",)}
"""What else has to be installed for an example."""

SMALL = """
name: small
cluster: {workers: 1}
monitor: {wandb: disabled}
model: {name: digits_cnn}
data: {source: digits}
stages: [{name: dense, kind: train, train: {epochs: 1, lr: 0.004}}]
"""


def examples() -> dict[str, str]:
    """The page's code by the heading above it."""
    text = PAGE.read_text()
    return {
        re.findall(r"^## (.*)$", text[: found.start()], re.MULTILINE)[-1]: found[1]
        for found in re.finditer(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    }


def example(title: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Run an example in an empty folder; what it defined."""
    missing = [name for name in NEEDS.get(title, ()) if find_spec(name) is None]
    if missing:
        pytest.skip(f"{' and '.join(missing)} not installed")
    monkeypatch.chdir(tmp_path)
    found: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(examples()[title], f"{PAGE}: {title}", "exec"), found)
    return found


def test_a_smaller_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It computes the same, with half of the channels, and is read back."""
    found = example("A network that is smaller", tmp_path, monkeypatch)
    assert found["small"][0].out_channels == 8
    assert torch.allclose(found["small"](found["images"]), found["model"](found["images"]), atol=1e-5)
    saved = torch.load(tmp_path / "small.pt", weights_only=True)
    again = dualprune.Structure.model_validate_json(saved["structure"]).apply(found["model"])
    again.load_state_dict(saved["weights"])
    assert torch.equal(again(found["images"]), found["small"](found["images"]))


def test_a_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It learns something hard to learn with a tenth of the weights."""
    found = example("Your own loop", tmp_path, monkeypatch)
    pruner = found["pruner"]
    assert sum(int(mask.sum()) for mask in pruner.masks.values()) == (20 * 64 + 64 * 2) // 10
    right = found["model"](found["inputs"]).argmax(1) == found["labels"]
    assert float(right.float().mean()) > 0.8


def test_a_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is loaded is what was saved."""
    found = example("Going on after a kill", tmp_path, monkeypatch)
    assert found["pruner"].updates == 1
    for name, values in found["pruner"].state_dict()["tensors"].items():
        for key, value in values.items():
            assert torch.equal(value, found["saved"]["pruner"]["tensors"][name][key])


def test_sharded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_rank: None) -> None:
    found = example("Many ranks", tmp_path, monkeypatch)
    assert found["pruner"].rate == pytest.approx(4, rel=0.01)
    assert set(torch.load(tmp_path / "pruner.pt", weights_only=True)["tensors"]) == {"0.weight", "2.weight"}


def test_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a training that goes on from a checkpoint, in ADMM or after it, ends with the same bits."""
    found = example("The Trainer of transformers", tmp_path, monkeypatch)
    import transformers

    callback, model = found["callback"], found["model"]
    assert callback.pruner.rate == pytest.approx(2)
    assert [row["step"] for row in callback.history] == [4, 8, 12]
    assert "pruning/projected" in callback.history[-1]
    for step in (8, 16):
        again = transformers.BertForSequenceClassification(found["config"])
        resumed = dualprune.TransformersCallback(**callback.arguments, every=4, updates=3)
        trainer = transformers.Trainer(again, found["arguments"], train_dataset=found["data"], callbacks=[resumed])
        trainer.train(resume_from_checkpoint=f"trainer/checkpoint-{step}")
        assert [row["step"] for row in resumed.history] == ([12] if step == 8 else [])
        assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))
    os.remove("trainer/checkpoint-16/dualprune.pt")
    with pytest.raises(FileNotFoundError, match=r"goes on from step 16, and there is no dualprune\.pt in trainer"):
        trainer.train(resume_from_checkpoint="trainer/checkpoint-16")
    short = transformers.TrainingArguments("trainer", max_steps=11, report_to=[], use_cpu=True)
    with pytest.raises(ValueError, match="3 updates, one every 4 steps, take 12 steps, and this training has 11"):
        transformers.Trainer(again, short, train_dataset=found["data"], callbacks=[resumed]).train()


def test_lightning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And its checkpoint holds the pruner's state, from which a longer training goes on with what is pruned at zero."""
    found = example("Lightning", tmp_path, monkeypatch)
    import lightning

    callback = found["callback"]
    assert callback.pruner.rate == pytest.approx(8)
    assert [row["step"] for row in callback.history] == [4, 8, 12, 16]
    resumed = dualprune.LightningCallback(**callback.arguments, every=4, updates=4)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = lightning.Trainer(max_epochs=6, callbacks=[resumed], accelerator="cpu", **quiet)
    trainer.fit(again := found["Classifier"](), found["data"], ckpt_path="lightning.ckpt")
    assert trainer.global_step == 48
    assert resumed.history == []
    for name, mask in callback.pruner.masks.items():
        assert torch.equal(again.get_parameter(name) != 0, mask)


@pytest.mark.slow
def test_a_configuration(tmp_path: Path) -> None:
    """In a process of its own, as a script; run twice in it, and once more in another, it trains nothing again."""
    code = examples()["Configurations and finished networks"]
    script = tmp_path / "script.py"
    script.write_text(f"{code}\nprint(dualprune.run('small.yaml', quiet=True)['dense'].state)\n")
    (tmp_path / "small.yaml").write_text(SMALL)
    for state in ("done", "cached"):
        with Running(tmp_path, program=("script.py",)) as running:
            exit_code, lines = running.end()
        assert exit_code == 0, "\n".join(lines)
        network = dualprune.load(str(tmp_path / "runs"), stage="half")
        assert lines[-3].split()[0] == state
        assert dualprune.load(str(tmp_path / lines[-3].split()[2])).state_dict().keys() == network.state_dict().keys()
        assert sum(int(p.count_nonzero()) for n, p in network.named_parameters() if "weight" in n) == 71568 // 2
        assert lines[-2:] == ["torch.Size([1, 10])", state]


@pytest.mark.parametrize(
    ("package", "module", "name"),
    [("transformers", "huggingface", "TransformersCallback"), ("lightning", "lightning", "LightningCallback")],
)
def test_what_is_not_installed_is_told(package: str, module: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With how to get it."""
    for missing in (package, "pytorch_lightning"):
        monkeypatch.setitem(sys.modules, missing, None)  # type: ignore[arg-type]
    monkeypatch.delitem(sys.modules, f"dualprune.stages.library.{module}", raising=False)
    with pytest.raises(ModuleNotFoundError, match=rf"not installed: pip install 'dualprune\[{package}\]'$"):
        getattr(dualprune, name)
