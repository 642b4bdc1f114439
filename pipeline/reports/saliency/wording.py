"""What classes, letters and tokens are called."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

BASES = "ACGT"


@dataclass(frozen=True)
class Wording:
    """Names by number."""

    letters: str | None = None
    """Of sequences; left out, those of DNA where there are four, else numbers."""
    vocabulary: tuple[str, ...] = ()

    def letter(self, number: int, of: int) -> str:
        """One of so many letters."""
        known = self.letters or (BASES if of == len(BASES) else "")
        return known[number] if number < len(known) else str(number)

    def token(self, number: int) -> str:
        """A token."""
        return self.vocabulary[number] if number < len(self.vocabulary) else str(number)


def called(label: int, classes: Sequence[str]) -> str:
    """A class by its name, where that is known."""
    return classes[label] if label < len(classes) else f"class {label}"
