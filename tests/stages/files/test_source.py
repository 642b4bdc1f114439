"""A user's own Python: found by name, its errors told by line, and hashed with all that it imports from beside it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dualprune.stages.files.source import SourceError, load, source_digest

Write = Callable[[dict[str, str]], None]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """A function that writes modules into a folder that is imported from."""
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)

    def put(files: dict[str, str]) -> None:
        for name, text in files.items():
            file = tmp_path / f"{name}.py"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)

    yield put
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def test_an_object_is_found_by_its_name(write: Write) -> None:
    write({"own_pkg/inner": "def made(): return 3\n"})
    assert load("own_pkg.inner:made")() == 3


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("own_mod", "'own_mod' is not of the form package.module:name"),
        ("own_mod:", "is not of the form"),
        ("own_mod:a.b", "is not of the form"),
        (
            "no_such_own:made",
            "there is no module no_such_own, neither beside the configuration nor where Python looks for modules$",
        ),
        ("own_mod.inner:made", "there is no module own_mod.inner, |is not a package"),
        ("own_mod:other", r"own_mod \(.*own_mod.py\) has no other; it has made"),
        ("own_broken:made", r"importing own_broken raised ZeroDivisionError: .* \(at .*own_broken.py:2: x = 1 / 0\)"),
        ("own_syntax:made", r"importing own_syntax raised SyntaxError: .*own_syntax.py:1: def made\(:"),
        ("own_lacking:made", r"importing own_lacking raised ModuleNotFoundError: .*'no_such_lib'.*own_lacking.py:1"),
    ],
)
def test_what_can_not_be_loaded_is_told_with_its_line(write: Write, name: str, said: str) -> None:
    write(
        {
            "own_mod": "def made(): return 3\n",
            "own_broken": "\nx = 1 / 0\n",
            "own_syntax": "def made(:\n",
            "own_lacking": "import no_such_lib\n",
        }
    )
    with pytest.raises(SourceError, match=said):
        load(name)


FILES = {
    "own_pkg/__init__": "",
    "own_pkg/nets": "from . import parts\nfrom .more.deep import x\nimport json, torch\n",
    "own_pkg/parts": "import own_helper\n",
    "own_pkg/more/deep": "x = 3\n",
    "own_pkg/unused": "y = 4\n",
    "own_helper": "def help(): import own_late\n",
    "own_late": "z = 5\n",
}


def test_what_a_module_imports_from_beside_it_is_in_its_digest(write: Write) -> None:
    write(FILES)
    first = source_digest("own_pkg.nets")
    assert source_digest("own_pkg.nets") == first
    for name, text in FILES.items():
        write({name: f"{text}# changed\n"})
        assert (source_digest("own_pkg.nets") == first) == (name == "own_pkg/unused"), name
        write({name: text})
    assert source_digest("own_pkg.nets") == first


def test_a_digest_does_not_depend_on_where_the_folder_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "own_mod.py").write_text("x = 1\n")
        with monkeypatch.context() as patch:
            patch.syspath_prepend(str(tmp_path / folder))
            found.append(source_digest("own_mod"))
    assert found[0] == found[1]


def test_nothing_is_imported_and_installed_packages_are_hashed_alone(write: Write) -> None:
    write({"own_broken": "import torchvision\n1 / 0\n"})
    assert len(source_digest("own_broken")) == 64
    assert "own_broken" not in sys.modules
    assert len(source_digest("yaml.loader")) == 64


def test_no_module_has_no_digest() -> None:
    with pytest.raises(SourceError, match="there is no module no_such_own"):
        source_digest("no_such_own.nets")
