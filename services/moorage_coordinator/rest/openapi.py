"""The OpenAPI document, made of the endpoints and the types that they take and give."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import msgspec

import moorage
from moorage_coordinator.rest.endpoints import TRIGGER_ID, Endpoint, Parameter

PATH_PARAMETERS: Mapping[str, Parameter] = {
    "job_id": Parameter({"type": "string", "minLength": 1}, "Name of a job."),
    "vertex_id": Parameter({"type": "string", "minLength": 1}, "Uid of a vertex's first operator."),
    "worker_id": Parameter({"type": "string", "minLength": 1}, "Id of a worker."),
    "trigger_id": Parameter({"type": "string", "pattern": TRIGGER_ID}, "As the request was answered."),
    "checkpoint_id": Parameter({"type": "integer", "minimum": 0, "maximum": 2**63 - 1}, "Id of a checkpoint."),
}
_PATH_PARAMETER = re.compile(r"\{(\w+)(?::path)?\}")


class Errors(msgspec.Struct, frozen=True):
    """Flink's ErrorResponseBody."""

    errors: tuple[str, ...]


def document(endpoints: Sequence[Endpoint], *, needs_token: bool) -> dict[str, Any]:
    types = [Errors, *(e.answer for e in endpoints), *(e.body for e in endpoints if e.body is not None)]
    schemas, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    errors, *rest = schemas
    answers = rest[: len(endpoints)]
    bodies = iter(rest[len(endpoints) :])
    paths: dict[str, dict[str, Any]] = {}
    for endpoint, answer in zip(endpoints, answers, strict=True):
        operation = _operation(endpoint, answer, errors, needs_token=needs_token)
        if endpoint.body is not None:
            operation["requestBody"] = {"required": endpoint.body_required, "content": _json(next(bodies))}
        paths.setdefault(_PATH_PARAMETER.sub(r"{\1}", endpoint.path), {})[endpoint.method.lower()] = operation
    found: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "Moorage coordinator",
            "version": moorage.__version__,
            "description": "The paths and JSON of Flink's REST API, as far as they make sense for Moorage.",
        },
        "paths": paths,
        "components": {"schemas": components},
    }
    if needs_token:
        found["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        found["security"] = [{"token": []}]
    return found


def _operation(endpoint: Endpoint, answer: object, errors: object, *, needs_token: bool) -> dict[str, Any]:
    in_path = _PATH_PARAMETER.findall(endpoint.path)
    statuses = {503, *endpoint.errors}
    if in_path:
        statuses.add(404)
    if not {"checkpoint_id", "trigger_id"}.isdisjoint(in_path) or endpoint.query or endpoint.body is not None:
        statuses.add(400)
    if endpoint.body is not None:
        statuses.add(413)
    if needs_token:
        statuses.add(401)
    return {
        "summary": endpoint.doc,
        "operationId": endpoint.method.lower() + re.sub(r"\W+", "_", endpoint.path).rstrip("_"),
        "parameters": [
            *(_parameter(name, "path", PATH_PARAMETERS[name], required=True) for name in in_path),
            *(_parameter(name, "query", parameter, required=False) for name, parameter in endpoint.query.items()),
        ],
        "responses": {
            str(endpoint.status): {"description": HTTPStatus(endpoint.status).phrase, "content": _json(answer)},
            **{
                str(status): {"description": HTTPStatus(status).phrase, "content": _json(errors)}
                for status in sorted(statuses)
            },
        },
    }


def _parameter(name: str, place: str, parameter: Parameter, *, required: bool) -> dict[str, Any]:
    return {"name": name, "in": place, "required": required, "schema": parameter.schema, "description": parameter.doc}


def _json(schema: object) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}
