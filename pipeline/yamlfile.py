"""YAML with places: values, and the line that each of them stands on. Duplicate keys are refused."""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import yaml

Path = tuple[str | int, ...]


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads 1e-3 as a number, as YAML 1.2 does, and refuses a key that is given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: dict[Any, yaml.Node] = {}
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                continue
            name = self.construct_object(key, deep=True)
            if name in seen:
                line = seen[name].start_mark.line + 1
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {name!r} was given on line {line} already", key.start_mark
                )
            seen[name] = key
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^[-+]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)([eE][-+]?\d+)$|^[-+]?(\d[\d_]*\.[\d_]*|\.\d[\d_]+)$|^[-+]?\.(inf|Inf)$"
    ),
    list("-+0123456789."),
)


def parse(text: str, name: str) -> tuple[Any, dict[Path, int]]:
    """The value that `text` describes, and the line of each path in it. Raises yaml.YAMLError."""
    loader = _Loader(text)
    loader.name = name
    try:
        node = loader.get_single_node()
        if node is None:
            return None, {}
        lines: dict[Path, int] = {}
        _places(node, (), lines)
        return loader.construct_document(node), lines
    finally:
        loader.dispose()


def scalar(text: str) -> Any:
    """The value of one piece of YAML, such as `--set` takes. Raises yaml.YAMLError."""
    return yaml.load(text, Loader=_Loader)


def _places(node: yaml.Node, path: Path, lines: dict[Path, int]) -> None:
    lines.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, yaml.SequenceNode):
        for number, child in enumerate(node.value):
            _places(child, (*path, number), lines)
    elif isinstance(node, yaml.MappingNode):
        merged: list[yaml.Node] = []
        for key, child in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                merged += child.value if isinstance(child, yaml.SequenceNode) else [child]
                continue
            here = (*path, key.value)
            lines[here] = key.start_mark.line + 1
            _places(child, here, lines)
        for child in merged:
            _places(child, path, lines)
