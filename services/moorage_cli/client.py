"""The coordinator's REST API as the command line needs it: Flink's paths and fields."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote

import httpx
import msgspec

from moorage.cluster.protocol import RestoreFrom
from moorage.errors import MoorageError
from moorage.graph.job_graph import JobGraph

T = TypeVar("T")


class RestError(MoorageError):
    """The coordinator refused a request; carries its own words."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class CoordinatorUnreachableError(MoorageError):
    """Nothing that speaks our REST API answers at the address."""


class _NobodyThereError(CoordinatorUnreachableError):
    """Nobody has heard the request, so another coordinator may be asked."""


class NoLeaderError(RestError, CoordinatorUnreachableError):
    """Coordinators answer, but none that leads, or one that is too busy: worth asking again."""


class Overview(msgspec.Struct, frozen=True, kw_only=True, rename="kebab"):
    taskmanagers: int
    slots_total: int
    slots_available: int


class JobOverview(msgspec.Struct, frozen=True, kw_only=True, rename="kebab"):
    """Times in ms since 1970; ``end_time`` is -1 while the job runs."""

    jid: str
    name: str
    state: str
    start_time: int
    end_time: int
    duration: int
    tasks: dict[str, int]
    waiting_for: str | None = None
    """What a job that should run waits for."""
    failure: str | None = None
    """Why it was started again last, or has failed."""


