"""YAML: types, places, keys given twice, anchors and merges."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from dualprune.pipeline.config import yamlfile
from dualprune.pipeline.config.yamlfile import decoded, parse, scalar


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("1E5", 1e5),
        ("-2.5e+3", -2500.0),
        ("+.5", 0.5),
        (".5e1", 5.0),
        ("3.", 3.0),
        ("0.25", 0.25),
        ("1_000.5", 1000.5),
        (".inf", float("inf")),
        ("-.inf", float("-inf")),
        ("12", 12),
        ("-7", -7),
        ("0", 0),
        ("true", True),
        ("false", False),
        ("null", None),
        ("", None),
        ("~", None),
        ("none", "none"),
        ("010", 10),
        ("-010", -10),
        ("08", 8),
        ("00.50", 0.5),
        ("+1", 1),
        ("0b101", 5),
        ("0o17", 15),
        ("0x1F", 31),
        ("-0x1f", -31),
        ("1_000", 1000),
        ("1_", "1_"),
        ("1__0", "1__0"),
        ("_1", "_1"),
        ("1:30", "1:30"),
        ("1:30:45", "1:30:45"),
        ("1:30.5", "1:30.5"),
        ("10:20", "10:20"),
        ("0x", "0x"),
        ("0o8", "0o8"),
        ("1,000", "1,000"),
        ("0,001", "0,001"),
        ("1 000", "1 000"),
        ("2024-01-01", "2024-01-01"),
        ("2024-13-45", "2024-13-45"),
        ("2024-01-01T10:30:00Z", "2024-01-01T10:30:00Z"),
        (".5", 0.5),
        ("1e3", 1000.0),
        ("1.e3", 1000.0),
        ("1e", "1e"),
        ("1e400", float("inf")),
        ("inf", "inf"),
        ("nan", "nan"),
        ("١٢", "١٢"),
        ("１２", "１２"),
        ("1２", "1２"),
        ("yes", True),
        ("On", True),
        ("no", False),
        ("OFF", False),
        ("y", "y"),
        ("n", "n"),
        ("=", "="),
        ("!!str 012", "012"),
        ("!!int '012'", 12),
        ("!!float 3", 3.0),
        ("dense", "dense"),
        ("e3", "e3"),
        ("4x", "4x"),
        ("1.2.3", "1.2.3"),
        ("-", [None]),
        ("prune-4x", "prune-4x"),
        ("'1e-3'", "1e-3"),
        ('"12"', "12"),
        ("[1, 1e1]", [1, 10.0]),
        ("{a: 1e-3}", {"a": 1e-3}),
    ],
)
def test_scalars_have_the_type_they_look_like(text: str, value: Any) -> None:
    """Numbers are read as people mean them, and nothing is a number to another base than it looks like, or a date."""
    found = scalar(text)
    assert found == value
    assert type(found) is type(value)


def test_not_a_number_stays_one() -> None:
    """.nan is a float that equals nothing."""
    found = scalar(".nan")
    assert isinstance(found, float)
    assert found != found


@pytest.mark.parametrize(
    "text",
    [
        "a: 1\nb: 2\na: 3\n",
        "x:\n  - a: 1\n    b: 1\n    a: 1\n",
        "{a: 1, b: {c: 1},\n\n a: 2}",
        "1: a\nb: 1\n'1': a\n",
    ],
)
def test_a_key_given_twice_is_refused_with_both_lines(text: str) -> None:
    """The error stands on the second one's line and names the first one's."""
    lines = [n for n, row in enumerate(text.splitlines(), 1) if "a: " in row or ": a" in row]
    with pytest.raises(yaml.MarkedYAMLError) as caught:
        parse(text, "file.yaml")
    assert caught.value.problem_mark is not None
    assert caught.value.problem_mark.line + 1 == lines[-1]
    assert f"line {lines[0]}" in str(caught.value.problem)


def test_a_key_is_the_text_that_stands_there() -> None:
    """Whatever it would be as a value, and whether an anchor gives it or not."""
    value, lines = parse("on: 1\n010: &a 2\nnull: 3\n2024-01-01: 4\n? *a\n: *a\n", "f")
    assert value == {"on": 1, "010": 2, "null": 3, "2024-01-01": 4, "2": 2}
    assert lines["2024-01-01",] == 4


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a: 1\nb: !!int 1:30\n", 2, "'1:30' is no whole number"),
        ("a: !!float x\n", 1, "'x' is no number"),
        ("a: !!bool maybe\n", 1, "'maybe' is neither true nor false"),
        ("a:\n  - !!timestamp x\n", 2, "there is no type !!timestamp here"),
        ("a: !!set {b}\n", 1, "there is no type !!set here"),
        ("a: !!binary aGk=\n", 1, "there is no type !!binary here"),
        ("a: !env HOME\n", 1, "there is no type !env here"),
        ("a: !!python/object/apply:os.getcwd []\n", 1, "there is no type !!python/object/apply:os.getcwd here"),
        (f"a: 1\nb: {'9' * 5000}\n", 2, "a number of 5000 digits"),
        ("a: 1\nb:\u00a02\nc: 3\n", 3, "on line 2 stands a space that is none, '\\xa0'"),
        ("a: 1\nb:\n\tc: 1\n", 3, "a tab can't stand here; use spaces"),
        ("a: 1\nb: \x1b[31m\n", 2, "'\\x1b' can't stand in YAML"),
        ("a: 1\n\nb: x\udcff\n", 3, "'\\udcff' can't stand in YAML"),
    ],
)
def test_what_can_not_be_read_is_told_with_its_line(text: str, line: int, words: str) -> None:
    with pytest.raises(yaml.MarkedYAMLError) as caught:
        parse(text, "file.yaml")
    assert caught.value.problem_mark is not None
    assert caught.value.problem_mark.line + 1 == line
    assert words in str(caught.value.problem)


def test_aliases_of_aliases_end() -> None:
    """Ten lines that stand for ten billion values are refused before they take all memory."""
    text = "a0: &a0 [0]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 11))
    with pytest.raises(yaml.YAMLError, match="stands for more than"):
        parse(text, "file.yaml")


@pytest.mark.parametrize("text", ["#x", "./a #b", "[1] # x", "'a' #"])
def test_a_setting_of_the_command_line_has_no_comments(text: str) -> None:
    """What a person typed there is meant."""
    with pytest.raises(yaml.YAMLError, match="as a comment"):
        scalar(text)
    assert scalar("'./a #b'") == "./a #b"
    assert scalar("a#b") == "a#b"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_file_is_read_by_its_byte_order_mark(encoding: str) -> None:
    """As Windows' editors and PowerShell's `>` write."""
    assert parse(decoded("näme: ü\n".encode(encoding)), "f") == ({"näme": "ü"}, {(): 1, ("näme",): 1})


@pytest.mark.parametrize(
    ("data", "line", "words"),
    [
        ("a: 1\nb: ü\n".encode("latin-1"), 2, "the byte 0xfc is no UTF-8; save the file as UTF-8"),
        ("a: 1\n".encode("utf-16-le"), 1, "'\\x00' can't stand in YAML, which is text in UTF-8"),
        ("a: 1\nb: ü".encode("utf-16")[:-1], 2, "is no UTF-16-LE; save the file as UTF-8"),
    ],
)
def test_a_file_in_another_encoding_is_refused_with_its_line(data: bytes, line: int, words: str) -> None:
    with pytest.raises(yaml.MarkedYAMLError) as caught:
        parse(decoded(data), "file.yaml")
    assert caught.value.problem_mark is not None
    assert caught.value.problem_mark.line + 1 == line
    assert words in str(caught.value.problem)


def test_one_key_in_two_mappings_is_fine() -> None:
    """Only keys of one mapping exclude each other."""
    assert parse("a: {x: 1}\nb: {x: 2}\n", "f")[0] == {"a": {"x": 1}, "b": {"x": 2}}


@pytest.mark.parametrize("text", ["{{ store }}: 1", "store: {{ store }}", "? [a, b]\n: 1", "[" * 2000, "a: &a {b: *a}"])
def test_what_yaml_can_not_mean_is_a_yaml_error(text: str) -> None:
    """Keys that are no plain values (an unfilled template), what has no end: bad input, not our bug."""
    with pytest.raises(yaml.YAMLError):
        parse(text, "file.yaml")


@pytest.mark.parametrize(
    ("text", "opened"),
    [
        ("a: 1\nb: {c: 1\nd: 2\n", "{ opened on line 2"),
        ("a: [1, 2\nb: 3\n", "[ opened on line 1"),
        ("a: {b: 1,\n  c: [1}\n", "[ opened on line 2"),
        ("a: 1\nb: 'c\nd: 2\n", "' opened on line 2"),
        ('a: "c\nd: 2\n', '" opened on line 1'),
        ('a: "C:\\data"\n', '" opened on line 1'),
    ],
)
def test_what_is_not_closed_is_named_with_its_line(text: str, opened: str) -> None:
    """The error itself stands where it was noticed, which may be far below."""
    with pytest.raises(yaml.MarkedYAMLError) as caught:
        parse(text, "file.yaml")
    assert str(caught.value.problem).endswith(f", in what {opened}")


def test_lines_of_nested_paths() -> None:
    """Each mapping entry has its key's line, each list entry its own first line."""
    text = (
        "# first\nname: x\n\nstages:\n  - name: a\n    train:\n      lr: 1\n  # between\n"
        "  -\n    name: b\n    sizes: [1,\n      2]\n"
    )
    _, lines = parse(text, "file.yaml")
    assert lines == {
        (): 2,
        ("name",): 2,
        ("stages",): 4,
        ("stages", 0): 5,
        ("stages", 0, "name"): 5,
        ("stages", 0, "train"): 6,
        ("stages", 0, "train", "lr"): 7,
        ("stages", 1): 10,
        ("stages", 1, "name"): 10,
        ("stages", 1, "sizes"): 11,
        ("stages", 1, "sizes", 0): 11,
        ("stages", 1, "sizes", 1): 12,
    }


