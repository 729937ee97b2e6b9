"""`moorage dev`: the whole stack on one machine for the user's own pipeline, until Ctrl-C."""

from __future__ import annotations

import queue
import time
from collections.abc import Sequence
from contextlib import closing
from http import HTTPStatus
from pathlib import Path
from typing import NoReturn

from rich.console import Group, RenderableType

from moorage.api.compiler import CompiledPipeline
from moorage.graph.job_graph import JobGraph
from moorage.messages.registry import JobStatus
from moorage_cli.checkpoint_view import statistics_view, summary_line
from moorage_cli.client import (
    CheckpointStatistics,
    CoordinatorClient,
    CoordinatorUnreachableError,
    Failure,
    JobOverview,
    RestError,
)
from moorage_cli.embedded.errors import StackError, log_tail
from moorage_cli.embedded.processes import ProcessExit
from moorage_cli.embedded.stack import Stack
from moorage_cli.failure_view import troubles
from moorage_cli.kafka import connect, create_missing, topics_of
from moorage_cli.screen import Screen, jobs_table, processes_table

POLL_S = 0.5
DEFAULT_PARTITIONS = 4


def prepare(stack: Stack, client: CoordinatorClient, pipeline: CompiledPipeline, screen: Screen) -> None:
    """Make the topics that are missing, and the job run: from its last checkpoint if this data directory knows it."""
    partitions = max(DEFAULT_PARTITIONS, pipeline.graph.slots)
    with closing(connect(stack.bootstrap_servers)) as log:
        created = create_missing(log, topics_of(pipeline), partitions)
    if created:
        screen.event(f"created the topics {', '.join(created)} with {partitions} partitions each")
    if goes_on(client.jobs(), pipeline.graph):
        refuse_another(client.job(pipeline.graph.job)["fingerprint"], pipeline.graph, stack.data_dir)
        screen.event(f"{pipeline.graph.job} goes on from its last checkpoint")
    elif (ended := has_ended(client.jobs(), pipeline.graph)) is not None:
        screen.event(
            f"{pipeline.graph.job} is {ended}: an earlier run here has ended, so it is not started by itself."
            f" `moorage submit {pipeline.graph.pipeline_ref}` begins anew, with --from SAVEPOINT it goes on from there",
            "yellow",
        )
    else:
        screen.event(f"submitted {client.submit(pipeline.graph)}")


def goes_on(jobs: Sequence[JobOverview], graph: JobGraph) -> bool:
    """An earlier start left the job of this pipeline unfinished, so the coordinator runs it again by itself."""
    return any(job.jid == graph.job and not JobStatus(job.state).is_terminal for job in jobs)


def has_ended(jobs: Sequence[JobOverview], graph: JobGraph) -> str | None:
    """The status in which an earlier run of this pipeline ended; None: there was none, or it goes on."""
    return next((job.state for job in jobs if job.jid == graph.job and JobStatus(job.state).is_terminal), None)


def refuse_another(fingerprint: str, graph: JobGraph, data_dir: Path) -> None:
    """StackError when the job that goes on has another fingerprint: no worker would run it with this pipeline."""
    if fingerprint != graph.fingerprint:
        raise StackError(
            f"{graph.job} was started in {data_dir} as another pipeline. Take back what changed in its operators since,"
            " or start anew in another --data-dir."
        )


class FailureNews:
    """Tells the newest failure of a job, with its trace when its cause is new; one that comes again and again less and
    less often."""

    def __init__(self, screen: Screen, since_ms: int = 0) -> None:
        """``since_ms``: what is older was told by an earlier run."""
        self._screen = screen
        self._since_ms = since_ms
        self._told: dict[int, int] = {}
        """By the time when a cause first appeared: how often it had come when it was told last."""

    def tell(self, failures: Sequence[Failure]) -> None:
        """``failures``: of the job, newest first, one for each cause."""
        if not failures or failures[0].timestamp < self._since_ms:
            return
        newest = failures[0]
        cause = newest.first_timestamp or newest.timestamp
        told = self._told.get(cause, 0)
        if newest.times < max(1, 2 * told):
            return
        self._told[cause] = newest.times
        self._screen.event(newest.cause if newest.times == 1 else f"{newest.times} times: {newest.cause}", "red")
        if not told:
            self._screen.text(newest.trace)


class Watch:
    """What is shown while the pipeline runs."""

    def __init__(
        self, stack: Stack, client: CoordinatorClient, graph: JobGraph, exits: queue.Queue[ProcessExit], screen: Screen
    ) -> None:
        """``exits``: where the stack reports processes that died."""
        self._stack = stack
        self._client = client
        self._job = graph.job
        self._exits = exits
        self._screen = screen
        self._jobs: Sequence[JobOverview] = ()
        self._statistics: CheckpointStatistics | None = None
        self._state = ""
        self._failures = FailureNews(screen, since_ms=time.time_ns() // 1_000_000)

    def run(self) -> NoReturn:
        """Until interrupted; StackError when a server has died, which nothing starts again."""
        while True:
            self._ask()
            self._screen.update(self._view, self._line)
            self._report_exits()

    def _ask(self) -> None:
        try:
            self._jobs = self._client.jobs()
            self._statistics = self._checkpoints()
            failures = self._client.failures(self._job)
        except (CoordinatorUnreachableError, RestError) as error:
            state = str(error)
        else:
            state = next((f"{job.jid} is {job.state}" for job in self._jobs if job.jid == self._job), "")
            self._failures.tell(failures)
        if state != self._state:
            self._state = state
            self._screen.event(state)

    def _checkpoints(self) -> CheckpointStatistics | None:
        """None: the job takes none."""
        try:
            return self._client.checkpoints(self._job)
        except RestError as error:
            if error.status == HTTPStatus.NOT_FOUND:
                return None
            raise

    def _report_exits(self) -> None:
        """Until the next question is due, tell at once about every process that dies."""
        deadline_s = time.monotonic() + POLL_S
        while (remaining_s := deadline_s - time.monotonic()) > 0:
            try:
                exit_ = self._exits.get(timeout=remaining_s)
            except queue.Empty:
                return
            if not exit_.restarts:
                raise StackError(f"{exit_}. {log_tail(self._stack.processes[exit_.name].spec.log)}")
            self._screen.event(f"{exit_}; starting it again", "yellow")

    def _view(self) -> RenderableType:
        tables: list[RenderableType] = [jobs_table(self._jobs), *troubles(self._jobs)]
        if self._statistics is not None:
            tables.append(statistics_view(self._statistics, 5))
        return Group(*tables, processes_table(self._stack.processes))

    def _line(self) -> str:
        if self._statistics is None:
            return self._state
        return f"{self._state}; checkpoints: {summary_line(self._statistics)}"
