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
    "digits_cnn": "fdf4bc4cdd0a01a812dc59a991c340c9b6603d0056635a0bd6f0ead1ca77fb9d",
    "lenet5": "855fe2d9120eeecf1f7dc5ce87d4b0838bc4bf66d43ff20bccd4806c2a6d4936",
    "resnet20": "acd5a5e19fd72b28b9d9c72fa8b5061d34234f90fe04ac4d21ce32a1d58cbb66",
    "resnet32": "8c61e25c481a322f9eb0e0661d9db6c4d5717eff7684214d4320c4160dcf9cbf",
    "resnet56": "966d008c05caffbc70df70c1771c539cbe546ec76a3379995d5dab39c8624040",
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
    """Hashes of what makes each network of a table: its line, and all functions and classes that it goes through."""
    text = file.read_text(encoding="utf-8")
    tree = ast.parse(text)
    parts = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    return {
        name: sha256(canonical([ast.get_source_segment(text, node) for node in (made, *_through(made, parts))]))
        for name, made in _lines(tree)
    }


def _lines(tree: ast.Module) -> Iterator[tuple[str, ast.expr]]:
    for node in tree.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == TABLE:
            assert isinstance(node.value, ast.Dict)
            for key, value in zip(node.value.keys, node.value.values, strict=True):
                if isinstance(key, ast.Constant) and isinstance(key.value, str):
                    yield key.value, value


def _through(made: ast.AST, parts: Mapping[str, ast.AST]) -> list[ast.AST]:
    """The definitions that some code names, and those that these name, in the order of the file."""
    found: set[str] = set()
    waiting = [made]
    while waiting:
        names = {node.id for node in ast.walk(waiting.pop()) if isinstance(node, ast.Name)}
        new = (names & parts.keys()) - found
        found |= new
        waiting += [parts[name] for name in new]
    return [part for name, part in parts.items() if name in found]