MERGED = """\
base: &base
  lr: 1
  rho: 2
more: &more {rho: 3, epochs: 4}
one:
  <<: *base
  lr: 5
many:
  <<: [*base, *more]
alias: *base
"""


def test_merge_keys_and_anchors_give_values() -> None:
    """An own entry wins over a merged one, and an earlier merged mapping over a later."""
    value, _ = parse(MERGED, "file.yaml")
    assert value["one"] == {"lr": 5, "rho": 2}
    assert value["many"] == {"lr": 1, "rho": 2, "epochs": 4}
    assert value["alias"] == {"lr": 1, "rho": 2}


@pytest.mark.parametrize("merged", ["3", "[*base, 3]", "[[*base]]"])
def test_only_mappings_are_merged(merged: str) -> None:
    with pytest.raises(yaml.YAMLError, match="only mappings can be merged"):
        parse(f"base: &base {{lr: 1}}\none:\n  <<: {merged}\n", "file.yaml")


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("one", "lr"), 7),
        (("one", "rho"), 3),
        (("many", "lr"), 2),
        (("many", "rho"), 3),
        (("many", "epochs"), 4),
        (("alias",), 10),
        (("alias", "rho"), 3),
    ],
)
def test_merged_entries_have_the_line_where_their_value_stands(path: tuple[str, ...], line: int) -> None:
    """A problem with a value is reported where that value can be changed."""
    assert parse(MERGED, "file.yaml")[1][path] == line


