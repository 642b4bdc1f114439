"""Following a job while its dashboard comes and goes; the rest of it runs on a real one, in tests/test_submit.py."""

from __future__ import annotations

import pytest

from dualprune.cluster import jobs
from dualprune.cluster.errors import ClusterError
from dualprune.cluster.jobs import Jobs, Listed, State, meant

RUNNING, DONE = State("RUNNING", False, None, ""), State("SUCCEEDED", True, 0, "")


class Dashboard(Jobs):
    """What it answers, one after the other; an error is that it is away."""

    def __init__(self, *answers: State | None) -> None:
        self.answers = list(answers)

    def state(self, job: str) -> State:
        """The next answer."""
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if answer is None:
            raise ClusterError("nothing answers")
        return answer

    async def _tail(self, job: str, skip: int, write: object) -> bool:
        return True


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No waiting between two looks."""
    monkeypatch.setattr(jobs, "AGAIN", 0.0)


def test_a_dashboard_that_is_away_for_a_moment_ends_nothing() -> None:
    """The job goes on without it, and so does who follows it."""
    assert Dashboard(RUNNING, None, RUNNING, None, None, RUNNING, RUNNING, None, DONE).follow("job", print) == DONE


def test_what_is_wrong_from_the_beginning_is_told_at_once() -> None:
    """A job that nobody knows, say: waiting does not help."""
    with pytest.raises(ClusterError, match="nothing answers"):
        Dashboard(None, DONE).follow("job", print)


def test_a_dashboard_that_stays_away_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a while."""
    monkeypatch.setattr(jobs, "AWAY", 0.05)
    with pytest.raises(ClusterError, match="nothing answers"):
        Dashboard(RUNNING, None).follow("job", print)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("mine", "mine-20260102-000000-aaaa"),
        ("mine-20260101-000000-bbbb", "mine-20260101-000000-bbbb"),
        ("mine-2", "mine-2-20260101-000000-cccc"),
        ("raysubmit_1", "raysubmit_1"),
        ("nobody", "nobody"),
    ],
)
def test_which_job_is_meant(given: str, expected: str) -> None:
    """Itself, by its id; or a run's newest; what there is not is asked for as it was given."""
    ids = ("raysubmit_1", "mine-20260102-000000-aaaa", "mine-20260101-000000-bbbb", "mine-2-20260101-000000-cccc")
    assert meant(given, [Listed(job, "RUNNING", None, None, "") for job in ids]) == expected
