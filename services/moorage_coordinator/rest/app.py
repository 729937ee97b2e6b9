"""The application without its server."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from moorage_coordinator.desk import RequestDesk
from moorage_coordinator.rest.checkpoints import CheckpointsResource
from moorage_coordinator.rest.cluster import ClusterResource
from moorage_coordinator.rest.endpoints import Endpoint, RestError, as_errors, as_json, read_call
from moorage_coordinator.rest.jobs import JobsResource
from moorage_coordinator.rest.openapi import document
from moorage_coordinator.rest.operations import Operations
from moorage_coordinator.rest.questions import Questions
from moorage_coordinator.rest.savepoints import SavepointsResource


def create_app(desk: RequestDesk, *, token: str | None, storage_url: str) -> Starlette:
    """``token``: what callers must send as bearer token; None: nothing."""
    endpoints = _endpoints(desk, storage_url)
    served = as_json(document(endpoints, needs_token=token is not None)).body

    async def openapi(_: Request) -> Response:
        return Response(served, media_type="application/json")

    app = Starlette(
        routes=[Route("/openapi.json", openapi), *_routes(endpoints)],
        exception_handlers={RestError: _on_rest_error, HTTPException: _on_http_error, Exception: _on_bug},
        middleware=[] if token is None else [Middleware(_BearerToken, token=token)],
    )
    app.router.redirect_slashes = False
    return app


def describe(*, needs_token: bool) -> dict[str, Any]:
    """The OpenAPI document."""
    return document(_endpoints(RequestDesk(), ""), needs_token=needs_token)


def _endpoints(desk: RequestDesk, storage_url: str) -> list[Endpoint]:
    questions = Questions(desk, storage_url)
    operations = Operations(questions)
    return [
        *ClusterResource(questions).endpoints(),
        *JobsResource(questions).endpoints(),
        *CheckpointsResource(questions, operations).endpoints(),
        *SavepointsResource(questions, operations).endpoints(),
    ]


def _routes(endpoints: Iterable[Endpoint]) -> list[Route]:
    """One per path, so that the answer to another method names all that are allowed."""
    by_path: dict[str, dict[str, Endpoint]] = {}
    for endpoint in endpoints:
        by_path.setdefault(endpoint.path, {})[endpoint.method] = endpoint
    return [Route(path, _handler(methods), methods=list(methods)) for path, methods in by_path.items()]


def _handler(methods: Mapping[str, Endpoint]) -> Callable[[Request], Awaitable[Response]]:
    async def handle(request: Request) -> Response:
        endpoint = methods["GET" if request.method == "HEAD" else request.method]
        return as_json(await endpoint.handler(await read_call(endpoint, request)), endpoint.status)

    return handle


async def _on_rest_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, RestError)
    return as_errors(error.status, str(error))


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return as_errors(error.status_code, f"{request.method} {request.url.path}: {error.detail}", error.headers)


async def _on_bug(_: Request, error: Exception) -> Response:
    """The server logs its trace."""
    return as_errors(500, f"the coordinator has a bug: {type(error).__name__}; see its log")


class _BearerToken:
    """Lets nobody in without the token; takes the same time for every wrong one."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._expected = f"bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not self._is_allowed(scope):
            headers = {"www-authenticate": "Bearer"}
            refuse: ASGIApp = as_errors(401, "a valid bearer token is needed", headers)
            await refuse(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _is_allowed(self, scope: Scope) -> bool:
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        scheme, _, token = given.partition(b" ")
        return secrets.compare_digest(scheme.lower() + b" " + token, self._expected)
