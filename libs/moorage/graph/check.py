"""Is a job graph that somebody submits one that can be run? The compiler makes no other; but anybody may post one."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from typing import Any

import msgspec

from moorage.errors import PipelineError
from moorage.graph.job_graph import CheckpointConfig, JobGraph, JobVertex, RestartConfig, StateConfig
from moorage.naming import check_name, exchange_id
from moorage.state.key_groups import UPPER_BOUND_MAX_PARALLELISM

MAX_COUNT = 2**31 - 1
MAX_MS = MAX_BYTES = 2**53
"""What a float holds exactly, and far from what no message can carry."""
MAX_RETAINED = 1_000
MAX_MULTIPLIER = 1_000.0


def check_graph(graph: JobGraph) -> None:
    """PipelineError that names the first thing that is wrong."""
    check_name("job name", graph.job)
    for problem in (
        *_vertex_problems(graph),
        *_exchange_problems(graph),
        *_checkpoint_problems(graph.checkpoint),
        *_restart_problems(graph.restart),
    ):
        raise PipelineError(f"job {graph.job} can't be run: {problem}")


def check_options(what: str, checkpoint: CheckpointConfig, restart: RestartConfig, state: StateConfig) -> None:
    """PipelineError that names the first option that is wrong, and what is allowed. Types are checked, too: nobody did
    so for what was made in Python."""
    for problem in _option_problems(checkpoint, restart, state):
        raise PipelineError(f"{what}: {problem}")


def _option_problems(checkpoint: CheckpointConfig, restart: RestartConfig, state: StateConfig) -> Iterator[str]:
    yield from _type_problems("checkpoint", checkpoint, CheckpointConfig)
    yield from _type_problems("restart", restart, RestartConfig)
    yield from _type_problems("state", state, StateConfig)
    yield from _checkpoint_problems(checkpoint)
    yield from _restart_problems(restart)


def _type_problems(part: str, config: msgspec.Struct, kind: type[msgspec.Struct]) -> Iterator[str]:
    if not isinstance(config, kind):
        yield f"{part}={config!r} must be a moorage.{kind.__name__}"
        return
    for field in msgspec.structs.fields(kind):
        value = getattr(config, field.name)
        try:
            msgspec.convert(value, field.type)
        except msgspec.ValidationError:
            yield f"{part}.{field.name} must be {allowed_text(field.type)}, not {value!r}"


_ALLOWED: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    types.NoneType: "None",
}


def allowed_text(option_type: Any) -> str:
    """What an option of this type may be, for people."""
    if typing.get_origin(option_type) is typing.Literal:
        return f"one of {', '.join(map(repr, typing.get_args(option_type)))}"
    if typing.get_origin(option_type) in (types.UnionType, typing.Union):
        return " or ".join(map(allowed_text, typing.get_args(option_type)))
    return _ALLOWED[option_type]


def _vertex_problems(graph: JobGraph) -> Iterator[str]:
    if not 0 < graph.max_parallelism <= UPPER_BOUND_MAX_PARALLELISM:
        yield f"max_parallelism {graph.max_parallelism} must be between 1 and {UPPER_BOUND_MAX_PARALLELISM}"
    if not graph.vertices:
        yield "it has no vertices"
    uids = [operator.uid for vertex in graph.vertices for operator in vertex.operators]
    if len(set(uids)) < len(uids):
        yield "two operators have the same uid"
    if len({vertex.vertex for vertex in graph.vertices}) < len(graph.vertices):
        yield "two vertices have the same id"
    if graph.vertices and not any(vertex.is_source for vertex in graph.vertices):
        yield "it has no source"
    for vertex in graph.vertices:
        check_name("vertex", vertex.vertex)
        yield from _one_vertex_problems(graph, vertex)


def _one_vertex_problems(graph: JobGraph, vertex: JobVertex) -> Iterator[str]:
    if not vertex.operators:
        yield f"vertex {vertex.vertex} has no operators"
        return
    if not 0 < vertex.parallelism <= graph.max_parallelism:
        yield (
            f"parallelism {vertex.parallelism} of vertex {vertex.vertex} must be between 1 and"
            f" max_parallelism {graph.max_parallelism}"
        )
    if vertex.is_committer and vertex.is_source:
        yield f"sink {vertex.vertex} has no input"
    if vertex.is_committer and not graph.checkpoint.enabled:
        yield (
            f"sink {vertex.vertex} commits with checkpoints, and checkpoint.enabled is false: give it"
            " guarantee='at_least_once'"
        )


def _exchange_problems(graph: JobGraph) -> Iterator[str]:
    order = {vertex.vertex: position for position, vertex in enumerate(graph.vertices)}
    ids = [exchange.exchange for exchange in graph.exchanges]
    if len(set(ids)) < len(ids):
        yield "two exchanges have the same id"
    for exchange in graph.exchanges:
        name = exchange.exchange
        if exchange.producer not in order or exchange.consumer not in order:
            yield f"exchange {name} connects vertices that do not exist"
        elif name != exchange_id(exchange.producer, exchange.consumer):
            yield f"exchange {name} is not named after its vertices"
        elif order[exchange.producer] >= order[exchange.consumer]:
            yield f"exchange {name} leads backwards"
        if not 0 < exchange.partitions <= graph.max_parallelism:
            yield f"exchange {name} has {exchange.partitions} partitions, not 1 to {graph.max_parallelism}"
    known = set(ids)
    for vertex in graph.vertices:
        inputs = {e.exchange for e in graph.exchanges if e.consumer == vertex.vertex}
        outputs = {e.exchange for e in graph.exchanges if e.producer == vertex.vertex}
        if not known.issuperset(vertex.inputs + vertex.outputs):
            yield f"vertex {vertex.vertex} names an exchange that does not exist"
        elif set(vertex.inputs) != inputs or set(vertex.outputs) != outputs:
            yield f"vertex {vertex.vertex} and its exchanges contradict each other"


def _checkpoint_problems(config: CheckpointConfig) -> Iterator[str]:
    for name, value, least, most in (
        ("interval_ms", config.interval_ms, 0, MAX_MS),
        ("timeout_ms", config.timeout_ms, 1, MAX_MS),
        ("min_pause_ms", config.min_pause_ms, 0, MAX_MS),
        ("max_concurrent", config.max_concurrent, 1, MAX_COUNT),
        ("tolerable_failures", config.tolerable_failures, 0, MAX_COUNT),
        ("retained", config.retained, 1, MAX_RETAINED),
        ("aligned_timeout_ms", config.aligned_timeout_ms, 0, MAX_MS),
        ("initial_delay_max_ms", config.initial_delay_max_ms, 0, MAX_MS),
        ("interval_during_backlog_ms", config.interval_during_backlog_ms, 0, MAX_MS),
        ("alignment_limit_bytes", config.alignment_limit_bytes, 1, MAX_BYTES),
    ):
        if value is not None:
            yield from _range_problems(f"checkpoint.{name}", value, least, most)
    during_backlog_ms = config.interval_during_backlog_ms
    for name in ("interval_during_backlog_ms", "min_pause_ms", "initial_delay_max_ms"):
        if getattr(config, name) and config.interval_ms == 0:
            yield f"checkpoint.{name} needs checkpoint.interval_ms: else there are no periodic ones"
    if during_backlog_ms and during_backlog_ms < config.interval_ms:
        yield f"checkpoint.interval_during_backlog_ms must be 0 or at least checkpoint.interval_ms {config.interval_ms}"
    if config.aligned_timeout_ms >= config.timeout_ms:
        yield f"checkpoint.aligned_timeout_ms must be less than checkpoint.timeout_ms {config.timeout_ms}"
    if config.min_pause_ms > 0 and config.max_concurrent > 1:
        yield "checkpoint.min_pause_ms needs checkpoint.max_concurrent 1"
    if config.unaligned and config.mode == "at_least_once":
        yield "checkpoint.unaligned needs checkpoint.mode 'exactly_once': at_least_once holds nothing back anyway"
    if config.aligned_timeout_ms > 0 and not config.unaligned:
        yield "checkpoint.aligned_timeout_ms needs checkpoint.unaligned: else there is nothing to fall back to"
    if config.alignment_limit_bytes is not None and config.mode == "at_least_once":
        yield "checkpoint.alignment_limit_bytes needs checkpoint.mode 'exactly_once': at_least_once holds nothing back"
    for field in msgspec.structs.fields(config):
        if not config.enabled and field.name != "enabled" and getattr(config, field.name) != field.default:
            yield f"checkpoint.{field.name} needs checkpoint.enabled: else no checkpoint is taken"


def _restart_problems(config: RestartConfig) -> Iterator[str]:
    least_limit_ms = config.initial_delay_ms if config.strategy == "exponential_delay" else 0
    for name, value, least, most in (
        ("initial_delay_ms", config.initial_delay_ms, 0, MAX_MS),
        ("max_delay_ms", config.max_delay_ms, least_limit_ms, MAX_MS),
        ("multiplier", config.multiplier, 1, MAX_MULTIPLIER),
        ("reset_after_ms", config.reset_after_ms, 1, MAX_MS),
        ("max_attempts", config.max_attempts, 0, MAX_COUNT),
        ("failure_interval_ms", config.failure_interval_ms, 1, MAX_MS),
    ):
        if value is not None:
            yield from _range_problems(f"restart.{name}", value, least, most)


def _range_problems(name: str, value: float, least: float, most: float) -> Iterator[str]:
    if value > most:
        yield f"{name} must be at most {most}, not {value}"
    elif not value >= least:  # not a number, too
        yield f"{name} must be at least {least}, not {value}"
