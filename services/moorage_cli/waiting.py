"""What `submit --wait` and `--wait-end` wait for: a job that runs, or one that has ended."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from http import HTTPStatus

from moorage.errors import MoorageError
from moorage.messages.registry import JobStatus
from moorage_cli.client import CoordinatorClient, CoordinatorUnreachableError, JobOverview, RestError

POLL_S = 0.25
_NUMBERS = re.compile(r"[0-9a-f]*[0-9][0-9a-f]*")
"""Offsets, times and incarnations, which differ from one failure to the next."""


class JobEndedError(MoorageError):
    """The job has ended otherwise than was waited for."""


def wait_for_job(
    client: CoordinatorClient,
    job: str,
    *,
    until_end: bool,
    timeout_s: float | None,
    tell: Callable[[str], object],
    tell_failure: Callable[[str], object],
    sleep: Callable[[float], None] = time.sleep,
) -> str:
    """The state that the job has come to: RUNNING, with every subtask, or FINISHED. ``until_end``: only the latter.

    ``tell``: what it does meanwhile, for people, at every look; ``tell_failure``: why it was started again, when that
    is another reason than the last time. JobEndedError: it has failed or was cancelled. RestError: time is out; the
    job goes on. A coordinator that does not answer is asked again.
    """
    deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
    told = ""
    while True:
        try:
            found = next((known for known in client.jobs() if known.jid == job), None)
        except CoordinatorUnreachableError as error:
            found, progress = None, str(error)
        else:
            if found is None:
                raise JobEndedError(f"{job} is gone: somebody has purged it")
            if (state := _come_to(found, until_end=until_end)) is not None:
                return state
            progress = progress_text(found)
            cause = _NUMBERS.sub("", found.failure or "")
            if cause not in ("", told):
                tell_failure(found.failure or "")
            told = cause or told
        tell(progress)
        if deadline_s is not None and time.monotonic() > deadline_s:
            raise RestError(
                f"no more waiting after {timeout_s:g} s: {progress}; it goes on", HTTPStatus.GATEWAY_TIMEOUT
            )
        sleep(POLL_S)


def _come_to(job: JobOverview, *, until_end: bool) -> str | None:
    """None: not yet."""
    status = JobStatus(job.state)
    if status is JobStatus.FINISHED:
        return job.state
    if status.has_ended:
        raise JobEndedError(f"{job.jid} is {job.state}: {job.failure}" if job.failure else f"{job.jid} is {job.state}")
    running, total = _tasks(job)
    return job.state if status is JobStatus.RUNNING and running == total and not until_end else None


def progress_text(job: JobOverview) -> str:
    """One line: the state, and what it waits for."""
    text = f"{job.jid} is {job.state}"
    if job.state == "RUNNING":
        running, total = _tasks(job)
        text += f" with {running} of {total} tasks"
    elif job.waiting_for is not None:
        text += f" and waits for {job.waiting_for}"
    return text


def _tasks(job: JobOverview) -> tuple[int, int]:
    return job.tasks.get("running", 0) + job.tasks.get("finished", 0), job.tasks.get("total", 0)
