"""What an endpoint is: the same description is served and documented."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any, NamedTuple

import msgspec
from starlette.requests import Request
from starlette.responses import Response

BODY_BYTES_MAX = 16 << 20

TRIGGER_ID = r"^[0-9a-f]{32}$"
TriggerId = Annotated[str, msgspec.Meta(pattern=TRIGGER_ID)]
"""Of an operation that goes on after the answer."""


class RestError(Exception):
    """Becomes an answer of this status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Call(NamedTuple):
    """One request, checked as far as its endpoint says."""

    path: Mapping[str, str]
    query: Mapping[str, str]
    body: Any
    """Of the endpoint's type; None: it has none, or none was sent where none is needed."""

    def number(self, name: str) -> int:
        """A path parameter that is a whole number."""
        return _whole(name, self.path[name])

    @property
    def trigger_id(self) -> str:
        text = self.path["trigger_id"]
        if re.fullmatch(TRIGGER_ID, text) is None:
            raise RestError(400, f"a trigger id has 32 hexadecimal digits, {text!r} is none")
        return text

    def query_flag(self, name: str) -> bool:
        text = self.query.get(name, "false")
        if text not in ("true", "false"):
            raise RestError(400, f"{name}={text!r} must be true or false")
        return text == "true"

    def query_number(self, name: str) -> int | None:
        text = self.query.get(name)
        return None if text is None else _whole(name, text)


class Parameter(NamedTuple):
    schema: Mapping[str, object]
    doc: str
    required: bool = False


class Endpoint(NamedTuple):
    method: str
    path: str
    handler: Callable[[Call], Awaitable[object]]
    """Gives what is encoded as the answer; RestError: an error."""
    answer: Any
    """Type of the answer."""
    doc: str
    status: int = 200
    body: Any = None
    """Type of the request's body; None: it has none."""
    body_required: bool = False
    query: Mapping[str, Parameter] = {}
    errors: tuple[int, ...] = ()
    """Statuses of errors besides those that follow from parameters and body."""


class Empty(msgspec.Struct, frozen=True):
    """``{}``."""


async def read_call(endpoint: Endpoint, request: Request) -> Call:
    body = None
    if endpoint.body is not None:
        raw = await _read(request)
        if raw or endpoint.body_required:
            try:
                body = msgspec.json.decode(raw, type=endpoint.body)
            except (ValueError, RecursionError) as error:  # ValueError: text that is not UTF-8, too
                raise RestError(400, f"the body is not as it should be: {error}") from None
    return Call(request.path_params, request.query_params, body)


def as_json(content: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(content), status, headers, media_type="application/json")


def as_errors(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    return as_json({"errors": [message]}, status, headers)


async def _read(request: Request) -> bytes:
    parts = bytearray()
    async for part in request.stream():
        parts += part
        if len(parts) > BODY_BYTES_MAX:
            raise RestError(413, f"the body has more than {BODY_BYTES_MAX} bytes")
    return bytes(parts)


def _whole(name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 19):
        raise RestError(400, f"{name} must be a whole number, not {text!r}")
    return int(text)
