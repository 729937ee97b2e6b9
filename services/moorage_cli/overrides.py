"""Configuration that is said at submit, in place of the pipeline's own: ``checkpoint.interval_ms=500``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec

from moorage.errors import PipelineError
from moorage.graph.check import allowed_text, check_graph
from moorage.graph.job_graph import JobGraph

S = TypeVar("S", bound=msgspec.Struct)

_PARTS = ("checkpoint", "restart", "state")


def overridden(graph: JobGraph, settings: Sequence[str], parallelism: int | None = None) -> JobGraph:
    """``graph`` with ``settings`` (``part.name=value``) and with ``parallelism`` for every vertex. PipelineError names
    what is wrong."""
    for setting in settings:
        name, is_set, value = setting.partition("=")
        part, _, field = name.partition(".")
        if not is_set or part not in _PARTS:
            raise PipelineError(
                f"{setting!r} sets nothing: say PART.NAME=VALUE, for instance checkpoint.interval_ms=500; the parts are"
                f" {', '.join(_PARTS)}"
            )
        graph = msgspec.structs.replace(graph, **{part: _with(getattr(graph, part), part, field, value)})
    if parallelism is not None:
        graph = graph.with_parallelism(dict.fromkeys(graph.parallelism(), parallelism))
    check_graph(graph)
    return graph


def _with(config: S, part: str, field: str, value: str) -> S:
    fields = {known.name: known for known in msgspec.structs.fields(config)}
    if field not in fields:
        raise PipelineError(f"{part}.{field} is no setting; there are {', '.join(sorted(fields))}")
    try:
        converted: Any = msgspec.convert(value, fields[field].type, strict=False)
    except msgspec.ValidationError:
        raise PipelineError(f"{part}.{field}={value}: it must be {allowed_text(fields[field].type)}") from None
    return msgspec.structs.replace(config, **{field: converted})
