"""What `submit --wait` and `--wait-end` wait for: a job that runs, or one that has ended."""

from __future__ import annotations

import time
from collections.abc import Callable
from http import HTTPStatus

from moorage.errors import MoorageError
from moorage.messages.registry import JobStatus
from moorage_cli.client import CoordinatorClient, CoordinatorUnreachableError, JobOverview, RestError

POLL_S = 0.25


class JobEndedError(MoorageError):
    """The job has ended otherwise than was waited for."""


def wait_for_job(
    client: CoordinatorClient,
    job: str,
    *,
    until_end: bool,
    timeout_s: float | None,
    tell: Callable[[str], object],
    sleep: Callable[[float], None] = time.sleep,
) -> str:
    """The state that the job has come to: RUNNING, with every subtask, or FINISHED. ``until_end``: only the latter.

    ``tell``: what it does meanwhile, for people, each time that it changes. JobEndedError: it has failed or was
    cancelled. RestError: time is out; the job goes on. A coordinator that does not answer is asked again.
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
        if progress != told:
            told = progress
            tell(progress)
        if deadline_s is not None and time.monotonic() > deadline_s:
            raise RestError(f"{progress} after {timeout_s:g} s; it goes on", HTTPStatus.GATEWAY_TIMEOUT)
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
    """One line: the state, what it waits for, and why it was started again if it was."""
    text = f"{job.jid} is {job.state}"
    if job.state == "RUNNING":
        running, total = _tasks(job)
        text += f" with {running} of {total} tasks"
    elif job.waiting_for is not None:
        text += f" and waits for {job.waiting_for}"
    return text if job.failure is None else f"{text}; last failure: {job.failure}"


def _tasks(job: JobOverview) -> tuple[int, int]:
    return job.tasks.get("running", 0) + job.tasks.get("finished", 0), job.tasks.get("total", 0)
