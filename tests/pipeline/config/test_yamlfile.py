"""YAML: types, places, keys given twice, anchors and merges."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from dualprune.pipeline.config.yamlfile import parse, scalar


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
        ("dense", "dense"),
        ("e3", "e3"),
        ("1e", "1e"),
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
    """1e-3 is a number, as in YAML 1.2; everything else is what YAML says."""
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
        "1e1: a\nb: 1\n10.0: b\n",
    ],
)
def test_a_key_given_twice_is_refused_with_both_lines(text: str) -> None:
    """The error stands on the second one's line and names the first one's."""
    lines = [n for n, row in enumerate(text.splitlines(), 1) if "a: " in row or "1e1" in row or "10.0" in row]
    with pytest.raises(yaml.MarkedYAMLError) as caught:
        parse(text, "file.yaml")
    assert caught.value.problem_mark is not None
    assert caught.value.problem_mark.line + 1 == lines[-1]
    assert f"line {lines[0]}" in str(caught.value.problem)


def test_one_key_in_two_mappings_is_fine() -> None:
    """Only keys of one mapping exclude each other."""
    assert parse("a: {x: 1}\nb: {x: 2}\n", "f")[0] == {"a": {"x": 1}, "b": {"x": 2}}


@pytest.mark.parametrize("text", ["{{ store }}: 1", "store: {{ store }}", "? [a, b]\n: 1", "when: 2024-13-45"])
def test_what_yaml_can_not_mean_is_a_yaml_error(text: str) -> None:
    """Keys that are no plain values (an unfilled template) and impossible dates are bad input, not our bug."""
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
