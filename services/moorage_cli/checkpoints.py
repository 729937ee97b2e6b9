"""The commands that show and take checkpoints, and show why a job failed."""

from __future__ import annotations

import time
from http import HTTPStatus
from typing import Annotated

import typer
from rich.console import Group, RenderableType

from moorage_cli.checkpoint_view import details_view, statistics_view, summary_line, summary_table
from moorage_cli.client import (
    CheckpointDetails,
    CheckpointStatistics,
    CoordinatorClient,
    CoordinatorUnreachableError,
    RestError,
    SubtaskCheckpoint,
)
from moorage_cli.common import AsJson, Job, Rest, connect_client, err, out, print_json
from moorage_cli.failure_view import failures_text
from moorage_cli.interrupts import until_interrupted
from moorage_cli.screen import Screen

WATCH_INTERVAL_S = 1.0

Id = Annotated[int | None, typer.Option("--id", min=1, metavar="N", help="One checkpoint with its slowest subtasks.")]
Timeout = Annotated[float | None, typer.Option(min=0.1, help="Stop waiting after so many seconds; it goes on.")]


def checkpoints(
    job: Job,
    number: Id = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Show it anew every second, until Ctrl-C.")] = False,
    rest: Rest = None,
    as_json: AsJson = False,
) -> None:
    """Show a job's newest checkpoints, or one of them in full."""
    if watch and (as_json or number is not None):
        raise typer.BadParameter("--watch shows the history; it goes with neither --json nor --id")
    with connect_client(rest) as client:
        if watch:
            with until_interrupted(exit_code=0), Screen(out) as screen:
                _watch(client, job, screen)
        if number is not None:
            _show_one(client, job, number, as_json=as_json)
        elif as_json:
            print_json(client.raw_checkpoints(job))
        else:
            statistics = client.checkpoints(job)
            out.print(_history(statistics))


def _history(statistics: CheckpointStatistics) -> RenderableType:
    """Without a summary where there is none: a new leader has seen no checkpoint yet."""
    if not statistics.summary.end_to_end_duration.max:
        return statistics_view(statistics)
    return Group(statistics_view(statistics), "", summary_table(statistics))


def _watch(client: CoordinatorClient, job: str, screen: Screen) -> None:
    """While no coordinator answers, what was known last stays."""
    unreachable = ""
    while True:
        try:
            statistics = client.checkpoints(job)
        except CoordinatorUnreachableError as error:
            if str(error) != unreachable:
                unreachable = str(error)
                screen.event(unreachable, "yellow")
        else:
            unreachable = ""
            view = _history(statistics)
            screen.update(lambda view=view: view, lambda statistics=statistics: summary_line(statistics))  # type: ignore[misc]
        time.sleep(WATCH_INTERVAL_S)


def _show_one(client: CoordinatorClient, job: str, number: int, *, as_json: bool) -> None:
    if as_json:
        print_json(client.raw_checkpoint(job, number))
        return
    details = client.checkpoint_details(job, number)
    out.print(details_view(details, _subtasks(client, job, details)))


def _subtasks(client: CoordinatorClient, job: str, details: CheckpointDetails) -> list[SubtaskCheckpoint]:
    return [subtask for vertex in details.tasks for subtask in client.subtask_checkpoints(job, details.id, vertex)]


def checkpoint(
    job: Job,
    full: Annotated[bool, typer.Option("--full", help="One that refers to no file of an earlier one.")] = False,
    timeout: Timeout = None,
    rest: Rest = None,
    as_json: AsJson = False,
) -> None:
    """Take a checkpoint now and wait for it; the exit code tells whether it was completed."""
    with connect_client(rest) as client:
        with err.status(f"checkpoint of {job}"):
            number = client.checkpoint(job, full=full).wait(timeout).checkpoint_id
        assert number is not None
        details = _details(client, job, number)
    if as_json:
        duration_ms = None if details is None else details.end_to_end_duration
        external_path = None if details is None else details.external_path
        print_json({"id": number, "duration_ms": duration_ms, "external_path": external_path})
    elif details is None:
        out.print(f"checkpoint {number} of {job} was completed; it has left the history already", highlight=False)
    else:
        out.print(details_view(details, []), highlight=False)


def _details(client: CoordinatorClient, job: str, number: int) -> CheckpointDetails | None:
    """None: newer ones have pushed it out of the history, or its job is gone."""
    try:
        return client.checkpoint_details(job, number)
    except RestError as error:
        if error.status == HTTPStatus.NOT_FOUND:
            return None
        raise


def exceptions(
    job: Job,
    traces: Annotated[bool, typer.Option("--traces", help="With the tracebacks.")] = False,
    rest: Rest = None,
    as_json: AsJson = False,
) -> None:
    """Show why attempts of a job ended: the cause, the task and the worker, newest first."""
    with connect_client(rest) as client:
        failures = client.failures(job)
    if as_json:
        print_json(failures)
    elif failures:
        out.print(failures_text(failures, traces=traces), end="")
    else:
        out.print(f"no attempt of {job} has failed", highlight=False)