class TaskManager(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A worker."""

    id: str
    slots_number: int
    free_slots: int


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """Why attempts of a job ended: the newest of the ``times`` that it happened. Times in ms since 1970; ``task`` and
    ``worker`` None: not one's fault."""

    cause: str = msgspec.field(name="exceptionName")
    trace: str = msgspec.field(name="stacktrace")
    timestamp: int
    task: str | None = msgspec.field(name="taskName", default=None)
    worker: str | None = msgspec.field(name="taskManagerId", default=None)
    attempt: int = 0
    times: int = 1
    first_timestamp: int = msgspec.field(name="firstTimestamp", default=0)


class CheckpointCounts(msgspec.Struct, frozen=True, kw_only=True):
    restored: int
    total: int
    in_progress: int
    completed: int
    failed: int


class CheckpointSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One checkpoint of the history. Times in ms since 1970, durations in ms, sizes in bytes."""

    id: int
    status: str
    is_savepoint: bool
    trigger_timestamp: int
    end_to_end_duration: int
    checkpointed_size: int
    state_size: int
    num_subtasks: int
    num_acknowledged_subtasks: int
    external_path: str | None = None
    failure_message: str | None = None


class Values(msgspec.Struct, frozen=True, kw_only=True):
    """Of some measure; all 0: there is none."""

    min: int = 0
    max: int = 0
    avg: int = 0
    p50: float = 0.0
    p90: float = 0.0
    p99: float = 0.0


class StatisticsSummary(msgspec.Struct, frozen=True, kw_only=True):
    """Of completed checkpoints. Durations in ms, sizes in bytes."""

    end_to_end_duration: Values = Values()
    checkpointed_size: Values = Values()
    state_size: Values = Values()
    processed_data: Values = Values()
    persisted_data: Values = Values()


class LatestCheckpoints(msgspec.Struct, frozen=True, kw_only=True):
    completed: CheckpointSummary | None = None
    savepoint: CheckpointSummary | None = None
    failed: CheckpointSummary | None = None


class CheckpointStatistics(msgspec.Struct, frozen=True, kw_only=True):
    counts: CheckpointCounts
    summary: StatisticsSummary = StatisticsSummary()
    latest: LatestCheckpoints = LatestCheckpoints()
    history: tuple[CheckpointSummary, ...]
    """Newest first."""


class VertexCheckpoint(msgspec.Struct, frozen=True, kw_only=True):
    """A vertex in a checkpoint. ``end_to_end_duration`` -1: none of its subtasks has acknowledged."""

    end_to_end_duration: int
    checkpointed_size: int
    state_size: int
    processed_data: int
    persisted_data: int
    num_subtasks: int
    num_acknowledged_subtasks: int


class CoordinatorAcknowledgement(msgspec.Struct, frozen=True, kw_only=True):
    """Who takes part in the coordinator. -1: it has not acknowledged."""

    ack_timestamp: int
    duration: int
    state_size: int


class Acknowledgements(msgspec.Struct, frozen=True, kw_only=True):
    """How many came, by what became of them."""

    success: int = 0
    duplicate: int = 0
    unknown: int = 0
    discarded: int = 0


class CheckpointDetails(CheckpointSummary, frozen=True, kw_only=True):
    """A checkpoint with its vertices."""

    discarded: bool = False
    tasks: dict[str, VertexCheckpoint]
    operator_coordinators: dict[str, CoordinatorAcknowledgement] = {}
    master_hooks: CoordinatorAcknowledgement | None = None
    acknowledgements: Acknowledgements = Acknowledgements()


class Durations(msgspec.Struct, frozen=True, kw_only=True):
    sync: int = 0
    async_: int = msgspec.field(name="async", default=0)


class Alignment(msgspec.Struct, frozen=True, kw_only=True):
    duration: int = 0


class SubtaskCheckpoint(msgspec.Struct, frozen=True, kw_only=True):
    """A subtask in a checkpoint. ``ack_timestamp`` None: it has not acknowledged, and the rest means nothing."""

    vertex: str = ""
    index: int
    ack_timestamp: int | None = None
    end_to_end_duration: int = 0
    checkpointed_size: int = 0
    start_delay: int = 0
    alignment: Alignment = Alignment()
    checkpoint: Durations = Durations()
    unaligned_checkpoint: bool = False

    def __str__(self) -> str:
        return f"{self.vertex}/{self.index}"


class _VertexSubtasks(msgspec.Struct, frozen=True):
    subtasks: tuple[SubtaskCheckpoint, ...]


class _Jobs(msgspec.Struct, frozen=True):
    jobs: tuple[JobOverview, ...]


class _ExceptionHistory(msgspec.Struct, frozen=True):
    entries: tuple[Failure, ...]


class _Exceptions(msgspec.Struct, frozen=True, rename="camel"):
    exception_history: _ExceptionHistory


class _TaskManagers(msgspec.Struct, frozen=True):
    taskmanagers: tuple[TaskManager, ...]


class _Submitted(msgspec.Struct, frozen=True):
    jobid: str


class _Triggered(msgspec.Struct, frozen=True, rename="kebab"):
    request_id: str


class _QueueStatus(msgspec.Struct, frozen=True):
    id: str


class _Cause(msgspec.Struct, frozen=True, rename="kebab"):
    stack_trace: str


class _Outcome(msgspec.Struct, frozen=True):
    location: str | None = None
    checkpoint_id: int | None = msgspec.field(name="checkpointId", default=None)
    failure: _Cause | None = msgspec.field(name="failure-cause", default=None)
    camel_failure: _Cause | None = msgspec.field(name="failureCause", default=None)


class _OperationResult(msgspec.Struct, frozen=True):
    status: _QueueStatus
    operation: _Outcome | None = None


class Operation:
    """Something that goes on in the coordinator after its answer."""

    def __init__(self, ask: Callable[[], _OperationResult]) -> None:
        self._ask = ask

    def wait(self, timeout_s: float | None = None) -> _Outcome:
        """Its outcome; RestError with the coordinator's words when it failed, or when time is out (it goes on)."""
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        delay_s = 0.02
        while (outcome := self._ask().operation) is None:
            if deadline_s is not None and time.monotonic() > deadline_s:
                raise RestError(f"not done after {timeout_s:g} s; it goes on", HTTPStatus.GATEWAY_TIMEOUT)
            time.sleep(delay_s)
            delay_s = min(1.5 * delay_s, 0.5)
        cause = outcome.failure or outcome.camel_failure
        if cause is not None:
            raise RestError(cause.stack_trace, HTTPStatus.CONFLICT)
        return outcome


class _Errors(msgspec.Struct, frozen=True):
    errors: tuple[str, ...]


class CoordinatorClient:
    """Each call is one request. RestError: the answer is an error; CoordinatorUnreachableError: there is none, or it is
    that nobody leads (NoLeaderError, which is both)."""

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        timeout_s: float = 10.0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """``url``: of a coordinator, or of several with commas between them; the one that leads is found. ``token``:
        sent as bearer token. ``transport``: in place of the network, for tests."""
        self.url = url
        headers = {"authorization": f"Bearer {token}"} if token else {}
        self._http = httpx.Client(headers=headers, timeout=timeout_s, transport=transport)
        try:
            self._urls = [_url(part.strip()) for part in url.split(",")]
        except (httpx.InvalidURL, ValueError) as error:
            raise CoordinatorUnreachableError(f"{url!r} is not an address of a coordinator: {error}") from None

    def overview(self) -> Overview:
        return self._get("/overview", Overview)

    def jobs(self) -> tuple[JobOverview, ...]:
        return self._get("/jobs/overview", _Jobs).jobs

    def task_managers(self) -> tuple[TaskManager, ...]:
        return self._get("/taskmanagers", _TaskManagers).taskmanagers

    def job(self, job: str) -> dict[str, Any]:
        """Flink's job details, as they are."""
        return self._get(_job_path(job), dict[str, Any])

    def failures(self, job: str) -> tuple[Failure, ...]:
        """Newest first, one for each cause."""
        return self._get(f"{_job_path(job)}/exceptions", _Exceptions).exception_history.entries

    def checkpoints(self, job: str) -> CheckpointStatistics:
        return self._get(f"{_job_path(job)}/checkpoints", CheckpointStatistics)

    def raw_checkpoints(self, job: str) -> msgspec.Raw:
        """All that the coordinator tells, as it is."""
        return self._get(f"{_job_path(job)}/checkpoints", msgspec.Raw)

    def checkpoint_details(self, job: str, number: int) -> CheckpointDetails:
        return self._get(f"{_job_path(job)}/checkpoints/details/{number}", CheckpointDetails)

    def raw_checkpoint(self, job: str, number: int) -> msgspec.Raw:
        return self._get(f"{_job_path(job)}/checkpoints/details/{number}", msgspec.Raw)

    def subtask_checkpoints(self, job: str, number: int, vertex: str) -> tuple[SubtaskCheckpoint, ...]:
        """Empty when the coordinator does not keep them for so long."""
        path = f"{_job_path(job)}/checkpoints/details/{number}/subtasks/{quote(vertex, safe='')}"
        try:
            found = self._get(path, _VertexSubtasks).subtasks
        except RestError as error:
            if error.status == HTTPStatus.NOT_FOUND:
                return ()
            raise
        return tuple(msgspec.structs.replace(subtask, vertex=vertex) for subtask in found)

    def checkpoint(self, job: str, *, full: bool = False) -> Operation:
        """Take one now. ``full``: it refers to no file of an earlier one."""
        path = f"{_job_path(job)}/checkpoints"
        return self._start(path, {"checkpointType": "FULL" if full else "CONFIGURED"}, path)

    def submit(self, graph: JobGraph, restore: RestoreFrom | None = None) -> str:
        """Start a job, from a savepoint perhaps; returns its id once the coordinator has stored it."""
        body = {"graph": graph, "restore": restore}
        return self._decode(self._send("POST", "/jobs", **_json(body)), _Submitted).jobid

    def cancel(self, job: str) -> None:
        """Returns once the coordinator has accepted it; the job ends a little later."""
        self._send("PATCH", _job_path(job), params={"mode": "cancel"})

    def savepoint(self, job: str, directory: str | None = None, *, native: bool = False) -> Operation:
        """``directory``: where the savepoint's own folder is made; None: at the job's usual place."""
        body = {"target-directory": directory, "formatType": _format(native)}
        return self._start(f"{_job_path(job)}/savepoints", body, f"{_job_path(job)}/savepoints")

    def stop(self, job: str, directory: str | None = None, *, native: bool = False, drain: bool = False) -> Operation:
        """Stop with a savepoint; it is done when the job has ended."""
        body = {"targetDirectory": directory, "formatType": _format(native), "drain": drain}
        return self._start(f"{_job_path(job)}/stop", body, f"{_job_path(job)}/savepoints")

    def cancel_with_savepoint(self, job: str, directory: str | None = None, *, native: bool = False) -> Operation:
        body = {"target-directory": directory, "formatType": _format(native), "cancel-job": True}
        return self._start(f"{_job_path(job)}/savepoints", body, f"{_job_path(job)}/savepoints")

    def dispose(self, savepoint: str) -> Operation:
        return self._start("/savepoint-disposal", {"savepoint-path": savepoint}, "/savepoint-disposal")

    def rescale(
        self, job: str, parallelism: int | None, vertices: Mapping[str, int], *, automatic: bool = False
    ) -> None:
        """Returns once an attempt with the new parallelism is stored. ``parallelism``: of the vertices that are not
        named; None: they keep theirs."""
        path = f"{_job_path(job)}/resource-requirements"
        present = self._get(path, dict[str, Any])
        if unknown := sorted(vertices.keys() - present.keys()):
            raise RestError(f"job {job} has no vertex {unknown[0]!r}; it has {', '.join(sorted(present))}", 404)
        wanted = {name: vertices.get(name, parallelism) for name in present}
        body = {
            name: {"parallelism": {"lowerBound": 1, "upperBound": number}}
            for name, number in wanted.items()
            if number is not None
        }
        self._send("PUT", path, params={"automatic": "true"} if automatic else {}, **_json(body), timeout=None)

    def _start(self, path: str, body: object, outcomes: str) -> Operation:
        trigger = self._decode(self._send("POST", path, **_json(body)), _Triggered).request_id
        return Operation(lambda: self._get(f"{outcomes}/{trigger}", _OperationResult))

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _get(self, path: str, kind: type[T]) -> T:
        return self._decode(self._send("GET", path), kind)

    def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        """The answer of the first coordinator that does not send us to another one."""
        *others, last = self._urls
        for url in others:
            try:
                return self._send_to(url, method, path, **options)
            except (NoLeaderError, _NobodyThereError):
                continue
        return self._send_to(last, method, path, **options)

    def _send_to(self, url: httpx.URL, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            response = self._http.request(method, f"{url}{path}", **options)
        except httpx.ConnectError as error:
            raise _NobodyThereError(f"no coordinator answers at {url}: {error}") from None
        except (httpx.TransportError, httpx.UnsupportedProtocol) as error:
            raise CoordinatorUnreachableError(f"no coordinator answers at {url}: {error}") from None
        if response.is_success:
            return response
        kind = NoLeaderError if response.status_code == HTTPStatus.SERVICE_UNAVAILABLE else RestError
        raise kind(_reason(response), response.status_code)

    def _decode(self, response: httpx.Response, kind: type[T]) -> T:
        try:
            return msgspec.json.decode(response.content, type=kind)
        except (ValueError, RecursionError) as error:
            raise CoordinatorUnreachableError(
                f"{response.url} answers, but not as a coordinator of this version does: {error}"
            ) from None


def _url(text: str) -> httpx.URL:
    """``localhost:8081`` is enough; a scheme of http is meant."""
    return httpx.URL((text if "://" in text else f"http://{text}").rstrip("/"))


def _json(body: object) -> dict[str, Any]:
    return {"content": msgspec.json.encode(body), "headers": {"content-type": "application/json"}}


def _format(native: bool) -> str:
    return "NATIVE" if native else "CANONICAL"


def _job_path(job: str) -> str:
    return f"/jobs/{quote(job, safe='')}"


def _reason(response: httpx.Response) -> str:
    """The coordinator's own words; Flink puts the readable line first and a stack trace after it."""
    try:
        errors = msgspec.json.decode(response.content, type=_Errors).errors
    except (ValueError, RecursionError):
        errors = ()
    return errors[0] if errors else f"{response.request.url} answered {response.status_code} {response.reason_phrase}"
