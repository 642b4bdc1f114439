"""The states of a lane: what follows on what, and what can't be."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dualprune.cluster.lane import Lane, Move, State, Why, after

WHYS: tuple[Why, ...] = get_args(Why)
TASKS: tuple[Move, ...] = ("done", "stopped", "failed")
MOVES: tuple[Move, ...] = ("stuck", "ready", "given", *TASKS, *WHYS)
LEAVING = [state for state in State if state.leaving]


@pytest.mark.parametrize(
    ("moves", "state"),
    [
        ([], State.STARTING),
        (["stuck"], State.STUCK),
        (["stuck", "stuck"], State.STUCK),
        (["stuck", "ready"], State.FREE),
        (["ready"], State.FREE),
        (["ready", "given"], State.BUSY),
        (["ready", "given", "done"], State.FREE),
        (["ready", "given", "failed"], State.RETURNING),
        (["ready", "given", "failed", "ready"], State.FREE),
        (["ready", "given", "ready"], State.FREE),
        (["ready", "given", "stopped"], State.IDLE),
        (["ready", "idle"], State.IDLE),
        (["ready", "given", "growing", "stopped"], State.GROWING),
        (["ready", "given", "preempted", "failed"], State.PREEMPTED),
        (["ready", "given", "preempted", "failed", "ready"], State.FREE),
    ],
)
def test_what_a_lane_goes_through(moves: list[Move], state: State) -> None:
    """From its start on; workers that come back after all are free, whatever was before."""
    lane = Lane("lane-0")
    for move in moves:
        lane.move(move)
    assert lane.state is state


@pytest.mark.parametrize(
    ("state", "moves"),
    [
        (State.STARTING, {"stuck", "ready"}),
        (State.STUCK, {"stuck", "ready"}),
        (State.FREE, {"ready", "given", *WHYS}),
        (State.BUSY, {"ready", *TASKS, *WHYS}),
        (State.RETURNING, {"ready"}),
        *((state, {"ready", *TASKS}) for state in LEAVING),
    ],
)
def test_what_can_not_be_is_refused(state: State, moves: set[Move]) -> None:
    """A lane that is asked to leave twice, say, or that has a task before it came up."""
    for move in MOVES:
        if move in moves:
            after(state, move)
        else:
            with pytest.raises(ValueError, match=rf"^a lane that is {state.value} can't become {move}$"):
                after(state, move)


@given(st.lists(st.sampled_from(MOVES), max_size=30))
def test_states_say_what_flags_said(moves: list[Move]) -> None:
    """Whether it came up, has ranks that ask for work, has a task, and why it leaves: one state stands for all four."""
    lane, up, ranks, task, leaving = Lane("lane-0"), False, False, False, ""
    for move in moves:
        try:
            lane.move(move)
        except ValueError:
            continue
        if move == "ready":
            up, ranks, task, leaving = True, True, False, ""
        elif move in WHYS:
            leaving = move
        elif move != "stuck":
            ranks, task = ranks and move != "failed", move == "given"
            leaving = leaving or ("idle" if move == "stopped" else "")
        assert lane.state.came_up is up
        assert lane.state.leaving is bool(leaving)
        assert lane.state.serving is (ranks and not leaving)
        assert lane.state.coming is (leaving == "growing" or (not ranks and not leaving))
        assert (lane.state is State.FREE) is (ranks and not task and not leaving)
        assert (lane.state is State.BUSY) is (task and not leaving)


@pytest.mark.parametrize("state", State)
def test_a_lane_is_one_thing_at_a_time(state: State) -> None:
    """One that leaves is not to go on; one that goes on is there."""
    assert not (state.leaving and state.serving)
    assert not (state.coming and state.serving)
    assert state.came_up or state.coming
