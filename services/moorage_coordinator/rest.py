"""The REST API: Flink's paths and JSON (see ``flink``), served by a thread of its own.

A handler asks the coordinator's loop through the desk and waits for the answer; it never touches the core. A
coordinator that does not lead answers 503 and names the one that does. Errors have Flink's shape:
``{"errors": [...]}``.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from threading import Thread
from typing import Annotated, Any

import msgspec
import uvicorn
from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

import moorage
from moorage.checkpoint.notices import CheckpointDone, CheckpointFailed
from moorage.cluster.protocol import (
    CancelRequested,
    CheckpointRequested,
    ClientRequest,
    OverviewRequested,
    Refusal,
    Refused,
    SubmitJob,
)
from moorage.cluster.views import ClusterView, JobView
from moorage.errors import SettingError
from moorage.graph.job_graph import JobGraph
from moorage.ids import JobId
from moorage_coordinator import flink
from moorage_coordinator.desk import RequestDesk

ANSWER_TIMEOUT_S = 30.0
BODY_BYTES_MAX = 16 << 20
TRIGGERS_KEPT = 1_000
VERSION = f"moorage-{moorage.__version__}"

_STATUS = {
    Refusal.NOT_LEADER: 503,
    Refusal.UNAVAILABLE: 503,
    Refusal.NOT_FOUND: 404,
    Refusal.CONFLICT: 409,
    Refusal.INVALID: 400,
}


class Submission(msgspec.Struct, forbid_unknown_fields=True):
    """Body of POST /jobs."""

    graph: JobGraph
    restore: None = None


class RestError(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def create_app(desk: RequestDesk, *, token: str | None, storage_url: str) -> FastAPI:
    """The application without its server. ``token``: what callers must send as bearer token; None: nothing."""
    app = FastAPI(title="Moorage coordinator", version=moorage.__version__, redoc_url=None)
    api = _Api(desk, storage_url)
    for method, path, handler in (
        ("GET", "/overview", api.overview),
        ("GET", "/config", api.config),
        ("GET", "/taskmanagers", api.taskmanagers),
        ("GET", "/jobs", api.jobs),
        ("POST", "/jobs", api.submit),
        ("GET", "/jobs/overview", api.jobs_overview),
        ("GET", "/jobs/{job_id}", api.job),
        ("PATCH", "/jobs/{job_id}", api.cancel),
        ("GET", "/jobs/{job_id}/exceptions", api.exceptions),
        ("GET", "/jobs/{job_id}/checkpoints", api.checkpoints),
        ("POST", "/jobs/{job_id}/checkpoints", api.trigger),
        ("GET", "/jobs/{job_id}/checkpoints/{trigger_id}", api.trigger_status),
    ):
        app.add_api_route(path, handler, methods=[method], response_class=Response)
    app.add_exception_handler(RestError, _on_rest_error)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(RequestValidationError, _on_invalid_request)
    if token is not None:
        app.add_middleware(_BearerToken, token=token)
    return app


class RestServer:
    """Serves an app on an address. The port is bound at once, so a port in use is told before anything starts."""

    def __init__(self, host: str, port: int) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.socket(family)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind((host, port))
        except OSError as error:
            self._socket.close()
            raise SettingError(
                f"MOORAGE_REST_PORT={port}: {host}:{port} can't be listened at ({error.strerror});"
                " choose another, or 0 for a free one"
            ) from error
        self.port = int(self._socket.getsockname()[1])
        self._server: uvicorn.Server | None = None
        self._thread: Thread | None = None

    def start(self, app: ASGIApp) -> None:
        config = uvicorn.Config(
            app, log_config=None, log_level="warning", access_log=False, lifespan="off", timeout_graceful_shutdown=1
        )
        self._server = uvicorn.Server(config)
        self._thread = Thread(target=self._server.run, kwargs={"sockets": [self._socket]}, name="rest", daemon=True)
        self._thread.start()

    def close(self) -> None:
        if self._server is not None and self._thread is not None:
            self._server.should_exit = True
            self._thread.join(timeout=3)
        self._socket.close()


class _Api:
    """One method per path."""

    def __init__(self, desk: RequestDesk, storage_url: str) -> None:
        self._desk = desk
        self._storage_url = storage_url
        self._triggers: OrderedDict[str, tuple[str, Future[object]]] = OrderedDict()

    async def overview(self) -> Response:
        return _json(flink.overview(await self._view(), VERSION))

    async def config(self) -> Response:
        return _json(flink.config(VERSION))

    async def taskmanagers(self) -> Response:
        return _json(flink.taskmanagers(await self._view()))

    async def jobs(self) -> Response:
        return _json(flink.jobs(await self._view()))

    async def jobs_overview(self) -> Response:
        return _json(flink.jobs_overview(await self._view()))

    async def job(self, job_id: str) -> Response:
        view, job = await self._job(job_id)
        return _json(flink.job_details(job, view.now_ms))

    async def exceptions(self, job_id: str) -> Response:
        _, job = await self._job(job_id)
        return _json(flink.exceptions(job))

    async def checkpoints(self, job_id: str) -> Response:
        _, job = await self._job(job_id)
        return _json(flink.checkpoints(job.checkpoints, self._storage_url))

    async def submit(self, request: Request) -> Response:
        try:
            submission = msgspec.json.decode(await _body(request), type=Submission)
        except (msgspec.DecodeError, RecursionError) as error:
            raise RestError(400, f"the body is not a submission: {error}") from None
        await self._ask(lambda number: SubmitJob(number, submission.graph))
        return _json({"jobid": submission.graph.job}, 201)

    async def cancel(self, job_id: str, mode: Annotated[str, Query()] = "cancel") -> Response:
        if mode != "cancel":
            raise RestError(400, f"mode {mode!r} is not known, only 'cancel' is")
        await self._ask(lambda number: CancelRequested(number, JobId(job_id)))
        return _json({}, 202)

    async def trigger(self, job_id: str) -> Response:
        """The checkpoint goes on after the answer; its outcome is at ``/jobs/:id/checkpoints/:request-id``."""
        await self._job(job_id)
        answer = self._desk.ask(lambda number: CheckpointRequested(number, JobId(job_id)))
        trigger_id = secrets.token_hex(16)
        self._triggers[trigger_id] = (job_id, answer)
        if len(self._triggers) > TRIGGERS_KEPT:
            self._triggers.popitem(last=False)
        return _json({"request-id": trigger_id}, 202)

    async def trigger_status(self, job_id: str, trigger_id: str) -> Response:
        of_job, answer = self._triggers.get(trigger_id, (None, None))
        if answer is None or of_job != job_id:
            raise RestError(404, f"job {job_id} has no checkpoint request {trigger_id}")
        if not answer.done():
            return _json({"status": {"id": "IN_PROGRESS"}, "operation": None})
        return _json({"status": {"id": "COMPLETED"}, "operation": _operation(answer.result())})

    async def _view(self) -> ClusterView:
        view = await self._ask(OverviewRequested)
        assert isinstance(view, ClusterView)
        return view

    async def _job(self, job_id: str) -> tuple[ClusterView, JobView]:
        view = await self._view()
        job = next((job for job in view.jobs if job.job == job_id), None)
        if job is None:
            raise RestError(404, f"there is no job {job_id}")
        return view, job

    async def _ask(self, make: Callable[[int], ClientRequest]) -> object:
        """The loop's answer; RestError for a refusal and for silence."""
        try:
            result = await asyncio.wait_for(asyncio.wrap_future(self._desk.ask(make)), ANSWER_TIMEOUT_S)
        except TimeoutError:
            raise RestError(
                503, f"the coordinator did not answer within {ANSWER_TIMEOUT_S:.0f} s; what was asked may still happen"
            ) from None
        if isinstance(result, Refused):
            raise RestError(_STATUS[result.refusal], result.message)
        return result


