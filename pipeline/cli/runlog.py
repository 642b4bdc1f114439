"""The log of a run on the machine that drives it."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


def log_to(folder: Path, tell: Callable[[str], None]) -> None:
    """Send what this process logs, and its warnings, to a file there; `tell` hears of a disk that takes no more."""
    folder.mkdir(parents=True, exist_ok=True)
    handler = _Log(folder / "driver.log", tell)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.captureWarnings(True)


class _Log(logging.FileHandler):
    """A run's log. That its disk can't take a line now is told once, and doesn't stop the run."""

    def __init__(self, file: Path, tell: Callable[[str], None]) -> None:
        super().__init__(file, errors="backslashreplace")  # names of files may be no UTF-8
        self._tell: Callable[[str], None] | None = tell

    def handleError(self, record: logging.LogRecord) -> None:
        """Called where a line could not be written."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif self._tell is not None:
            tell, self._tell = self._tell, None
            tell(f"the log {self.baseFilename} can't be written at the moment ({error})")

    def close(self) -> None:
        """What is left unwritten has been told."""
        with suppress(OSError):
            super().close()
