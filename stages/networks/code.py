"""The code that a network is built by, as a hash: changed code is another network, and its stages are run anew.

A user's own is hashed by its files (stages.files.source). Of a built-in one it is what makes it in `builtin.py`, and
None while that is what it was when keys began to say it, so that older keys stay. Nothing is imported.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

from dualprune.stages.files import source
from dualprune.stages.files.folder import canonical, sha256
from dualprune.stages.settings.base import SpecError
from dualprune.stages.settings.training import Model

BUILTIN = Path(__file__).with_name("builtin.py")
TABLE = "MODELS"
FIRST: Mapping[str, str] = {
    "digits_cnn": "cefb38c836f102a8a27a3961f73f7e67fa2362d174050d6afcccc237aba4aedc",
    "lenet5": "c989147bba22805b7b2e8357e20c7638c915f29abda995b23216055bed09b5f6",
    "resnet20": "ee1cb7aa2a8f4e785ee55024fe1e7adc8b3cfe0efa855c5c48352ae8ff4b06c2",
    "resnet32": "09d4fcbf7df484fe63d8b0a4c21c1dbedfd32f63d22c8e763e2f0639de520158",
    "resnet56": "370440858c63165307fe374a48bb530d945e28676a3a3434a4467fa2b4f14b9c",
}
"""Hashes of the networks that older keys know by their names alone. They stay as they are when the code changes."""


def written_out(settings: Model) -> Model:
    """The settings with what they name on this machine alone in its place: a folder of transformers by the
    configuration in it. Raises SpecError."""
    where = settings.folder
    if where is None:
        return settings
    file = Path(where)
    file = file / "config.json" if file.is_dir() else file
    try:
        config = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        text = f"{where} is no folder with a config.json, nor such a file: {error}"
        raise SpecError([(("model", "args", "config"), text)]) from None
    return settings.model_copy(update={"args": {**settings.args, "config": config}})


def source_of(settings: Model) -> str | None:
    """What `Model.source` is for a network, on this machine. Raises SpecError for a module that is not there."""
    if settings.own is not None:
        try:
            return source.source_digest(settings.own)
        except source.SourceError as error:
            raise SpecError([(("model", "name"), str(error))]) from error
    found = built_in().get(settings.name)
    return None if found == FIRST.get(settings.name) else found


def unchanged(settings: Model) -> None:
    """Raise SpecError for a network whose code here is not the one that its stage was planned with."""
    if settings.own is None:
        if source_of(settings) != settings.source:
            raise SpecError([(("model", "name"), f"{settings.name} is built otherwise here than where it was planned")])
        return
    try:
        source.unchanged(settings.name, settings.source)
    except source.SourceError as error:
        raise SpecError([(("model", "name"), str(error))]) from error


@cache
def built_in(file: Path = BUILTIN) -> Mapping[str, str]:
    """Hashes of what makes each network of a table: its line, and all functions, classes and values of the module that
    it goes through. Comments, docstrings and how lines are broken are no part of it."""
    tree = _Undocumented().visit(ast.parse(file.read_text(encoding="utf-8")))
    parts = {name: node for node in tree.body for name in _defined(node)}
    return {
        name: sha256(canonical([ast.unparse(node) for node in (made, *_through(made, parts))]))
        for name, made in _lines(tree)
    }


class _Undocumented(ast.NodeTransformer):
    """Takes out text that stands alone: docstrings, and what is said of values below them."""

    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        text = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if text else node


def _defined(node: ast.stmt) -> list[str]:
    """The names that a statement of a module gives to a function, a class or a value."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [target.id for target in targets if isinstance(target, ast.Name)]


def _lines(tree: ast.Module) -> Iterator[tuple[str, ast.expr]]:
    for node in tree.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == TABLE:
            assert isinstance(node.value, ast.Dict)
            for key, value in zip(node.value.keys, node.value.values, strict=True):
                if isinstance(key, ast.Constant) and isinstance(key.value, str):
                    yield key.value, value


def _through(made: ast.AST, parts: Mapping[str, ast.AST]) -> list[ast.AST]:
    """The definitions that some code names, decorators too, and those that these name, in the order of the file."""
    found: set[str] = set()
    waiting = [made]
    while waiting:
        names = {node.id for node in ast.walk(waiting.pop()) if isinstance(node, ast.Name)}
        new = (names & parts.keys()) - found
        found |= new
        waiting += [parts[name] for name in new]
    return [part for name, part in parts.items() if name in found]
