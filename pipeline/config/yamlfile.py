"""YAML with places: values, and the line that each of them stands on. Duplicate keys are refused."""

from __future__ import annotations

import re
from typing import Any

import yaml

Path = tuple[str | int, ...]


_MERGE = "tag:yaml.org,2002:merge"


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads 1e-3 as a number, as YAML 1.2 does, and refuses a key that is given twice."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        # Here and not when values are made: merges have put other mappings' keys in by then.
        node = super().compose_mapping_node(anchor)
        seen: dict[Any, yaml.Node] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.composer.ComposerError(None, None, "a key must be a plain value", key.start_mark)
            if key.tag == _MERGE:
                continue
            name = self.construct_object(key)
            if name in seen:
                line = seen[name].start_mark.line + 1
                raise yaml.composer.ComposerError(
                    None, None, f"the key {name!r} was given on line {line} already", key.start_mark
                )
            seen[name] = key
        return node

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Own keys win over merged ones, and an earlier merged mapping over a later (yaml.org/type/merge).

        PyYAML's own way with several mappings is another from 6.0.4 on.
        """
        own = [(key, value) for key, value in node.value if key.tag != _MERGE]
        pairs: list[tuple[yaml.Node, yaml.Node]] = []
        for child in reversed(_merged(node)):
            if not isinstance(child, yaml.MappingNode):
                raise yaml.constructor.ConstructorError(None, None, "only mappings can be merged", child.start_mark)
            self.flatten_mapping(child)
            pairs += child.value  # of equal keys the last counts
        node.value = pairs + own
        super().flatten_mapping(node)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^[-+]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)([eE][-+]?\d+)$|^[-+]?(\d[\d_]*\.[\d_]*|\.\d[\d_]*)$|^[-+]?\.(inf|Inf)$"
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
    except (yaml.scanner.ScannerError, yaml.parser.ParserError) as error:
        mark = error.context_mark
        if mark is not None and text[mark.index : mark.index + 1] in ("[", "{", "'", '"'):
            error.problem = f"{error.problem}, in what {text[mark.index]} opened on line {mark.line + 1}"
        raise
    except (ValueError, RecursionError) as error:
        # A date that is none, or a mapping that holds itself.
        raise yaml.YAMLError(str(error)) from None
    finally:
        loader.dispose()


def scalar(text: str) -> Any:
    """The value of one piece of YAML, such as `--set` takes. Raises yaml.YAMLError."""
    return parse(text, "")[0]


def _places(node: yaml.Node, path: Path, lines: dict[Path, int]) -> None:
    lines.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, yaml.SequenceNode):
        for number, child in enumerate(node.value):
            _places(child, (*path, number), lines)
    elif isinstance(node, yaml.MappingNode):
        for key, child in node.value:
            if key.tag == _MERGE:
                continue
            here = (*path, key.value)
            lines.setdefault(here, key.start_mark.line + 1)
            _places(child, here, lines)
        for child in _merged(node):
            _places(child, path, lines)


def _merged(node: yaml.MappingNode) -> list[yaml.Node]:
    """What a mapping merges, in order."""
    given = [value for key, value in node.value if key.tag == _MERGE]
    return [one for value in given for one in (value.value if isinstance(value, yaml.SequenceNode) else [value])]
