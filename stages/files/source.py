"""A user's own Python: imported by `package.module:name`, its source hashed, and its lines told in errors."""

from __future__ import annotations

import ast
import importlib
import sys
import sysconfig
import tempfile
import traceback
from collections.abc import Iterator, Mapping
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from dualprune.stages.files.folder import canonical, sha256

_INSTALLED = tuple({f"{path}/" for name, path in sysconfig.get_paths().items() if name.endswith(("stdlib", "lib"))})


_PLACED: dict[str, tempfile.TemporaryDirectory[str]] = {}
"""Folders that this process has put modules into; they go when it ends."""


class SourceError(ValueError):
    """A name that stands for no object of a user's module, or a module that can't be imported, and why."""


def load(name: str) -> Any:
    """The object that `package.module:name` names; the module is imported. Raises SourceError."""
    module, _, attribute = name.partition(":")
    if not module or not attribute.isidentifier():
        raise SourceError(f"{name!r} is not of the form package.module:name")
    try:
        found = importlib.import_module(module)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name and f"{module}.".startswith(f"{error.name}."):
            raise SourceError(_missing(error.name)) from None
        raise SourceError(f"importing {module} raised {described(error)}") from error
    if not hasattr(found, attribute):
        there = [
            key
            for key, value in vars(found).items()
            if callable(value) and not key.startswith("_") and getattr(value, "__module__", "") == module
        ]
        raise SourceError(f"{module} ({found.__file__}) has no {attribute}; it has {', '.join(there[:8]) or 'nothing'}")
    return getattr(found, attribute)


def _missing(module: str) -> str:
    return f"there is no module {module}, neither beside the configuration nor where Python looks for modules"


def described(error: BaseException) -> str:
    """An error in a line, with the line of a user's own that it comes from."""
    where = line_of(error)
    return f"{type(error).__name__}: {error}" + (f" (at {where})" if where else "")


def line_of(error: BaseException) -> str | None:
    """`FILE:LINE: source` of the innermost line that a user wrote; None if there is none."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}: {(error.text or '').strip()}"
    own = Path(__file__).parents[2]
    lines = traceback.extract_tb(error.__traceback__)
    theirs = [line for line in lines if not installed(line.filename) and own not in Path(line.filename).parents]
    return f"{theirs[-1].filename}:{theirs[-1].lineno}: {theirs[-1].line}" if theirs else None


def installed(file: str) -> bool:
    """Whether a file is an installed library's, or Python's."""
    parts = Path(file).parts
    return file.startswith(("<", *_INSTALLED)) or "site-packages" in parts or "dist-packages" in parts


def source_digest(module: str) -> str:
    """The sha256 of a module's files, by `files`. Raises SourceError."""
    return sha256(canonical(sorted((path, sha256(data)) for path, data in files(module).items())))


def unchanged(name: str, digest: str | None) -> None:
    """Raise SourceError where the code of `package.module:name` here is not that of a digest."""
    if source_digest(name.partition(":")[0]) != digest:
        text = f"the code of {name} here is not the code that its stage was planned with"
        raise SourceError(f"{text}: it changed meanwhile, or another module of that name is found")


def files(module: str) -> dict[str, bytes]:
    """A module's file and the files beside it that it imports, directly or through others, by path.

    Beside it is what lies in the folder that it is imported from; of an installed module, its own package alone.
    Nothing is imported: what is imported under computed names is not seen. Raises SourceError.
    """
    root, package = _root(module)
    found: dict[str, bytes] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if package is not None and name.split(".")[0] != package:
            continue
        for file in _files(root, name):
            path = str(file.relative_to(root))
            if path not in found:
                found[path] = file.read_bytes()
                waiting += _imported(found[path], file.relative_to(root))
    if not found:
        raise SourceError(f"{module} has no source file in {root}")
    return found


def travelling(module: str) -> dict[str, bytes]:
    """The files of a module that has to be taken along to other machines; none of an installed one, which is there."""
    return {} if _root(module)[1] is not None else files(module)


def place(code: Mapping[str, bytes]) -> None:
    """Let this process import modules from their files, by path, behind all others. Once for the same files."""
    name = sha256(canonical(sorted((path, sha256(data)) for path, data in code.items())))
    if not code or name in _PLACED:
        return
    _PLACED[name] = tempfile.TemporaryDirectory(prefix="dualprune-code-")
    folder = Path(_PLACED[name].name)
    place_in(folder, code)
    importable(folder)


def place_in(folder: Path, code: Mapping[str, bytes]) -> None:
    """Write modules' files, by path, into a folder."""
    for path, data in code.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)


def importable(folder: Path) -> None:
    """Let this process import what lies in a folder, behind all that it finds elsewhere."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
        importlib.invalidate_caches()


def _root(module: str) -> tuple[Path, str | None]:
    """The folder that a module is imported from; with its top package where that folder holds others' too."""
    top = module.split(".")[0]
    found = PathFinder.find_spec(top)
    if found is None:
        raise SourceError(_missing(top))
    places = list(found.submodule_search_locations or [])
    if not places and found.origin is None:
        raise SourceError(f"{module} has no source file")
    root = Path(places[0] if places else str(found.origin)).parent
    return root, top if installed(f"{root}/") else None


def _files(root: Path, name: str) -> Iterator[Path]:
    """The files that importing a module by its name runs: its packages' and its own."""
    parts = name.split(".")
    for length in range(1, len(parts) + 1):
        place = root.joinpath(*parts[:length])
        for file in (place.with_name(f"{place.name}.py"), place / "__init__.py"):
            if file.is_file():
                yield file


def _imported(source: bytes, path: Path) -> list[str]:
    """Names that a file imports, absolute; a name from a module may be a module in it."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return []  # whoever imports it is told
    names: list[str] = []
    package = path.parent.parts
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) - node.level + 1]] if node.level else []
            base += [node.module] if node.module else []
            names += [".".join([*base, alias.name]) for alias in node.names if alias.name != "*"] or [".".join(base)]
    return names
