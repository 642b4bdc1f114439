"""The README's examples of configurations are sound, and mean what is said beside them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dualprune.pipeline.config.load import load
from dualprune.pipeline.dag import trained
from dualprune.stages.kinds.constrained import check

README = Path(__file__).parents[3] / "README.md"
HEAD = """
name: mine
model: {name: digits_cnn}
data: {source: digits}
stages:
  - {name: dense, kind: train, train: {epochs: 1, lr: 0.1}}
"""


@pytest.fixture
def examples() -> list[str]:
    """What stands between the fences: a whole file, more stages for it, twice, and entries that are several."""
    found = re.findall(r"```yaml\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(found) == 4
    return found


def test_the_first_configuration_is_sound(examples: list[str], tmp_path: Path) -> None:
    """With the stages that are shown after it, too."""
    (tmp_path / "mine.yaml").write_text(examples[0] + examples[1] + examples[2])
    config, _ = load(str(tmp_path / "mine.yaml"))
    assert [(stage.name, stage.parents) for stage in config.stages] == [
        ("dense", ()),
        ("small", ("dense",)),
        ("half", ("dense",)),
        ("faster", ("half",)),
        ("quantized", ("small",)),
    ]


def test_ladders_leave_what_their_names_say(examples: list[str], tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(HEAD + examples[3])
    config, _ = load(str(tmp_path / "mine.yaml"))
    specs = {stage.name: trained(stage.spec) for stage in config.stages}
    assert {"prune-25x", "beam-30x", "found", "best"} <= set(specs)
    for name, spec in specs.items():
        if name.endswith("x") and spec is not None:
            assert check(spec).rate == pytest.approx(float(name.rpartition("-")[2][:-1]), rel=0.02), name
