"""Every mistake in a pipeline is found when it is written or compiled, and the message names the thing and the cure."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, TypedDict

import msgspec
import pytest

import moorage as mo
from moorage.api.compiler import compile_pipeline


class Order(msgspec.Struct):
    user: str
    amount: float


@dataclasses.dataclass
class Point:
    x: int


class Row(TypedDict):
    name: str


class Count(mo.KeyedState):
    count: int = 0

    def process(self, value: Any, ctx: mo.KeyedContext) -> int:
        self.count += 1
        return self.count


class NoProcess(mo.KeyedState):
    count: int = 0


class NoContext(mo.KeyedState):
    def process(self, value: Any) -> Any:  # type: ignore[override]
        return value


class NoDefault(mo.KeyedState):
    count: int

    def process(self, value: Any, ctx: mo.KeyedContext) -> int:
        return 0


class Unstorable(mo.KeyedState):
    mixed: int | Callable[[], int] | list[int] | set[int] = 0

    def process(self, value: Any, ctx: mo.KeyedContext) -> int:
        return 0


class Opaque:
    """A class that no format knows."""


class Doubler:
    def __call__(self, value: int) -> int:
        return 2 * value


def double(value: int) -> int:
    return 2 * value


def opaque(value: int) -> Opaque:
    return Opaque()


def text_or_bytes(value: int) -> str | bytes:
    return ""


def list_key(value: Any) -> Opaque:
    return Opaque()


def pipeline(**options: Any) -> mo.Pipeline:
    return mo.Pipeline("orders", **options)


def orders(value: mo.Format | None = None) -> mo.Stream:
    return pipeline().source("orders", mo.KafkaSource("orders", value=value))


def sink(**options: Any) -> mo.KafkaSink:
    return mo.KafkaSink("totals", **{"key": None, **options})


def twice(second: Callable[[mo.Stream], object]) -> None:
    stream = orders()
    stream.sink("results", sink())
    second(stream)


def compiled(build: Callable[[mo.Pipeline], object]) -> None:
    made = pipeline()
    build(made)
    compile_pipeline(made, "tests:pipeline")


def dangling(made: mo.Pipeline) -> None:
    stream = made.source("orders", mo.KafkaSource("orders"))
    stream.sink("results", sink())
    stream.map(double).filter(bool, uid="leftover")


class Rules(mo.CheckpointedFunction):
    rules: mo.OperatorListState[int] = mo.OperatorListState("broadcast")

    def __call__(self, value: Any) -> None:
        self.rules[:] = [value]


def broadcasts(uid: str, of: mo.Stream | None = None) -> None:
    stream = orders()
    stream.map(double, uid=uid)
    stream.key_by("user").process("totals", Count, broadcast=mo.Broadcast(of or stream, Rules))


MISTAKES: list[tuple[Callable[[], object], str]] = [
    # names
    (lambda: mo.Pipeline("Orders"), "pipeline name 'Orders' can't be part of a topic name: use 1 to 64 of a-z"),
    (lambda: mo.Pipeline("a--b"), "pipeline name 'a--b' can't be part of a topic name"),
    (lambda: mo.Pipeline("x" * 65), "can't be part of a topic name"),
    (lambda: mo.Pipeline(5), "pipeline name 5 can't be part of a topic name"),  # type: ignore[arg-type]
    (lambda: mo.Pipeline("control"), "pipeline name 'control' is taken"),
    (lambda: pipeline().source("the orders", mo.KafkaSource("orders")), "operator uid 'the orders' can't be part of"),
    (lambda: orders().sink("Results", sink()), "operator uid 'Results' can't be part of a topic name"),
    (lambda: orders().map(double, uid="a.b"), "operator uid 'a.b' can't be part of a topic name"),
    # numbers
    (lambda: pipeline(max_parallelism=0), "max_parallelism=0 must be from 1 to 32768"),
    (lambda: pipeline(max_parallelism=40_000), "max_parallelism=40000 must be from 1 to 32768"),
    (lambda: pipeline(parallelism=0), "pipeline: parallelism=0 must be from 1 to max_parallelism=32"),
    (lambda: pipeline(parallelism=33), "pipeline: parallelism=33 must be from 1 to max_parallelism=32"),
    (lambda: pipeline(parallelism="2"), "pipeline: parallelism='2' must be from 1"),
    (
        lambda: pipeline().source("orders", mo.KafkaSource("orders"), parallelism=99),
        "operator 'orders': parallelism=99 must be from 1 to max_parallelism=32",
    ),
    (lambda: orders().sink("results", sink(), parallelism=0), "operator 'results': parallelism=0 must be from 1"),
    (lambda: orders().key_by("user").process("totals", Count, parallelism=-1), "operator 'totals': parallelism=-1"),
    (lambda: pipeline(max_parallelism="8"), "max_parallelism='8' must be from 1 to 32768"),
    (lambda: pipeline(parallelism=True), "pipeline: parallelism=True must be from 1"),
    # options
    (
        lambda: pipeline(checkpoint=mo.CheckpointConfig(interval_ms=-1)),
        "pipeline 'orders': checkpoint.interval_ms must be at least 0, not -1",
    ),
    (
        lambda: pipeline(checkpoint=mo.CheckpointConfig(timeout_ms="1 min")),  # type: ignore[arg-type]
        "checkpoint.timeout_ms must be a whole number, not '1 min'",
    ),
    (
        lambda: pipeline(checkpoint=mo.CheckpointConfig(mode="twice")),  # type: ignore[arg-type]
        "checkpoint.mode must be one of 'exactly_once', 'at_least_once', not 'twice'",
    ),
    (
        lambda: pipeline(checkpoint=mo.CheckpointConfig(alignment_limit_bytes=0.5)),  # type: ignore[arg-type]
        "checkpoint.alignment_limit_bytes must be a whole number or None, not 0.5",
    ),
    (
        lambda: pipeline(checkpoint=mo.CheckpointConfig(aligned_timeout_ms=300)),
        "checkpoint.aligned_timeout_ms needs checkpoint.unaligned",
    ),
    (lambda: pipeline(checkpoint={}), r"checkpoint=\{\} must be a moorage.CheckpointConfig"),
    (
        lambda: pipeline(restart=mo.RestartConfig(strategy="fixed-delay")),  # type: ignore[arg-type]
        "restart.strategy must be one of 'exponential_delay', 'fixed_delay', 'failure_rate', 'none', not 'fixed-delay'",
    ),
    (lambda: pipeline(restart=mo.RestartConfig(max_attempts=-1)), "restart.max_attempts must be at least 0, not -1"),
    (
        lambda: pipeline(state=mo.StateConfig(backend="heap")),  # type: ignore[arg-type]
        "state.backend must be one of 'memory', 'rocksdb', not 'heap'",
    ),
    # operators
    (lambda: pipeline().source("orders", "orders"), "source 'orders': expected a KafkaSource, not 'orders'"),
    (lambda: orders().sink("results", "totals"), "sink 'results': expected a KafkaSink, not 'totals'"),
    (
        lambda: twice(lambda stream: stream.sink("results", sink())),
        "two operators have the uid 'results': state is found by it, so give one of them another",
    ),
    (lambda: orders().map(double).map(double), "two operators have the uid 'double'"),
    (
        lambda: twice(lambda stream: stream.key_by("user").process("results", Count)),
        "two operators have the uid 'results'",
    ),
    (lambda: broadcasts("totals-broadcast-state"), "two operators have the uid 'totals-broadcast-state'"),
    (lambda: broadcasts("copy", of=orders()), "process 'totals': broadcast=.* must be a moorage.Broadcast of a stream"),
    (
        lambda: orders().key_by("user").process("totals", Count, broadcast=Rules),  # type: ignore[arg-type]
        "process 'totals': broadcast=.*Rules.* must be a moorage.Broadcast of a stream of pipeline 'orders'",
    ),
    (lambda: orders().map(lambda value: value), r"map: a lambda has no name of its own, and a uid made of its code"),
    (lambda: orders().filter(lambda value: True), r"filter: a lambda has no name .* filter\(..., uid='...'\)"),
    (lambda: orders().flat_map(lambda value: []), "flat_map: a lambda has no name of its own"),
    (lambda: orders().map(functools.partial(max, 1)), "map: a partial has no name of its own"),
    (lambda: orders().map(Doubler()), "map: a Doubler has no name of its own"),
    (lambda: orders().map("double"), "map: expected a function, not 'double'"),
    (lambda: orders().filter(None), "filter: expected a function, not None"),
    (lambda: orders().flat_map(3), "flat_map: expected a function, not 3"),
    # keys
    (
        lambda: orders(mo.Json(Order)).key_by("usr"),
        "key_by after 'orders': Order has no field 'usr'; it has amount, user",
    ),
    (lambda: orders(mo.Json(Point)).key_by("y"), "Point has no field 'y'; it has x"),
    (lambda: orders(mo.Json(Row)).key_by("nam"), "Row has no field 'nam'; it has name"),
    (lambda: orders().key_by(3), "key_by after 'orders': key must be a field name or a function, not 3"),
    (
        lambda: orders().key_by(list_key),
        "key_by after 'orders': a key: its type Opaque can't be sent through an exchange: make it a msgspec.Struct",
    ),
    (
        lambda: orders().map(opaque).key_by("x"),
        "key_by after 'opaque': a record: its type Opaque can't be sent through an exchange",
    ),
    (
        lambda: orders().map(text_or_bytes).key_by(double),
        "key_by after 'text_or_bytes': a record: its type can't be sent through an exchange: Type unions",
    ),
    (
        lambda: orders(mo.Json(Order)).sink("results", sink(key="usr")),
        "sink 'results': Order has no field 'usr'; it has amount, user",
    ),
    (
        lambda: orders().sink("results", mo.KafkaSink("totals")),
        r"sink 'results' has no key: KafkaSink\('totals', key='field'\), or key=None for records without keys",
    ),
    (lambda: orders().sink("results", sink(key=7)), "sink 'results': key must be a field name or a function, not 7"),
    # keyed state
    (lambda: orders().key_by("user").process("totals", Order), "process 'totals': expected a subclass of"),
    (lambda: orders().key_by("user").process("totals", Count()), "process 'totals': expected a subclass of"),
    (
        lambda: orders().key_by("user").process("totals", NoProcess),
        r"process 'totals': NoProcess must define process\(self, value, ctx\)",
    ),
    (
        lambda: orders().key_by("user").process("totals", NoContext),
        r"process 'totals': NoContext.process is called as process\(self, value, ctx\): too many positional arguments",
    ),
    (
        lambda: orders().key_by("user").process("totals", NoDefault),
        "process 'totals': every field of NoDefault needs a default .*'count'",
    ),
    (
        lambda: orders().key_by("user").process("totals", Unstorable),
        "process 'totals': a field of Unstorable can't be stored",
    ),
    (lambda: mo.Ttl(after_ms=0), r"Ttl\(after_ms=0\): it must be a whole number of ms, more than 0"),
    (lambda: mo.Ttl(after_ms="1 h"), r"Ttl\(after_ms='1 h'\): it must be a whole number"),  # type: ignore[arg-type]
    (
        lambda: mo.Ttl(after_ms=1, update="on_create"),  # type: ignore[arg-type]
        r"Ttl\(update='on_create'\): it must be one of 'on_write', 'on_read_and_write'",
    ),
    (
        lambda: mo.Ttl(after_ms=1, visibility="always"),  # type: ignore[arg-type]
        r"Ttl\(visibility='always'\): it must be one of 'never_expired', 'until_cleaned_up'",
    ),
    (lambda: mo.Ttl(after_ms=1, time="event"), r"Ttl\(time='event'\): it must be one of"),  # type: ignore[arg-type]
    (lambda: mo.MapState(ttl=5), r"MapState\(ttl=5\): it must be a moorage.Ttl"),  # type: ignore[arg-type]
    (lambda: mo.ReducingState(0), r"ReducingState\(0\): expected a function"),  # type: ignore[arg-type]
    # connectors
    (lambda: mo.KafkaSource("new orders"), "KafkaSource: 'new orders' can't be the name of a topic: use 1 to 249 of"),
    (lambda: mo.KafkaSource(["a", ".."]), "KafkaSource: '..' can't be the name of a topic"),
    (lambda: mo.KafkaSource("x" * 250), "can't be the name of a topic: use 1 to 249 of"),
    (lambda: mo.KafkaSource(["a", 5]), "KafkaSource needs the name of a topic, not 5"),  # type: ignore[list-item]
    (lambda: mo.KafkaSource(5), "KafkaSource needs the name of at least one topic, not 5"),  # type: ignore[arg-type]
    (
        lambda: mo.KafkaSource("a", on_error="dead_letter", dead_letter_topic="a/b"),
        "dead_letter_topic: 'a/b' can't be the name of a topic",
    ),
    (
        lambda: mo.KafkaSource("a", on_error="dead_letter", dead_letter_topic="a"),
        "dead_letter_topic='a': the source reads it",
    ),
    (lambda: mo.KafkaSource("a", start=-1), "start=-1: use 'earliest'"),
    (lambda: mo.KafkaSource("a", until={("a", 0): -1}), "use 'latest' or a mapping of"),
    (lambda: mo.KafkaSource("a", discovery_interval_ms=0), "discovery_interval_ms=0: use a whole number of at least 1"),
    (lambda: mo.KafkaSource("a", backlog_records="5"), "backlog_records='5': use"),  # type: ignore[arg-type]
    (lambda: mo.KafkaSource("a", group=""), "group='': use the name of a consumer group"),
    (lambda: mo.KafkaSource("a", read_committed="no"), "read_committed='no': use True"),  # type: ignore[arg-type]
    (lambda: mo.KafkaSink("daily totals", key=None), "KafkaSink: 'daily totals' can't be the name of a topic"),
    (lambda: mo.KafkaSink("moorage.orders.commits", key=None), "topics moorage.* are Moorage's own"),
    (lambda: mo.KafkaSource([]), "KafkaSource needs the name of at least one topic"),
    (lambda: mo.KafkaSource(""), "KafkaSource needs the name of a topic, not ''"),
    (lambda: mo.KafkaSource(["a", "b", "a"]), "KafkaSource names a topic twice: a, b, a"),
    (lambda: mo.KafkaSource("a", start="begin"), "start='begin': use 'earliest', 'latest', 'committed' or a timestamp"),
    (lambda: mo.KafkaSource("a", start=True), "start=True: use 'earliest'"),
    (lambda: mo.KafkaSource("a", until="end"), "until='end': use 'latest' or a mapping of"),
    (lambda: mo.KafkaSource("a", until={"a": 5}), r"until=\{'a': 5\}: use 'latest' or a mapping of"),
    (lambda: mo.KafkaSource("a", until={("a", 0): "5"}), "use 'latest' or a mapping of"),
    (lambda: mo.KafkaSource("a", until={("b", 0): 5}), "the source does not read b"),
    (lambda: mo.KafkaSource("a", on_error="ignore"), "on_error='ignore': use 'fail', 'skip' or 'dead_letter'"),
    (lambda: mo.KafkaSource("a", on_error="dead_letter"), "on_error='dead_letter' and dead_letter_topic='...' go"),
    (lambda: mo.KafkaSource("a", dead_letter_topic="b"), "on_error='dead_letter' and dead_letter_topic='...' go"),
    (lambda: mo.KafkaSource("a", value=Order), "KafkaSource: value=.*Order.* is not a format: use moorage.Json"),
    (lambda: mo.KafkaSource("a", value=mo.Json), "KafkaSource: value=.* is not a format"),
    (lambda: sink(value="json"), "KafkaSink: value='json' is not a format"),
    (lambda: mo.KafkaSink("", key=None), "KafkaSink needs the name of a topic"),
    (lambda: sink(guarantee="none"), "guarantee='none': use 'exactly_once' or 'at_least_once'"),
    (lambda: sink(partitioner="random"), "partitioner='random': use 'consistent_random' or 'murmur2_random'"),
    # whole pipelines
    (lambda: compiled(lambda _: None), "pipeline 'orders' has no source"),
    (
        lambda: compiled(lambda made: made.source("orders", mo.KafkaSource("orders"))),
        "nothing is done with the results of 'orders': add a sink",
    ),
    (
        lambda: compiled(lambda made: made.source("a", mo.KafkaSource("a")).key_by("x").process("totals", Count)),
        "nothing is done with the results of 'totals': add a sink",
    ),
    (lambda: compiled(dangling), "nothing is done with the results of 'leftover': add a sink"),
]


@pytest.mark.parametrize(("mistake", "message"), MISTAKES, ids=[message for _, message in MISTAKES])
def test_a_mistake_is_found_and_named(mistake: Callable[[], object], message: str) -> None:
    with pytest.raises(mo.PipelineError, match=message):
        mistake()


def test_a_type_that_msgspec_does_not_know_is_refused_where_the_format_is_made() -> None:
    with pytest.raises(TypeError, match="not supported"):
        mo.Json(int | str | list[int] | set[int])
