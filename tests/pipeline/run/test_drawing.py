"""What is drawn of hand-made pictures, at sizes that terminals have."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from dualprune.pipeline.run.cut import shortened
from dualprune.pipeline.run.drawing import ASCII, STYLES, UNICODE, Glyphs, drawn, spark
from dualprune.pipeline.run.picture import Picture, Stage
from dualprune.pipeline.run.work import Work
from tests.pipeline.run.pictures import ADMM, DENSE, FEW, LOST, many, picture, running, stage

SIZES = [(79, 23), (199, 49), (119, 30), (40, 10), (20, 5), (5, 2), (1, 2)]


def lines(of: Picture, width: int = 79, height: int = 23, glyphs: Glyphs = UNICODE) -> list[str]:
    """As text."""
    return [line.plain for line in drawn(of, width, height, glyphs)]


@pytest.mark.parametrize("glyphs", [UNICODE, ASCII])
@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("of", [picture(), picture(running("one")), picture(*FEW), many(40), many(200, at_work=60)])
def test_nothing_is_wider_or_higher_than_the_terminal(of: Picture, width: int, height: int, glyphs: Glyphs) -> None:
    """And nothing is left of what would move a cursor, or of characters that a terminal does not know."""
    found = lines(of, width, height, glyphs)
    assert 0 < len(found) <= height
    assert max(map(cell_len, found)) <= width
    assert all(line.isprintable() and line == line.rstrip() for line in found)
    assert glyphs is UNICODE or all(line.isascii() for line in found)


def test_at_80_columns() -> None:
    """Each stage has a line, and one that runs a second one."""
    assert lines(picture(*FEW[:5])) == [
        "digits 1:30: 1 of 5 done, 1 running, 1 waiting, 1 queued, 1 failed, 2 workers",
        "  stage         progress                 left     val %  vs dense     rate",
        "✓ dense         done in 0:14                      98.89              1.00x",
        "▶  prune-4x     ━━━━━────────  41 %      1:15     97.50     -1.39",
        f"    admm 9/20 35 %  residual █▆▅▃▂ 0.100  tried again: {LOST[:23]}…",
        "◌   prune-10x   waits for its workers 0:42",
        "·    prune-25x  waits for prune-10x",
        f"✗  other        failed: ValueError: it is no good  [31m{'x' * 23}…",
    ]


def test_at_200_columns() -> None:
    """All that there is to tell has its column; only what was tried again has a line below."""
    head, titles, _, one, again, *_ = lines(picture(*FEW), 199, 49)
    assert head.endswith("1 skipped, 2 workers")
    assert titles.split("  ")[-1].strip() == "data wait"
    for text in (
        "41 %",
        "1:15",
        "97.50",
        "-1.39",
        "admm 9/20 35 %",
        "█▆▅▃▂ 0.100",
        "0.1234",
        "1.5 GiB",
        "12,345",
        "3 %",
    ):
        assert text in one
    assert again == f"    tried again: {LOST}"


def test_columns_stand_below_their_titles() -> None:
    """Numbers at the right, at any width."""
    for width in (79, 119, 199):
        titles, dense, one = lines(picture(*FEW), width)[1:4]
        end = titles.index("val %") + len("val %")
        assert (dense[:end].split()[-1], one[:end].split()[-1]) == ("98.89", "97.50")
        assert titles.index("progress") == dense.index("done in") == one.index("━")


@pytest.mark.parametrize("at_work", [1, 3, 15])
@pytest.mark.parametrize("number", [40, 200])
def test_stages_that_run_are_in_sight(number: int, at_work: int) -> None:
    """Among many, on a small terminal; the others are counted, and none is lost."""
    of = many(number, at_work)
    found = lines(of)
    assert sum(line.startswith("▶") for line in found) == at_work
    assert len(found) == 23
    assert any(line.startswith("✗") for line in found)
    rest = found[-1].removeprefix("  and ").split(", ")
    hidden = sum(int(one.split()[0]) for one in rest)
    assert hidden + sum(line[0] in "✓▶·✗" for line in found) == number


def test_more_stages_run_than_there_are_lines() -> None:
    """As many as there is room for."""
    found = lines(many(200, at_work=60))
    assert sum(line.startswith("▶") for line in found) == 20
    assert found[-1] == "  and 100 done, 40 running, 39 queued, 1 failed"


def test_some_that_are_done_and_some_that_come_next_are_seen() -> None:
    """The last and the first ones of them, beside those that run, in the tree's order."""
    found = lines(many(200, at_work=1))
    marks = "".join(line[0] for line in found if line[0] in "✓▶·✗")
    assert marks == "✓" * 6 + "▶" + "·" * 11 + "✗"


