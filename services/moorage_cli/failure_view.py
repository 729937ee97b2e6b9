"""Why attempts of jobs ended, for people: what is repeated is said once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from rich.text import Text

from moorage_cli.client import Failure, JobOverview
from moorage_cli.screen import time_text


class FoldedFailure(NamedTuple):
    """Failures in a row with the same cause at the same place."""

    newest: Failure
    oldest: Failure
    times: int


def fold(failures: Iterable[Failure]) -> list[FoldedFailure]:
    """``failures``: newest first, and so is what comes out."""
    folded: list[FoldedFailure] = []
    for failure in failures:
        if folded and _place(folded[-1].newest) == _place(failure):
            newest, _, times = folded[-1]
            folded[-1] = FoldedFailure(newest, failure, times + 1)
        else:
            folded.append(FoldedFailure(failure, failure, 1))
    return folded


def failures_text(failures: Sequence[Failure], *, traces: bool) -> Text:
    """Newest first: when, which attempt, where, then the cause; no table, because causes are long."""
    text = Text()
    for newest, oldest, times in fold(failures):
        where = "" if newest.task is None else f"  {newest.task}"
        where += "" if newest.worker is None else f"  on {newest.worker}"
        text.append(time_text(newest.timestamp), "bold").append(f"  attempt {newest.attempt}{where}")
        if times > 1:
            text.append(f"  ({times} times since {time_text(oldest.timestamp)})", "yellow")
        text.append(f"\n  {newest.cause}\n", "red")
        if traces and newest.trace != newest.cause:
            text.append("".join(f"    {line}\n" for line in newest.trace.rstrip().splitlines()))
    return text


def troubles(jobs: Iterable[JobOverview]) -> list[Text]:
    """What jobs wait for that should run and do not, and why they were stopped: a line for each reason."""
    waiting: dict[str, list[str]] = {}
    for job in jobs:
        if job.state not in ("RUNNING", "FINISHED", "CANCELED"):
            for reason in (f"waits for {job.waiting_for}" if job.waiting_for else None, job.failure):
                if reason:
                    waiting.setdefault(reason, []).append(job.jid)
    return [Text(f"{', '.join(names)}: {reason}") for reason, names in waiting.items()]


def _place(failure: Failure) -> tuple[str, str | None, str | None]:
    return failure.cause, failure.task, failure.worker
