"""Which line an error comes from: one for people, where a traceback has fifty."""

from __future__ import annotations

import re
import traceback

from dualprune.stages.files.source import installed

OURS = "dualprune"
"""Our package. Of it, users write in one module:"""
MODELS = f"{OURS}.stages.networks.builtin"

_SENT = re.compile(r".*/(_ray_pkg_[0-9a-f]+|dualprune-code-[^/]+)/")
"""Where Ray, and stages.files.source, put what was sent to a machine."""


def origin(error: BaseException) -> str | None:
    """`FILE:LINE: source` of the innermost line that a user wrote; else of ours, if nothing else is known.

    None for what we raise on purpose, whose message says what is wrong. Of an error of ours that another one
    caused, that one's is told.
    """
    if _ours(type(error).__module__):
        return None if error.__cause__ is None else origin(error.__cause__)
    lines = traceback.extract_tb(error.__traceback__)
    modules = [str(frame.f_globals.get("__name__", "")) for frame, _ in traceback.walk_tb(error.__traceback__)]
    found = list(zip(modules, lines, strict=True))
    theirs = [(module, line) for module, line in found if module == MODELS or not _known(module, line.filename)]
    if theirs:
        return _shown(*theirs[-1])
    ours = [(module, line) for module, line in found if _ours(module)]
    if not ours or _notes(error) or (_ours(modules[-1]) and (lines[-1].line or "").startswith("raise ")):
        return None
    return _shown(*ours[-1])


def note(error: BaseException) -> None:
    """Add to an exception's notes which line it comes from."""
    where = origin(error)
    if where is not None:
        # What add_note does, which Python 3.10 has not.
        error.__notes__ = [f"at {where}", *_notes(error)]  # type: ignore[attr-defined]


def _notes(error: BaseException) -> list[str]:
    return list(getattr(error, "__notes__", []))


def _shown(module: str, line: traceback.FrameSummary) -> str:
    file = f"{module.removeprefix(f'{OURS}.').replace('.', '/')}.py" if _ours(module) else _SENT.sub("", line.filename)
    return f"{file}:{line.lineno}: {line.line}" if line.line else f"{file}:{line.lineno}"


def _ours(module: str) -> bool:
    return module.split(".")[0] == OURS


def _known(module: str, file: str) -> bool:
    """Whether a line is ours or an installed library's."""
    return installed(file) or _ours(module)
