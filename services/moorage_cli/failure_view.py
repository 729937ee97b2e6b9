"""Why attempts of jobs ended, for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.text import Text

from moorage_cli.client import Failure, JobOverview
from moorage_cli.screen import time_text


def failures_text(failures: Sequence[Failure], *, traces: bool) -> Text:
    """Newest first: when, which attempt, where, then the cause; no table, because causes are long."""
    text = Text()
    for failure in failures:
        where = "" if failure.task is None else f"  {failure.task}"
        where += "" if failure.worker is None else f"  on {failure.worker}"
        text.append(time_text(failure.timestamp), "bold").append(f"  attempt {failure.attempt}{where}")
        if failure.times > 1:
            text.append(f"  ({failure.times} times since {time_text(failure.first_timestamp)})", "yellow")
        text.append(f"\n  {failure.cause}\n", "red")
        if traces and failure.trace != failure.cause:
            text.append("".join(f"    {line}\n" for line in failure.trace.rstrip().splitlines()))
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