def test_an_own_entry_may_replace_a_merged_one_at_any_depth() -> None:
    """A merge into a mapping that is itself merged further up is no key given twice."""
    text = "base: &base {lr: 1}\nx:\n  y:\n    z: &inner\n      <<: *base\n      lr: 2\nlast:\n  <<: *inner\n"
    value, _ = parse(text, "file.yaml")
    assert value["x"]["y"]["z"] == value["last"] == {"lr": 2}


def test_an_empty_text_has_no_value_and_no_places() -> None:
    """Nothing but comments is None."""
    assert parse("# nothing\n", "file.yaml") == (None, {})


def test_a_large_file_means_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though another parser reads it; and what is wrong with it is told in the same words."""
    text = "a: &one [010, 1:30, no, ~, 'x', 1e-3]\nb: {<<: {c: 1}, d: *one}\n" + "".join(
        f"k{n}: {n}\n" for n in range(50)
    )
    monkeypatch.setattr(yamlfile, "LARGE", 100)
    large = parse(text, "file.yaml")
    wrong = [text + "k3: 4\n", text + "x: [1\n", text + "y: !!set {a}\n", text + "\tz: 1\n"]

    def told() -> list[str]:
        found = []
        for one in wrong:
            with pytest.raises(yaml.YAMLError) as caught:
                parse(one, "file.yaml")
            found.append(str(caught.value))
        return found

    said = told()
    monkeypatch.setattr(yamlfile, "LARGE", len(text) + 1000)
    assert large == parse(text, "file.yaml")
    assert said == told()
