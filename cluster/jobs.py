"""Ray Jobs: a command sent to a cluster with the files that it needs; how it is, what it prints, its end."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from dualprune.cluster.errors import ClusterError
from dualprune.cluster.session import WAY_IN, reach, settings, token

STOPPING = 60
"""Seconds that a stopped job gets to leave in order, before Ray kills it."""
AGAIN = 1.0
"""Seconds between two looks at a job."""
ID = re.compile(r"(?P<run>.+)-\d{8}-\d{6}-[0-9a-f]{4}")
"""What jobs are named by `submit`: for their runs."""
AWAY = 60.0
"""Seconds that the dashboard may not answer while a job is followed or stopped."""


@dataclass(frozen=True)
class State:
    """How a job is."""

    status: str
    """Ray's word: PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED."""
    ended: bool
    exit_code: int | None
    """Of its command, if that ended by itself."""
    message: str


@dataclass(frozen=True)
class Listed:
    """A job among others."""

    job: str
    """Its id."""
    status: str
    """As in `State`."""
    started: float | None
    """In seconds since 1970; None of one that has not."""
    ended: float | None
    message: str


class Jobs:
    """The jobs of the cluster whose dashboard is at `address` (http://HOST:8265). All methods raise ClusterError."""

    def __init__(self, address: str) -> None:
        self.address = _checked(address)
        # Ray looks for these when it is imported; and what the last one says goes before an address that it is given.
        for name, value in settings(local=False).items():
            os.environ.setdefault(name, value)
        os.environ["RAY_API_SERVER_ADDRESS"] = self.address
        from ray.job_submission import JobSubmissionClient

        for name in ("ray", "ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk"):
            logging.getLogger(name).setLevel(logging.ERROR)
        with _explained(self.address):
            self._client = JobSubmissionClient(self.address)

    def submit(self, name: str, command: str, folder: Path) -> str:
        """Start a shell command on the head in a copy of `folder`, which its workers get too. Returns the job's id."""
        identity = f"{name}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
        environment = {"working_dir": str(folder), "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOPPING)}}
        with _explained(self.address):
            self._client.submit_job(entrypoint=command, submission_id=identity, runtime_env=environment)
        return identity

    def state(self, job: str) -> State:
        """How a job is now."""
        with _explained(self.address, job):
            info: Any = self._client.get_job_info(job)
        return State(str(info.status), info.status.is_terminal(), info.driver_exit_code, info.message or "")

    def all(self) -> list[Listed]:
        """All submitted jobs that the cluster remembers, the newest first."""
        with _explained(self.address):
            found: list[Any] = [job for job in self._client.list_jobs() if job.submission_id]
        listed = [
            Listed(
                job.submission_id, str(job.status), _seconds(job.start_time), _seconds(job.end_time), job.message or ""
            )
            for job in found
        ]
        return sorted(listed, key=lambda job: job.started or time.time(), reverse=True)

    def log(self, job: str) -> str:
        """All that a job has printed so far."""
        with _explained(self.address, job):
            return str(self._client.get_job_logs(job))

    def follow(self, job: str, write: Callable[[str], None]) -> State:
        """Hand what a job prints to `write` as it comes; returns once the job has ended and all is handed over."""
        seen = 0

        def fresh(text: str) -> None:
            nonlocal seen
            seen += len(text)
            write(text)

        self.state(job)  # of a job that nobody knows, or a wrong token, it is told at once
        while True:
            ended = self._patiently(job).ended
            whole = asyncio.run(self._tail(job, seen, fresh))
            state = self._patiently(job)
            if state.ended and (whole or ended):
                return state
            time.sleep(AGAIN)  # the connection broke, which the job knows nothing of

    async def _tail(self, job: str, skip: int, write: Callable[[str], None]) -> bool:
        """Hand over a job's output from its `skip`-th character on; whether the connection held to its end."""
        import aiohttp

        try:
            async for text in self._client.tail_job_logs(job):
                if skip < len(text):
                    write(text[skip:])
                skip = max(0, skip - len(text))
        except (RuntimeError, aiohttp.ClientError, OSError) as error:
            logging.getLogger(__name__).info("the connection to %s broke: %s", self.address, error)
            return False
        return True

    def stop(self, job: str) -> State:
        """Ask a job to leave in order, and wait until it has; returns at once for one that has ended."""
        with _explained(self.address, job):
            self._client.stop_job(job)
        while not (state := self._patiently(job)).ended:
            time.sleep(AGAIN)
        return state

    def _patiently(self, job: str) -> State:
        """How a job is; a dashboard that does not answer is given `AWAY` seconds."""
        limit = time.monotonic() + AWAY
        while True:
            try:
                return self.state(job)
            except ClusterError:
                if time.monotonic() > limit:
                    raise
                time.sleep(AGAIN)


def meant(given: str, listed: Sequence[Listed]) -> str:
    """The id of the job that is meant among those of a cluster, the newest first: itself, or the first of a run."""
    if given in [one.job for one in listed]:
        return given
    of_run = (one.job for one in listed if (found := ID.fullmatch(one.job)) and found["run"] == given)
    return next(of_run, given)


def _seconds(given: int | None) -> float | None:
    """Ray's milliseconds."""
    return None if given is None else given / 1000


def _checked(address: str) -> str:
    """The URL of a dashboard that answers."""
    url = (address if "://" in address else f"http://{address}").rstrip("/")
    parts = urlsplit(url)
    try:
        ports = {"http": 80, "https": 443}
        if parts.scheme not in ports or not parts.hostname:
            raise ValueError
        reach(f"{parts.hostname}:{parts.port or ports[parts.scheme]}")
    except ValueError:
        raise ClusterError(f"{address} is no address of a Ray dashboard, which reads http://HOST:8265") from None
    return url


@contextmanager
def _explained(address: str, job: str | None = None) -> Iterator[None]:
    """Turn what Ray's client raises into a ClusterError that says what to do."""
    from ray.exceptions import AuthenticationError

    try:
        yield
    except AuthenticationError as error:
        raise ClusterError(unauthorised(address, token())) from error
    except (RuntimeError, OSError, ValueError, KeyError) as error:
        if job is not None and "status code 404" in str(error):
            raise ClusterError(f"{address} knows no job {job}") from error
        raise ClusterError(f"the Ray dashboard at {address} did not do as asked: {error}") from error


def unauthorised(address: str, found: str | None) -> str:
    """What to tell a user whom a cluster turned away, with a token from `found` or without one."""
    what = "wants a token, and there is none here" if found is None else f"refuses the token in {found}"
    return f"{address} {what}: {WAY_IN}"
