"""The recipes that come along, and what each is for: read from their files alone."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from dualprune.pipeline.config.load import RECIPES, read
from dualprune.pipeline.dag import trained

ENDS = re.compile(r"(?<=[.])\s+(?=[A-Z`])")
"""Where a sentence ends: "et al. 2018" is no end."""


@dataclass(frozen=True)
class Recipe:
    """One recipe."""

    name: str
    said: str
    """The first sentence of the comment that its file begins with."""
    network: str
    data: str
    """Its source, or where its shards are looked for."""
    stages: Mapping[str, int]
    """How many there are of each kind."""


def shipped() -> list[Recipe]:
    """All of them, by name. Raises ConfigError for one that is not sound."""
    return [_recipe(file.stem) for file in sorted(RECIPES.glob("*.yaml"))]


def _recipe(name: str) -> Recipe:
    draft = read(name)
    draft.problems.stop()
    specs = [spec for stage in draft.stages if (spec := trained(stage.spec)) is not None]
    first = specs[0]
    kinds = Counter(stage.spec.kind for stage in draft.stages)
    where = first.data.source or str(first.data.shards)
    return Recipe(name, _said((RECIPES / f"{name}.yaml").read_text()), first.model.name, where, dict(kinds))


def _said(text: str) -> str:
    lines = []
    for line in text.splitlines():
        if not line.startswith("# "):
            break
        lines.append(line.removeprefix("# "))
    return sentence(" ".join(lines))


def sentence(text: str) -> str:
    """The first sentence of a text."""
    return ENDS.split(text, maxsplit=1)[0].strip()
