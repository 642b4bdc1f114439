"""Which tensors constraints hold, as a table and as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dualprune.pipeline.cli import main as cli
from dualprune.pipeline.config.load import load
from dualprune.pipeline.config.problems import ConfigError
from dualprune.pipeline.output import DONE
from dualprune.pipeline.plan import make as planning
from dualprune.pipeline.reports import tensors
from dualprune.stages.networks import build
from dualprune.stages.networks.builtin import MODELS
from tests.pipeline.common import extended
from tests.pipeline.reports.test_plan import shown

ENTRIES = """\
- name: typed
  kind: prune
  parent: dense
  constraints:
    - {set: cardinality, layers: Linear, tensors: ["*", "!8.*"], rate: 4}
    - {set: filter, tensors: "[02].weight", keep: 0.5}
  admm: *admm
  retrain: *retrain
- name: shared
  kind: prune
  parent: dense
  constraints: [{set: cardinality, layers: [Conv2d, Linear], rate: 10, scope: global}]
  admm: *admm
  retrain: *retrain
- name: best
  kind: select
  parents: [typed, other]
- name: bits
  kind: quantize
  parent: dense
  constraints: [{set: levels, tensors: "8.*", bits: 3}]
  admm: *admm
"""


def test_json_has_each_constraints_tensors(tmp_path: Path) -> None:
    """By stage, in the order of the file, with what may stay; stages that constrain nothing are not there."""
    found = tensors.as_json(tensors.held(planning.make(*load(str(extended(tmp_path, ENTRIES))))[1]))
    assert json.loads(json.dumps(found)) == found
    assert set(found) == {"half", "v1.5-quarter", "other", "typed", "shared", "bits"}
    linear, filters = found["typed"]
    assert linear == {
        "set": "cardinality",
        "settings": {"rate": 4.0},
        "together": None,
        "tensors": [{"name": "6.weight", "shape": [128, 512], "size": 65536, "layer": "Linear", "most": 16384}],
    }
    assert [(one["name"], one["layer"], one["most"]) for one in filters["tensors"]] == [
        ("0.weight", "Conv2d", 72),
        ("2.weight", "Conv2d", 2304),
    ]
    (shared,) = found["shared"]
    assert shared["settings"] == {"rate": 10.0, "scope": "global"}
    assert shared["together"] == 7156
    assert [(one["name"], one["most"]) for one in shared["tensors"]] == [
        (name, None) for name in ("0.weight", "2.weight", "6.weight", "8.weight")
    ]
    assert found["bits"][0]["tensors"][0]["most"] == 1280


def test_a_table_has_a_line_a_tensor(tmp_path: Path) -> None:
    lines = shown(tensors.as_table(tensors.held(planning.make(*load(str(extended(tmp_path, ENTRIES))))[1])))
    rows = [line.split() for line in lines]
    assert rows[0] == ["stage", "set", "tensor", "shape", "layer", "weights", "may", "stay"]
    of = [row for row in rows if row[0] == "typed"]
    assert " ".join(of[0]) == "typed cardinality: rate 4.0 6.weight 128 x 512 Linear 65,536 16,384"
    assert len(of) == 3
    of = [row for row in rows if row[0] == "shared"]
    assert " ".join(of[0]).endswith("0.weight 16 x 1 x 3 x 3 Conv2d 144")
    assert " ".join(of[-1]).endswith("all of these 71,568 7,156")


def test_the_command_prints_them_when_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(extended(tmp_path, ENTRIES))
    assert cli.main(["plan", file]) == DONE
    assert "6.weight" not in capsys.readouterr().out
    assert cli.main(["plan", file, "--tensors"]) == DONE
    assert "6.weight" in capsys.readouterr().out
    assert cli.main(["plan", file, "--tensors", "--json"]) == DONE
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [one["set"] for one in printed["tensors"]["typed"]] == ["cardinality", "filter"]
    assert cli.main(["plan", file, "--json"]) == DONE
    assert "tensors" not in json.loads(capsys.readouterr().out.splitlines()[-1])


def test_a_network_that_is_there_no_more_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan does not build those of stages that are done."""
    plan = planning.make(*load(str(extended(tmp_path, ENTRIES))))[1]
    monkeypatch.delitem(MODELS, "digits_cnn")
    for cached in (build._built, build.parameters_of):
        cached.cache_clear()
    with pytest.raises(ConfigError, match="there is no model 'digits_cnn'"):
        tensors.held(plan)
