"""YAML with places: values, and the line that each of them stands on. Duplicate keys are refused.

A key is the text that stands there, whatever it would be as a value; what values are, `scalars.py` says.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable
from typing import Any, NoReturn

import yaml

from dualprune.pipeline.config import scalars

Path = tuple[str | int, ...]

MOST = 1_000_000
"""Values in a file, as often as aliases repeat them: a few lines of aliases of aliases can stand for billions."""
LARGE = 50_000
"""Characters of a file that nobody wrote by hand."""
MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16's, which it begins with
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
"""Byte order marks, and the encodings that they tell of."""
_SPACES = re.compile("[\\u00a0\\u2000-\\u200b\\u202f\\u3000\\ufeff]")
"""What looks like a space, or like nothing, and comes with text that was copied from elsewhere."""
_MERGE = f"{scalars.TAG}merge"


class _Rules(yaml.composer.Composer, yaml.constructor.SafeConstructor, yaml.resolver.Resolver):
    """From a parser's events to values: words as `scalars` reads them, no key given twice, no types of others."""

    def __init__(self) -> None:
        yaml.composer.Composer.__init__(self)
        yaml.constructor.SafeConstructor.__init__(self)
        yaml.resolver.Resolver.__init__(self)

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        # Here and not when values are made: merges have put other mappings' keys in by then.
        node = super().compose_mapping_node(anchor)
        seen: dict[str, yaml.Node] = {}
        for number, (key, value) in enumerate(node.value):
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.composer.ComposerError(None, None, "a key must be a plain value", key.start_mark)
            if key.tag == _MERGE:
                continue
            if key.value in seen:
                line = seen[key.value].start_mark.line + 1
                raise yaml.composer.ComposerError(
                    None, None, f"the key {key.value!r} was given on line {line} already", key.start_mark
                )
            seen[key.value] = key
            # A node of its own: by an anchor the same one may be a value elsewhere.
            text = yaml.ScalarNode(f"{scalars.TAG}str", key.value, key.start_mark, key.end_mark)
            node.value[number] = (text, value)
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

    def construct_undefined(self, node: yaml.Node) -> NoReturn:
        text = f"there is no type {node.tag.replace(scalars.TAG, '!!')} here; leave it out"
        raise yaml.constructor.ConstructorError(None, None, text, node.start_mark)


def _read(value: Callable[[str], Any]) -> Callable[[_Rules, yaml.Node], Any]:
    """A constructor of a word's value; what it can't be, by a `!!int` before it, is told with its place."""

    def construct(loader: _Rules, node: Any) -> Any:
        try:
            return value(loader.construct_scalar(node))
        except ValueError as error:
            raise yaml.constructor.ConstructorError(None, None, str(error), node.start_mark) from None

    return construct


# None of YAML 1.1's.
_Rules.yaml_implicit_resolvers = {}
_Rules.yaml_constructors = {}
for _tag, _pattern, _first in scalars.KINDS:
    _Rules.add_implicit_resolver(_tag, _pattern, list(_first))
for _name, _constructor in (
    ("bool", _read(scalars.truth)),
    ("int", _read(scalars.whole)),
    ("float", _read(scalars.real)),
    ("null", yaml.SafeLoader.construct_yaml_null),
    ("str", yaml.SafeLoader.construct_yaml_str),
    ("seq", yaml.SafeLoader.construct_yaml_seq),
    ("map", yaml.SafeLoader.construct_yaml_map),
):
    _Rules.add_constructor(f"{scalars.TAG}{_name}", _constructor)  # type: ignore[type-var]
_Rules.add_constructor(None, _Rules.construct_undefined)  # type: ignore[type-var]


class _Loader(_Rules, yaml.reader.Reader, yaml.scanner.Scanner, yaml.parser.Parser):
    """On PyYAML's own parser, whose errors say most."""

    def __init__(self, text: str) -> None:
        yaml.reader.Reader.__init__(self, text)
        yaml.scanner.Scanner.__init__(self)
        yaml.parser.Parser.__init__(self)
        _Rules.__init__(self)


