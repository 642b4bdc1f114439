"""`--set`: several behind one, where CONFIG stands, and what the settings become."""

from __future__ import annotations

from pathlib import Path

import pytest

from dualprune.pipeline.cli import main as cli
from dualprune.pipeline.config.load import load
from dualprune.pipeline.config.overrides import spread
from dualprune.pipeline.output import BAD_INPUT
from tests.pipeline.common import config


@pytest.mark.parametrize(
    "arguments",
    [
        "run FILE --set seed=1 batch=32",
        "run --set seed=1 batch=32 FILE",
        "run --set seed=1 batch=32 FILE --json",
        "run --set seed=1 batch=32 --json FILE",
        "run --set seed=1 --set batch=32 FILE",
        "run --set=seed=1 batch=32 FILE",
        "run FILE --set seed=1 --json --set batch=32",
        "run --set seed=1 batch=32 -- FILE",
        "plan --set seed=1 FILE --set batch=32",
        "store gc FILE --set seed=1 batch=32 --yes",
        "submit --set seed=1 batch=32 FILE --address http://head:8265",
    ],
)
@pytest.mark.parametrize("file", ["digits", "sweep/lr=0.1.yaml"])
def test_several_settings_may_follow_one_set(arguments: str, file: str) -> None:
    """And CONFIG may stand before or behind them."""
    options = cli._parser().parse_args(spread(arguments.replace("FILE", file).split()))
    assert options.set == ["seed=1", "batch=32"]
    assert (options.configs if "gc" in arguments else [options.config]) == [file]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("run digits seed=1", "unrecognized arguments: seed=1"),
        ("run --set seed=1 digits batch=32", "unrecognized arguments: batch=32"),
        ("run digits --set", "expected one argument"),
        ("run --set seed=1 batch=32", "required: CONFIG"),
    ],
)
def test_what_no_set_stands_before_is_refused(arguments: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A setting is not taken for anything else."""
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments.split())
    assert ended.value.code == BAD_INPUT
    assert words in capsys.readouterr().err


def test_values_are_read_as_in_a_file(tmp_path: Path) -> None:
    """`010` is ten; a stage is named by its number in brackets too, as messages name it."""
    settings, _ = load(str(config(tmp_path)), ["seed=010", "batch=0x20", "stages[0].seed=0o10", "name=2024-01-01"])
    assert [stage.spec.seed for stage in settings.stages] == [8, 10, 10, 10]
    assert {stage.spec.batch for stage in settings.stages} == {32}
    assert settings.top.name == "2024-01-01"


def test_several_settings_reach_a_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All of them, from the command line itself."""
    assert cli.main(["plan", "--set", "batch=0", "seed=1:30", str(config(tmp_path))]) == BAD_INPUT
    told = capsys.readouterr().err
    assert "--set batch=0: batch: must be greater than or equal to 1, not 0" in told
    assert "--set seed=1:30: seed: must be a valid integer, not '1:30'" in told
