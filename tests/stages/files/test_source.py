"""What users wrote, by `package.module:name`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from dualprune.stages.files.source import SourceError, load


@pytest.fixture(autouse=True)
def _theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours" / "__init__.py").write_text("")
    (tmp_path / "ours" / "inner.py").write_text("value = 7\n")
    (tmp_path / "ours" / "lacking.py").write_text("import there_is_no_such_module\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in sys.modules if name.partition(".")[0] == "ours"]:
        monkeypatch.delitem(sys.modules, name)


def test_it_is_found() -> None:
    assert load("ours.inner:value") == 7


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("ours.inner", "is no `package.module:name`"),
        (":value", "is no `package.module:name`"),
        ("outs.inner:value", "there is no module 'outs.inner'; put it beside the configuration, or install it"),
        ("ours.iner:value", "there is no module 'ours.iner'"),
        ("ours.inner:valu", "inner.py) has no 'valu'"),
    ],
)
def test_what_leads_nowhere_is_told(name: str, text: str) -> None:
    with pytest.raises(SourceError) as caught:
        load(name)
    assert text in str(caught.value)


def test_what_a_module_lacks_is_its_own_error() -> None:
    """Not that the module is not there."""
    with pytest.raises(ModuleNotFoundError, match="there_is_no_such_module"):
        load("ours.lacking:value")