if yaml.__with_libyaml__:
    from yaml import cyaml

    class _Large(_Rules, cyaml.CParser):  # type: ignore[name-defined,misc]
        """On libyaml's parser: files of thousands of stages take half the time."""

        def __init__(self, text: str) -> None:
            cyaml.CParser.__init__(self, text)  # type: ignore[attr-defined]
            _Rules.__init__(self)


def decoded(data: bytes) -> str:
    """A file's text: UTF-8, or what its byte order mark says, as some editors write. Raises yaml.YAMLError."""
    mark, encoding = next(((mark, name) for mark, name in MARKS if data.startswith(mark)), (b"", "utf-8"))
    try:
        return data[len(mark) :].decode(encoding)
    except UnicodeDecodeError as error:
        before = data[len(mark) :][: error.start].decode(encoding, errors="replace")
        text = f"the byte {error.object[error.start]:#04x} is no {encoding.upper()}; save the file as UTF-8"
        raise _marked(text, before, len(before)) from None


def parse(text: str, name: str) -> tuple[Any, dict[Path, int]]:
    """The value that `text` describes, and the line of each path in it. Raises yaml.YAMLError."""
    if len(text) > LARGE and yaml.__with_libyaml__:
        try:
            return _parsed(_Large(text), text, name)
        except yaml.YAMLError:
            pass  # it is told below, in words that say more
    return _parsed(_loader(text), text, name)


def _parsed(loader: Any, text: str, name: str) -> tuple[Any, dict[Path, int]]:
    loader.name = name
    try:
        node = loader.get_single_node()
        if node is None:
            return None, {}
        lines: dict[Path, int] = {}
        _places(node, (), lines)
        return loader.construct_document(node), lines
    except (yaml.scanner.ScannerError, yaml.parser.ParserError) as error:
        mark, at = error.context_mark, error.problem_mark
        if at is not None and text[at.index : at.index + 1] == "\t":
            error.problem = "a tab can't stand here; use spaces"
        if odd := _SPACES.search(text):
            line = text.count("\n", 0, odd.start()) + 1
            error.problem = f"{error.problem}; on line {line} stands a space that is none, {odd[0]!a}: type it anew"
        if mark is not None and text[mark.index : mark.index + 1] in ("[", "{", "'", '"'):
            error.problem = f"{error.problem}, in what {text[mark.index]} opened on line {mark.line + 1}"
        raise
    except RecursionError:
        raise yaml.YAMLError("mappings and lists are nested too deeply, or one holds itself") from None
    finally:
        loader.dispose()


def scalar(text: str) -> Any:
    """The value of one piece of YAML, such as `--set` takes. Raises yaml.YAMLError; for a comment too, which nobody
    means on a command line."""
    loader = _loader(text)
    try:
        node = loader.get_single_node()
    finally:
        loader.dispose()
    rest = text[node.end_mark.index if node is not None else 0 :].strip()
    if rest:
        raise yaml.YAMLError(f"{rest} would be left out as a comment; put the value in quotes within quotes: '\"...\"'")
    return parse(text, "")[0]


def _loader(text: str) -> _Loader:
    try:
        return _Loader(text)
    except yaml.reader.ReaderError as error:
        why = f"the character {text[error.position]!a} can't stand in YAML, which is text in UTF-8"
        raise _marked(why, text, error.position) from None


def _marked(problem: str, text: str, index: int) -> yaml.MarkedYAMLError:
    """An error at a place in a text."""
    line = text.count("\n", 0, index)
    return yaml.MarkedYAMLError(problem=problem, problem_mark=yaml.Mark("", index, line, 0, None, 0))


def _places(node: yaml.Node, path: Path, lines: dict[Path, int]) -> None:
    lines.setdefault(path, node.start_mark.line + 1)
    if len(lines) > MOST:
        raise yaml.YAMLError(f"the file stands for more than {MOST:,} values: are there aliases of aliases?")
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
