"""What is wrong with a configuration: collected by place, said all at once, in a user's words."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Callable, Mapping
from pathlib import Path as FilePath
from typing import Any, get_args

from pydantic import ValidationError

from dualprune.pipeline.config.yamlfile import Path
from dualprune.stages.kinds.table import KINDS
from dualprune.stages.settings.base import Settings, worded
from dualprune.stages.settings.sets import SETS

EXAMPLES = {
    "model": "{name: digits_cnn}",
    "data": "{source: digits}",
    "optimizer": "{name: sgd}",
    "constraints": '{set: cardinality, tensors: "*", rate: 4}',
    "admm": "{updates: 10, lr: 1e-3, rho: 1e-2}",
    "beam": "{pool: [15, 18], targets: [24, 30]}",
    **dict.fromkeys(("train", "retrain", "centroids"), "{epochs: 5, lr: 1e-3}"),
}
"""What can stand where a mapping is needed."""
LONGEST = 4000
"""Characters of a problem: lists of tensors are told as they are."""


def brief(text: str, most: int = 80) -> str:
    """A text of at most about `most` characters, whatever a user gave: a long one without its middle."""
    return text if len(text) <= most else f"{text[: most // 2]} ... {text[-(most // 4) :]}"


class ConfigError(ValueError):
    """What is wrong with a configuration: one line a problem, each with its place."""

    def __init__(self, path: str, problems: list[str]) -> None:
        self.problems = [brief(problem, LONGEST) for problem in dict.fromkeys(problems)]
        count = f"{len(self.problems)} problem{'s' if len(self.problems) > 1 else ''}"
        super().__init__(f"{path}: {count}\n" + "\n".join(f"  {problem}" for problem in self.problems))


def argued(check: Callable[[str], str]) -> Callable[[str], str]:
    """A check of a value that raises ValueError, as the type of an argument of the command line."""

    def checked(given: str) -> str:
        try:
            return check(given)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return checked


class Problems:
    """Collects what is wrong, by path within the file."""

    def __init__(self, file: str, lines: Mapping[Path, int], overrides: Mapping[Path, str]) -> None:
        self.file, self.lines, self.overrides = file, lines, overrides
        self.found: list[str] = []

    def add(self, path: Path, text: str) -> None:
        """Note a problem at a path."""
        self.found.append(f"{self.place(path)}: {text}")

    def place(self, path: Path) -> str:
        """`file.yaml:12: stages[2].rate`, from the deepest part of the path that the file has."""
        dotted = "".join(f"[{part}]" if isinstance(part, int) else f".{brief(part)}" for part in path).removeprefix(".")
        for override, said in reversed(list(self.overrides.items())):
            if path[: len(override)] == override or (path not in self.lines and override[: len(path)] == path):
                return f"{said}: {dotted}"
        for length in range(len(path), -1, -1):
            if path[:length] in self.lines:
                return f"{FilePath(self.file).name}:{self.lines[path[:length]]}: {dotted or 'the file'}"
        return dotted or "the file"

    def stop(self) -> None:
        """Raise ConfigError if anything was noted."""
        if self.found:
            raise ConfigError(self.file, self.found)


def _typed(entry: Any, path: Path) -> str | None:
    """What to do about a value of another type, `{}` where it is shown; None where there is nothing special to say."""
    kind, value = entry["type"], entry["input"]
    if kind == "string_type" and isinstance(value, bool | int | float):
        return "text is needed{}; put it in quotes"
    if kind == "string_pattern_mismatch" and path == ("name",):
        return "a name of up to 200 letters, digits, '.', '_' and '-' is needed"
    if kind in ("bool_type", "bool_parsing"):
        return "must be true or false"
    if kind == "float_type" and isinstance(value, str) and _is_number(value):
        return "must be a number{}; leave the quotes out"
    if kind == "list_type" and isinstance(value, int | float):
        return f"a list is needed{{}}; write [{value!r}]"
    if kind == "int_type" and isinstance(value, float) and value.is_integer():
        return f"must be a whole number{{}}; write {brief(str(int(value)))}"
    return None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def explained(error: ValidationError, model: type[Settings], also: tuple[str, ...] = ()) -> list[tuple[Path, str]]:
    """pydantic's errors in our words; `also` may stand at the model's top."""
    found = []
    for entry in error.errors(include_url=False):
        # What is wrong with a mapping's key itself is said at the key.
        path, text = _explained(entry, tuple(part for part in entry["loc"] if part != "[key]"), model, also)
        # pydantic names the chosen member of a union as a part of the path; the file has no such part.
        own = (part for n, part in enumerate(path) if not (n and isinstance(path[n - 1], int) and part in SETS))
        found.append((tuple(own), text))
    return found


def _explained(entry: Any, path: Path, model: type[Settings], also: tuple[str, ...]) -> tuple[Path, str]:
    """Where one error is, and what to say of it."""
    value, kind = entry["input"], entry["type"]
    shown = "" if isinstance(value, dict | list) else f", not {brief(repr(value))}"
    if kind == "extra_forbidden":
        return path, _unknown(path, model, also)
    if kind == "union_tag_invalid":
        return (*path, "set"), _no_set(entry["ctx"]["tag"], re.findall(r"\w+", entry["ctx"]["expected_tags"]))
    if kind == "union_tag_not_found":
        return (*path, "set"), "is missing"
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        last = next((part for part in reversed(path) if isinstance(part, str)), model.__name__.lower())
        example = EXAMPLES.get(last)
        return path, f"a mapping is needed{f', such as {example}' if example else ''}{shown}"
    text = _typed(entry, path)
    if text is None:
        return path, worded(entry, shown)
    return path, text.replace("{}", shown) if "{}" in text else text + shown


def _unknown(path: Path, model: type[Settings], also: tuple[str, ...]) -> str:
    """What to say of a setting that there is not."""
    kinds = [name for name, kind in KINDS.items() if path[0] in kind.settings.model_fields]
    if len(path) == 1 and kinds and model in [kind.settings for kind in KINDS.values()]:
        named = " and ".join(filter(None, (", ".join(kinds[:-1]), kinds[-1])))
        return f"belongs to {named} stages, and this is of another kind"
    known = [*_fields(model, path[:-1]), *(also if len(path) == 1 else ())]
    return f"unknown setting{like(str(path[-1]), known)}"


def _no_set(name: str, known: list[str]) -> str:
    """Why a set can't be had in a stage that knows others."""
    if name in SETS:
        return f"{brief(name)!r} is for quantize stages, and this is of another kind; there are {', '.join(known)}"
    return f"there is no set {brief(name)!r}{like(name, known)}"


def _fields(model: Any, path: Path) -> list[str]:
    """The settings that there are at a path; of a constraint, those of its set."""
    for part in path:
        if part in SETS:
            model = SETS[str(part)]
        elif part in getattr(model, "model_fields", {}):
            model = model.model_fields[part].annotation
            model = next((one for one in get_args(model) if hasattr(one, "model_fields")), model)
    return list(getattr(model, "model_fields", {}))


def like(name: str, known: list[str]) -> str:
    """What was probably meant by a name, or else all that there are."""
    known = [brief(one) for one in known]
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else (f"; there are {', '.join(known)}" if known else "")
