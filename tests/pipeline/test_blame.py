"""Which line an error is blamed on."""

from __future__ import annotations

import json
import linecache
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from dualprune.pipeline.blame import note, origin
from dualprune.stages.data.format import DataError
from dualprune.stages.networks.layers import note_layer

HERE = Path(__file__)


def raised(call: Callable[[], Any]) -> BaseException:
    """What a call raises."""
    try:
        call()
    except Exception as error:  # noqa: BLE001 - all of them are asked for
        return error
    raise AssertionError("nothing was raised")


def module(name: str, file: Path, source: str) -> ModuleType:
    """A module of this name from this source, as if it were imported."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(source)
    linecache.checkcache()
    made = ModuleType(name)
    exec(compile(source, str(file), "exec"), made.__dict__)
    return made


def line(text: str) -> int:
    """Number of the first line of this file that has a text at its end."""
    return next(number for number, one in enumerate(HERE.read_text().splitlines(), 1) if one.endswith(text))


class Net(nn.Module):
    """Two layers that don't fit."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 5)
        self.second = nn.Sequential(nn.ReLU(), nn.Linear(6, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Fails in the second layer."""
        hidden = self.first(x)
        return self.second(hidden)  # the user's line


def test_the_innermost_line_of_the_users() -> None:
    """Not torch's, in which it was raised, and not the test's, which called."""
    found = origin(raised(lambda: Net()(torch.zeros(3, 4))))
    text = "return self.second(hidden)  # the user's line"
    assert found == f"{HERE}:{line(text)}: {text}"


def test_raised_by_the_user() -> None:
    """Also where a library called: the line that raised."""

    def wrong(_: object) -> None:
        raise KeyError("x")  # raised here

    text = 'raise KeyError("x")  # raised here'
    assert origin(raised(lambda: json.loads("{}", object_hook=wrong))) == f"{HERE}:{line(text)}: {text}"


def test_a_model_of_the_table_is_the_users(tmp_path: Path) -> None:
    """`stages/networks/builtin.py` is where users write theirs, wherever it lies on a worker."""
    file = tmp_path / "_ray_pkg_0123abcd" / "stages" / "models.py"
    models = module("dualprune.stages.networks.builtin", file, "def net(x):\n    return x.missing\n")
    engine = module(
        "dualprune.stages.engine.engine", tmp_path / "stages" / "engine.py", "def forward(net, x):\n    return net(x)\n"
    )
    assert origin(raised(lambda: engine.forward(models.net, 1))) == "stages/networks/builtin.py:2: return x.missing"


def test_what_was_sent_is_named_without_where_ray_put_it(tmp_path: Path) -> None:
    """The path is some machine's own."""
    file = tmp_path / "working_dir_files" / "_ray_pkg_0123abcd" / "mine.py"
    assert origin(raised(lambda: module("mine", file, "x = 1\nx.y\n"))) == "mine.py:2: x.y"


def test_installed_lines_are_nobodys(tmp_path: Path) -> None:
    """Of a plain library error without a user's line there is nothing to tell."""
    file = tmp_path / "site-packages" / "lib.py"
    lib = module("lib", file, "def f():\n    return 1 / 0\n")
    assert origin(without_the_tests(raised(lib.f))) is None


def without_the_tests(error: BaseException) -> BaseException:
    """The error as if it had begun in the code under test."""
    while error.__traceback__ is not None and error.__traceback__.tb_frame.f_code.co_filename == str(HERE):
        error.__traceback__ = error.__traceback__.tb_next
    return error


def test_our_own_mistake_is_our_line(tmp_path: Path) -> None:
    """Where no user's line is on the way; not where something else is known; not for what is raised on purpose."""
    source = "def f():\n    return None.x\ndef g():\n    raise ValueError('a batch is too large')\n"
    ours = module("dualprune.stages.somewhere", tmp_path / "somewhere.py", source)
    error = without_the_tests(raised(ours.f))
    assert origin(error) == "stages/somewhere.py:2: return None.x"
    error.__notes__ = ["in layer 6"]  # type: ignore[attr-defined]
    assert origin(error) is None
    assert origin(without_the_tests(raised(ours.g))) is None


def test_errors_of_our_own_kind_tell_of_their_cause() -> None:
    """And nothing of themselves."""

    def wrapped() -> None:
        try:
            int("x")  # the cause
        except ValueError as error:
            raise DataError("no such shard") from error

    def plain() -> None:
        raise DataError("no such shard")

    assert origin(raised(plain)) is None
    assert origin(raised(wrapped)) == f'{HERE}:{line("# the cause")}: int("x")  # the cause'


def test_notes_are_added_in_front() -> None:
    """The line first, then what else is known."""
    net = Net()
    error = raised(lambda: net(torch.zeros(3, 4)))
    note_layer(error, net)
    note(error)
    where, layer = error.__notes__  # type: ignore[attr-defined]
    assert where.startswith(f"at {HERE}:")
    assert layer == "in layer second.1, Linear(in_features=6, out_features=2, bias=True)"


def test_a_layer_without_a_line() -> None:
    """In a chain of ready-made layers no line is the user's: the layer is named."""
    net = nn.Sequential(nn.Linear(4, 5), nn.Linear(6, 2))
    error = raised(lambda: net(torch.zeros(3, 4)))
    note_layer(error, net)
    assert error.__notes__ == ["in layer 1, Linear(in_features=6, out_features=2, bias=True)"]  # type: ignore[attr-defined]


def test_no_layer_at_work() -> None:
    """Nothing is added then."""
    error = raised(lambda: nn.Linear(1, 1)(torch.zeros(1, 2)))
    note_layer(error, nn.Sequential(nn.ReLU()))
    assert not hasattr(error, "__notes__")


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 prints no notes")
def test_the_log_has_the_notes_too() -> None:
    """In the whole trace, by Python's own means."""
    import traceback

    error = raised(lambda: Net()(torch.zeros(3, 4)))
    note(error)
    assert "at " + str(HERE) in traceback.format_exception(error)[-1]
