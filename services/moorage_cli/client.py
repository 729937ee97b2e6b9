"""The coordinator's REST API as the command line needs it: Flink's paths and fields."""

from __future__ import annotations

from http import HTTPStatus
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote

import httpx
import msgspec

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


class Failure(msgspec.Struct, frozen=True, kw_only=True, rename={"cause": "exceptionName", "trace": "stacktrace"}):
    """Why one attempt of a job ended. ``timestamp`` in ms since 1970."""

    cause: str
    trace: str
    timestamp: int


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


class CheckpointStatistics(msgspec.Struct, frozen=True, kw_only=True):
    counts: CheckpointCounts
    history: tuple[CheckpointSummary, ...]
    """Newest first."""


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


class _Errors(msgspec.Struct, frozen=True):
    errors: tuple[str, ...]


class CoordinatorClient:
    """Each call is one request. RestError: the answer is an error; CoordinatorUnreachableError: there is none."""

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
            self._urls = [httpx.URL(part.strip().rstrip("/")) for part in url.split(",")]
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
        """Newest first, as far as the present leader has seen them."""
        return self._get(f"{_job_path(job)}/exceptions", _Exceptions).exception_history.entries

    def checkpoints(self, job: str) -> CheckpointStatistics:
        return self._get(f"{_job_path(job)}/checkpoints", CheckpointStatistics)

    def submit(self, graph: JobGraph) -> str:
        """Start a job; returns its id once the coordinator has stored it."""
        body = msgspec.json.encode({"graph": graph, "restore": None})
        headers = {"content-type": "application/json"}
        return self._decode(self._send("POST", "/jobs", content=body, headers=headers), _Submitted).jobid

    def cancel(self, job: str) -> None:
        """Returns once the coordinator has accepted it; the job ends a little later."""
        self._send("PATCH", _job_path(job), params={"mode": "cancel"})

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
            except RestError as error:
                if error.status != HTTPStatus.SERVICE_UNAVAILABLE:
                    raise
            except _NobodyThereError:
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
        raise RestError(_reason(response), response.status_code)

    def _decode(self, response: httpx.Response, kind: type[T]) -> T:
        try:
            return msgspec.json.decode(response.content, type=kind)
        except msgspec.DecodeError as error:
            raise CoordinatorUnreachableError(
                f"{response.url} answers, but not as a coordinator of this version does: {error}"
            ) from None


def _job_path(job: str) -> str:
    return f"/jobs/{quote(job, safe='')}"


def _reason(response: httpx.Response) -> str:
    """The coordinator's own words; Flink puts the readable line first and a stack trace after it."""
    try:
        errors = msgspec.json.decode(response.content, type=_Errors).errors
    except msgspec.DecodeError:
        errors = ()
    return errors[0] if errors else f"{response.request.url} answered {response.status_code} {response.reason_phrase}"