def _operation(result: object) -> dict[str, Any]:
    match result:
        case CheckpointDone(checkpoint=checkpoint):
            return {"checkpointId": checkpoint, "failureCause": None}
        case CheckpointFailed(checkpoint=aborted):
            return {"checkpointId": aborted, "failureCause": _cause(result.message)}
        case Refused(message=message):
            return {"checkpointId": None, "failureCause": _cause(message)}
        case _:
            raise TypeError(f"no answer to a checkpoint request: {result!r}")


def _cause(message: str) -> dict[str, str]:
    return {"class": "CheckpointException", "stack-trace": message}


async def _body(request: Request) -> bytes:
    parts = bytearray()
    async for part in request.stream():
        parts += part
        if len(parts) > BODY_BYTES_MAX:
            raise RestError(413, f"the body has more than {BODY_BYTES_MAX} bytes")
    return bytes(parts)


def _json(content: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(content), status, media_type="application/json")


def _errors(status: int, message: str) -> Response:
    return _json({"errors": [message]}, status)


async def _on_rest_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, RestError)
    return _errors(error.status, str(error))


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _errors(error.status_code, f"{request.method} {request.url.path}: {error.detail}")


async def _on_invalid_request(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return _errors(400, "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()))


class _BearerToken:
    """Lets nobody in without the token; takes the same time for every wrong one."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._expected = f"bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not self._is_allowed(scope):
            refuse: Callable[[Scope, Receive, Send], Awaitable[None]] = _errors(401, "a valid bearer token is needed")
            await refuse(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _is_allowed(self, scope: Scope) -> bool:
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        scheme, _, token = given.partition(b" ")
        return secrets.compare_digest(scheme.lower() + b" " + token, self._expected)
