"""Chains of operators: what comes out, and what is said when user code fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from tests.unit.task.harness import SETTINGS, Harness, Order

import moorage as mo
from moorage.errors import LogUnavailableError
from moorage.messages.events import DeclineReason


class Tick(msgspec.Struct):
    user: str
    number: int


def sink(key: Any = None, **options: Any) -> mo.KafkaSink:
    return mo.KafkaSink("totals", key=key, **{"guarantee": "at_least_once", **options})


def source(pipeline: mo.Pipeline, value: mo.Format | None = None) -> mo.Stream:
    return pipeline.source("orders", mo.KafkaSource("orders", value=value or mo.Json()))


def run(
    build: Callable[[mo.Stream], object], *values: Any, value: mo.Format | None = None, partition: int = 0
) -> Harness:
    """The pipeline that ``build`` makes of a source of these values."""
    pipeline = mo.Pipeline("orders", max_parallelism=8)
    build(source(pipeline, value))
    harness = Harness(pipeline)
    harness.started()
    encode = msgspec.json.encode
    harness.append("orders", partition, *(encode(v) for v in values), timestamp_ms=1_234)
    harness.run(40)
    return harness


def output(harness: Harness) -> list[Any]:
    assert not harness.failures()
    return [msgspec.json.decode(value or b"null") for value in harness.values()]


def failure(harness: Harness) -> tuple[str, str]:
    (event,) = harness.failures()
    assert event.failure is not None
    assert event.trace is not None
    return event.failure, event.trace


# --- what comes out --------------------------------------------------------------------------------------------------


def test_map_filter_and_flat_map_in_a_row() -> None:
    harness = run(
        lambda s: (
            s.map(lambda v: v * 10, uid="tens")
            .filter(lambda v: v != 20, uid="not-20")
            .flat_map(lambda v: [v] * (v // 10), uid="times")
            .flat_map(lambda v: iter([v + 1]), uid="one-more")
            .sink("results", sink())
        ),
        *range(5),
    )
    assert output(harness) == [11, 31, 31, 31, 41, 41, 41, 41]
    assert {record.timestamp_ms for record in harness.cluster.records("totals")} == {1_234}


def test_nothing_may_come_out() -> None:
    harness = run(
        lambda s: s.filter(lambda _: False, uid="none").flat_map(lambda _: [], uid="empty").sink("results", sink()),
        1,
        2,
    )
    assert output(harness) == []


def test_every_branch_gets_every_record() -> None:
    def branches(stream: mo.Stream) -> None:
        stream.map(lambda v: v + 1, uid="up").sink("ups", sink())
        stream.filter(lambda v: v > 1, uid="large").sink("larges", sink())
        stream.sink("all", sink())

    assert output(run(branches, 1, 2)) == [1, 2, 2, 2, 3]


class Counter(mo.KeyedState):
    count: int = 0

    def process(self, value: Any, ctx: mo.KeyedContext) -> Iterator[Any]:
        if value["say"] == "clear":
            ctx.clear()
            return
        self.count += 1
        for _ in range(value.get("times", 1)):
            yield [ctx.key, self.count, ctx.timestamp_ms]


def test_a_generator_yields_any_number_of_results() -> None:
    values = [{"user": "a", "say": "x", "times": n} for n in (1, 0, 2)]
    harness = run(lambda s: s.key_by("user").process("counts", Counter).sink("results", sink()), *values)
    assert output(harness) == [["a", 1, 1_234], ["a", 3, 1_234], ["a", 3, 1_234]]


def test_clear_forgets_the_row_also_over_a_restart() -> None:
    pipeline = mo.Pipeline("orders", max_parallelism=8)
    source(pipeline).key_by("user").process("counts", Counter).sink("results", sink(guarantee="exactly_once"))
    harness = Harness(pipeline)
    harness.started()

    def say(*words: str) -> None:
        harness.append("orders", 0, *(msgspec.json.encode({"user": "a", "say": word}) for word in words))
        harness.run(30)
        harness.checkpoint_now()

    say("x", "x")
    say("clear", "x", "clear")
    harness.deploy()
    harness.run(20)
    say("x")
    say("clear")
    harness.deploy()
    harness.run(20)
    assert [len(backend.rows[g]) for backend in backends(harness) for g in backend.rows if backend.rows[g]] == []
    say("x", "x")
    assert [row[1] for row in output(harness)] == [1, 1, 1, 1, 2, 2]


def backends(harness: Harness) -> list[Any]:
    subtasks = [s for worker, _, _ in harness.workers for d in worker._deployments.values() for s in d.subtasks]
    return [s._chain.backends["counts"] for s in subtasks if s.context.vertex.vertex == "counts"]  # type: ignore[attr-defined]


class Returning(mo.KeyedState):
    seen: int = 0

    def process(self, order: Order, ctx: mo.KeyedContext) -> Tick | None:
        self.seen += 1
        return Tick(ctx.key, self.seen) if self.seen % 2 == 0 else None


class PerNumber(mo.KeyedState):
    users: list[str] = msgspec.field(default_factory=list)

    def process(self, tick: Tick, ctx: mo.KeyedContext) -> dict[str, Any]:
        self.users.append(tick.user)
        return {"number": ctx.key, "users": self.users}


def test_typed_results_go_through_another_exchange() -> None:
    orders = [{"user": user, "amount": 1.0} for user in "abaabb"]
    harness = run(
        lambda s: (
            s.key_by("user")
            .process("second-ones", Returning)
            .key_by("number")
            .process("per-number", PerNumber)
            .sink("results", sink())
        ),
        *orders,
        value=mo.Json(Order),
    )
    results = output(harness)
    assert [r["number"] for r in results] == [2, 2]
    assert sorted(results[1]["users"]) == ["a", "b"]


@pytest.mark.parametrize("key", [1, "one", 1.5, None, True, (1, "a"), (1, ("b", None))])
def test_keys_of_any_plain_type_find_their_row_also_over_a_restart(key: Any) -> None:
    def key_of(value: Any) -> Any:
        return key

    class Seen(mo.KeyedState):
        count: int = 0

        def process(self, value: Any, ctx: mo.KeyedContext) -> list[Any]:
            self.count += 1
            return [type(ctx.key).__name__, ctx.key == key, self.count]

    pipeline = mo.Pipeline("orders", max_parallelism=8)
    source(pipeline).key_by(key_of).process("seen", Seen).sink("results", sink(guarantee="exactly_once"))
    harness = Harness(pipeline)
    harness.started()
    for count in (1, 2):
        harness.append("orders", 0, b"0")
        harness.run(30)
        harness.checkpoint_now()
        harness.deploy()
        harness.run(20)
        assert output(harness)[-1] == [type(key).__name__, True, count]


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (None, None),
        ("name", b"ann"),
        (lambda row: row["name"].encode(), b"ann"),
        (lambda row: row["id"], b"7"),
        (lambda row: {"b": 1, "a": 2}, b'{"a":2,"b":1}'),
        (lambda row: None, None),
    ],
)
def test_the_keys_of_output_records(key: Any, expected: bytes | None) -> None:
    harness = run(lambda s: s.sink("results", sink(key)), {"name": "ann", "id": 7})
    assert [record.key for record in harness.cluster.records("totals")] == [expected]


# --- what user code does wrong ---------------------------------------------------------------------------------------


def broken(value: Any) -> Any:
    if value["n"] == 2:
        raise ValueError("two is too much")
    return value["n"]


def stops(value: Any) -> Any:
    if value["n"] == 2:
        raise StopIteration("next() on nothing")
    return value["n"]


def broken_later(value: Any) -> Iterator[Any]:
    yield value
    broken(value)


ROWS = [{"n": n} for n in (1, 2, 3)]


@pytest.mark.parametrize(
    ("build", "operator"),
    [
        (lambda s: s.map(broken), "broken"),
        (lambda s: s.filter(broken, uid="keep"), "keep"),
        (lambda s: s.flat_map(lambda v: [broken(v)], uid="many"), "many"),
        (lambda s: s.flat_map(broken_later), "broken_later"),
    ],
)
@pytest.mark.parametrize("behind", [0, 2], ids=["at the head", "in the chain"])
def test_the_operator_and_the_record_are_named_and_the_trace_is_the_users(
    build: Callable[[mo.Stream], mo.Stream], operator: str, behind: int
) -> None:
    def whole(stream: mo.Stream) -> None:
        for number in range(behind):
            stream = stream.map(dict, uid=f"copy-{number}")
        build(stream).sink("results", sink())

    message, trace = failure(run(whole, *ROWS))
    assert (
        message == f"operator '{operator}' failed on {{'n': 2}}: ValueError: two is too much, from orders[0] offset 1"
    )
    assert "in broken\n" in trace
    assert trace.rstrip().endswith("ValueError: two is too much")
    assert "RecordError" not in trace
    assert f'File "{__file__}"' in trace.splitlines()[1]


@pytest.mark.parametrize("kind", ["map", "filter"])
def test_a_stop_iteration_does_not_lose_what_is_behind(kind: str) -> None:
    """``map`` takes it for the end of the values."""
    harness = run(lambda s: getattr(s, kind)(stops, uid="op").sink("results", sink()), *ROWS)
    message, _ = failure(harness)
    assert message == "operator 'op' failed on {'n': 2}: RuntimeError: it raised StopIteration, from orders[0] offset 1"


def test_a_key_function_is_named() -> None:
    message, _ = failure(run(lambda s: s.key_by(broken).process("counts", Counter).sink("results", sink()), *ROWS))
    assert (
        message == "operator 'counts:key_by' failed on {'n': 2}: ValueError: two is too much, from orders[0] offset 1"
    )


def test_a_key_that_can_not_be_one_is_named() -> None:
    message, _ = failure(run(lambda s: s.key_by(list).process("counts", Counter).sink("results", sink()), *ROWS))
    assert message.startswith("operator 'counts:key_by': ['n'] can't be a key: unhashable type: 'list'. Keys may be")


def test_process_is_named_with_the_record_and_where_it_lies() -> None:
    values = [{"user": "a", "say": "x"}, {"user": "a"}]
    message, trace = failure(
        run(lambda s: s.key_by("user").process("counts", Counter).sink("results", sink()), *values)
    )
    assert message.startswith("operator 'counts' failed on {'user': 'a'}: KeyError: 'say', in a frame of 2 in moorage.")
    assert "in process\n" in trace
    assert trace.rstrip().endswith("KeyError: 'say'")


def test_results_without_a_declared_type_are_named_with_what_to_do() -> None:
    harness = run(
        lambda s: (
            s.map(lambda v: Tick("a", v), uid="ticks").key_by(lambda t: t.user).process("c", Counter).sink("r", sink())
        ),
        1,
    )
    message, _ = failure(harness)
    assert message.startswith(
        "a record for exchange orders--c can't be sent: its type Tick is not declared. Results may"
    )


def test_an_output_value_that_can_not_be_encoded_is_named() -> None:
    message, _ = failure(run(lambda s: s.map(lambda v: object(), uid="objects").sink("results", sink()), 1))
    assert message.startswith("operator 'results' failed on <object object at")
    message, _ = failure(run(lambda s: s.sink("results", sink(value=mo.Raw())), 5))
    assert message.startswith("operator 'results' failed on 5: TypeError: ")


def test_an_output_key_that_can_not_be_encoded_is_named() -> None:
    message, _ = failure(run(lambda s: s.sink("results", sink(lambda v: object())), 1))
    assert "operator 'results' failed on <object object at" in message


def test_state_that_can_not_be_stored_is_named() -> None:
    class Odd(mo.KeyedState):
        things: list[Any] = msgspec.field(default_factory=list)

        def process(self, value: Any, ctx: mo.KeyedContext) -> None:
            self.things.append(object())

    harness = run(lambda s: s.key_by(str).process("odd", Odd).map(str, uid="s").sink("results", sink()), 1)
    checkpoint = harness.trigger()
    harness.run(20)
    assert not harness.failures()
    (declined,) = harness.declined()
    assert declined.checkpoint == checkpoint
    assert "operator 'odd': a row of Odd can't be stored: Encoding objects of type object" in declined.detail


# --- at-least-once sinks ---------------------------------------------------------------------------------------------


def at_least_once() -> Harness:
    pipeline = mo.Pipeline("orders", max_parallelism=8)
    source(pipeline).sink("results", sink())
    harness = Harness(pipeline, workers=1)
    harness.started()
    return harness


def test_an_at_least_once_sink_is_flushed_before_the_checkpoint_is_acknowledged() -> None:
    harness = at_least_once()
    worker, executor, log = harness.workers[0]
    log.immediate = False
    harness.append("orders", 0, b"1", b"2")
    worker.step()
    checkpoint = harness.trigger()
    worker.step()
    worker.step()
    harness._read_events()
    assert not harness.acks(checkpoint)
    assert harness.values() == []
    executor.run_all()
    log.immediate = True
    harness.run(5)
    assert harness.acks(checkpoint)
    assert harness.values() == [b"1", b"2"]


def test_nothing_is_read_while_a_sink_flushes() -> None:
    """A flush ends when nothing is under way, so it would never end."""
    harness = at_least_once()
    worker, executor, _ = harness.workers[0]
    aborted = harness.trigger()
    worker.step()
    harness.append("orders", 0, b"1")
    harness.abort(aborted)
    for _ in range(3):
        worker.step()
    assert harness.values() == []
    assert harness.contexts()[0].counters.blocked_steps > 0
    executor.run_all()
    harness.run(5)
    assert harness.values() == [b"1"]


def test_a_flush_that_fails_declines_the_checkpoint_and_ends_the_attempt() -> None:
    harness = at_least_once()
    harness.workers[0][2].faults.fail_next("commit", LogUnavailableError("Kafka does not answer"))
    harness.append("orders", 0, b"1")
    harness.run(5)
    checkpoint = harness.trigger()
    harness.run(10)
    assert not harness.acks(checkpoint)
    assert [d.reason for d in harness.declined()] == [DeclineReason.LOG]
    assert failure(harness)[0] == "Kafka does not answer"


def test_a_record_that_was_not_stored_ends_the_attempt_without_a_checkpoint() -> None:
    harness = at_least_once()
    harness.workers[0][2].faults.fail_next("append", LogUnavailableError("lost"))
    harness.append("orders", 0, b"1")
    harness.run(10)
    assert failure(harness)[0] == "lost"


def test_an_at_least_once_sink_bounds_what_is_under_way() -> None:
    pipeline = mo.Pipeline("orders", max_parallelism=8)
    source(pipeline).sink("results", sink())
    settings = replace(SETTINGS, max_unsent_records=5, max_poll_records=4)
    harness = Harness(pipeline, workers=1, settings=settings)
    harness.started()
    worker, _, log = harness.workers[0]
    log.immediate = False
    harness.append("orders", 0, *(b"%d" % n for n in range(40)))
    for _ in range(10):
        worker.step()
    (queue,) = [q for q in log.pending() if q.partition.topic == "totals"][:1]
    assert sum(len(q) for q in log.pending() if q.partition.topic == "totals") == 8
    while queue:
        queue.deliver_one()
    worker.step()
    log.immediate = True
    harness.run(30)
    assert len(harness.values()) == 40
