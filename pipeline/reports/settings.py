"""Settings explained, and recipes listed: text that fits a narrow terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from dualprune.pipeline.config.explain import NEEDED, Explained, Setting
from dualprune.pipeline.config.shipped import Recipe, sentence

INDENT = (0, 0, 0, 2)


def explained(found: Sequence[Explained]) -> Group:
    """What settings, kinds, sets and objectives are, one after the other."""
    return Group(*(part for number, one in enumerate(found) for part in _one(one, first=number == 0)))


def _one(one: Explained, first: bool) -> Iterator[RenderableType]:
    if not first:
        yield ""
    of = f"  of {', '.join(one.setting.of)}" if one.setting is not None and one.setting.of else ""
    yield Text.assemble((one.title, "bold"), of)
    yield Padding(Text(one.meaning), INDENT)
    if one.setting is not None:
        facts = _grid()
        facts.add_row("type", escape(one.setting.type))
        facts.add_row("default", escape(one.setting.default))
        yield Padding(facts, INDENT)
    for setting in one.inside:
        yield Padding(_inside(setting), INDENT)


def _inside(setting: Setting) -> RenderableType:
    """A setting within another thing: a line of facts, and its meaning below."""
    default = "has to be given" if setting.default == NEEDED else f"default {setting.default}"
    head = Text.assemble((setting.path[-1], "bold"), f": {setting.type}; {default}")
    return Group(head, Padding(Text(setting.meaning), INDENT)) if setting.meaning else head


def overview(found: Mapping[str, Mapping[str, str]]) -> Group:
    """What can be explained, by sort, with the first sentence of each meaning."""
    parts: list[RenderableType] = []
    for sort, names in found.items():
        rows = _grid()
        for name, meaning in names.items():
            rows.add_row(escape(name), escape(sentence(meaning)))
        parts += [Text(sort, "bold"), Padding(rows, INDENT), ""]
    return Group(*parts[:-1])


def _grid() -> Table:
    """Names, and text beside them."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    return table


def recipes(found: Sequence[Recipe]) -> Group:
    """What comes along: a line of facts for each, and what its file says first."""
    parts: list[RenderableType] = []
    for one in found:
        kinds = ", ".join(f"{count} {kind}" for kind, count in one.stages.items())
        facts = f"  {one.network} on {one.data}, {kinds}"
        parts += [Text.assemble((one.name, "bold"), facts), Padding(Text(one.said), INDENT)]
    return Group(*parts)


def as_json(found: Sequence[Explained]) -> list[dict[str, Any]]:
    """The same as values."""
    return [
        {
            "name": one.title,
            "meaning": one.meaning,
            **({} if one.setting is None else _facts(one.setting)),
            "settings": [{"name": inner.path[-1], "meaning": inner.meaning, **_facts(inner)} for inner in one.inside],
        }
        for one in found
    ]


def _facts(one: Setting) -> dict[str, Any]:
    return {"type": one.type, "default": one.default, "of": list(one.of)}