def test_details_go_before_stages_that_run_do() -> None:
    """Where there is no room for both."""
    found = lines(many(200, at_work=12))
    assert sum(line.startswith("▶") for line in found) == 12
    assert not any("admm 9/20" in line for line in found)


def test_long_names_lose_their_middle() -> None:
    """Their ends tell them apart."""
    found = lines(many(40))
    assert any("stage-20-…ny-rungs" in line for line in found)
    assert shortened("abcdefghij", 7) == "abc…hij"
    assert shortened("abcdefghij", 10) == "abcdefghij"
    assert shortened("abcdefghij", 7, "..") == "abc..ij"
    assert [shortened("日本語日本語", width) for width in (12, 7, 3, 2, 1, 0)] == [
        "日本語日本語",
        "日本…語",
        "日…",
        "日",
        "",
        "",
    ]


def test_time_goes_on_between_what_is_told() -> None:
    """Time left, since when a stage waits, and how old the run is."""
    later = replace(picture(*FEW), now=130.0)
    found = "\n".join(lines(later))
    for text in ("digits 2:00:", "0:45", "waits for its workers 1:12"):
        assert text in found
    assert " 0:00" in lines(replace(later, now=1000.0))[3]


def test_a_stage_that_has_told_of_no_epoch() -> None:
    """Has its own words, and since when they hold."""
    begun = Work("goes on after step 7", True, asked=0.0, began=95.0)
    assert lines(picture(stage("dense", "running", work=begun)))[1] == "▶ dense  goes on after step 7 0:05"
    assert lines(picture(stage("dense", "running", work=replace(begun, began=None))))[1].endswith("step 7")


def test_other_metrics_go_by_their_units() -> None:
    """Losses have more digits, and signs as they are."""
    of = picture(
        stage("dense", "done", value=0.012, best="loss", unit=""),
        running("half", value=0.0125, dense=0.012, best="loss", unit=""),
    )
    found = lines(of)
    assert "+0.0005" in found[3]
    assert "0.0125" in found[3]


def test_a_notice() -> None:
    """Below the head."""
    of = replace(picture(DENSE, began=None), notice="no run of digits is going on")
    assert lines(of)[:2] == ["digits: 1 of 1 done", "no run of digits is going on"]


def test_a_trend() -> None:
    """Heights are over zero, so that what hardly falls looks so."""
    assert spark([8, 4, 2, 1], 8) == "█▅▃▂"
    assert spark([1.0, 0.99], 8) == "██"
    assert spark([9, 9, 8, 4], 2) == "█▅"
    assert spark([float("nan"), 0.0], 4) == "▁"
    assert spark([], 4) == ""


def test_every_state_has_its_mark() -> None:
    """And a colour; marks of one terminal differ, but for two that mean the same."""
    for glyphs in (UNICODE, ASCII):
        assert list(glyphs.marks) == list(STYLES)
        assert len(set(glyphs.marks.values())) == len(STYLES) - 1


numbers = st.floats() | st.none()
works = st.builds(
    lambda **facts: replace(ADMM, **facts),
    epoch=st.none() | st.integers(1, 1000),
    epochs=st.none() | st.integers(0, 1000),
    done=st.floats(),
    ended=st.integers(0, 1000),
    loss=numbers,
    value=numbers,
    residuals=st.lists(st.floats(), max_size=9).map(tuple),
    seconds_left=numbers,
    samples_per_second=numbers,
    waited=numbers,
    memory_bytes=numbers,
    said=st.text(max_size=20),
)
any_stage = st.builds(
    Stage,
    name=st.text(max_size=50),
    kind=st.just("prune"),
    state=st.sampled_from(list(STYLES)),
    depth=st.integers(0, 300),
    rate=numbers,
    value=numbers,
    dense=numbers,
    unit=st.sampled_from(["%", "", "points"]),
    seconds=numbers,
    why=st.text(max_size=100),
    work=works | st.none(),
    retries=st.lists(st.text(max_size=20), max_size=2).map(tuple),
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(any_stage, max_size=5), st.integers(1, 250), st.integers(2, 60), st.sampled_from([UNICODE, ASCII]))
def test_whatever_stages_tell_it_is_drawn(stages: list[Stage], width: int, height: int, glyphs: Glyphs) -> None:
    """Within the terminal's bounds: no figure is so odd that it would end a run."""
    found = drawn(picture(*stages), width, height, glyphs)
    assert 0 < len(found) <= height
    assert all(line.cell_len <= width for line in found)
