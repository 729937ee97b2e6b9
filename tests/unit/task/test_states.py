"""States that pipelines declare, over restarts and rescales."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from tests.unit.task.harness import Harness

import moorage as mo


def pipeline(build: Any, parallelism: int = 1) -> mo.Pipeline:
    made = mo.Pipeline("orders", parallelism=parallelism, max_parallelism=8)
    stream = made.source("orders", mo.KafkaSource("orders", value=mo.Json()))
    build(stream).sink("results", mo.KafkaSink("totals", key=None))
    return made


def feed(harness: Harness, *values: Any) -> None:
    for number, value in enumerate(values):
        harness.append("orders", number % 3, msgspec.json.encode(value), timestamp_ms=1_000)
    harness.run(40)


def restart(harness: Harness, **options: Any) -> None:
    harness.deploy(**options)
    harness.run(40)
    assert not harness.failures()


# --- by key ----------------------------------------------------------------------------------------------------------


class Basket(mo.KeyedState):
    orders: int = 0
    items: mo.MapState[str, int] = mo.MapState()
    recent: mo.ListState[str] = mo.ListState()
    total: mo.ReducingState[int] = mo.ReducingState(operator.add)
    last: mo.ValueState[str] = mo.ValueState()

    def process(self, value: list[Any], ctx: mo.KeyedContext) -> Iterator[Any]:
        user, item, count = value
        if item == "clear":
            ctx.clear()
            return
        self.orders += 1
        self.items[item] = self.items.get(item, 0) + count
        self.recent.append(item)
        self.total.add(count)
        yield [user, self.orders, dict(self.items), list(self.recent), self.total.get(), self.last.get()]
        self.last.set(item)


def by_user(stream: mo.Stream) -> mo.Stream:
    return stream.key_by(operator.itemgetter(0)).process("baskets", Basket)


def test_states_of_a_key_survive_a_restart_and_a_rescale() -> None:
    harness = Harness(pipeline(by_user))
    harness.started()
    feed(harness, ["ann", "tea", 1], ["bob", "rum", 2])
    harness.checkpoint_now()
    feed(harness, ["ann", "tea", 2])
    harness.checkpoint_now()
    feed(harness, ["ann", "lost", 9])
    restart(harness, pipeline=pipeline(by_user, parallelism=2))
    feed(harness, ["ann", "jam", 1])
    harness.checkpoint_now()
    rows = [row for row in map(msgspec.json.decode, filter(None, harness.values())) if row[0] == "ann"]
    assert rows[-1][2].keys() >= {"tea", "jam", "lost"}, "what was not checkpointed is processed again"
    assert rows[-1] == ["ann", 4, {"tea": 3, "lost": 9, "jam": 1}, ["tea", "tea", "lost", "jam"], 13, "lost"]


def test_clear_forgets_the_states_too() -> None:
    harness = Harness(pipeline(by_user))
    harness.started()
    feed(harness, ["ann", "tea", 1])
    harness.checkpoint_now()
    feed(harness, ["ann", "clear", 0])
    feed(harness, ["ann", "jam", 5])
    harness.checkpoint_now()
    restart(harness)
    feed(harness, ["ann", "jam", 1])
    harness.checkpoint_now()
    row = msgspec.json.decode(harness.values()[-1] or b"")
    assert row == ["ann", 2, {"jam": 6}, ["jam", "jam"], 6, "jam"]


class Pages(mo.KeyedState):
    seen: mo.MapState[str, int] = mo.MapState(ttl=mo.Ttl(after_ms=1_000))
    recent: mo.ListState[str] = mo.ListState(ttl=mo.Ttl(after_ms=1_000, time="record", update="on_read_and_write"))

    def process(self, value: list[Any], ctx: mo.KeyedContext) -> Any:
        _, page = value
        self.seen[page] = 1
        self.recent.append(page)
        return [sorted(self.seen), list(self.recent)]


def test_the_time_of_states_is_the_worker_s_clock_or_the_records() -> None:
    harness = Harness(pipeline(lambda s: s.key_by(operator.itemgetter(0)).process("pages", Pages)))
    harness.started()
    feed(harness, ["ann", "a"])
    harness.checkpoint_now()
    restart(harness)
    harness.clock.advance(1_000)
    feed(harness, ["ann", "b"])
    harness.append("orders", 0, msgspec.json.encode(["ann", "c"]), timestamp_ms=2_000)
    harness.run(40)
    harness.checkpoint_now()
    results = [msgspec.json.decode(value or b"") for value in harness.values()]
    assert sorted(results) == [[["a"], ["a"]], [["b"], ["a", "b"]], [["b", "c"], ["c"]]]


# --- without keys ----------------------------------------------------------------------------------------------------


class Distinct(mo.CheckpointedFunction):
    """Lets through what this subtask has not met."""

    kept: mo.OperatorListState[str] = mo.OperatorListState("split")
    everybodys: mo.OperatorListState[str] = mo.OperatorListState("union")

    def __init__(self) -> None:
        self._met: set[str] = set()

    def initialize_state(self, *, restored: bool) -> None:
        assert restored or not self.kept
        self._met = {*self.kept, *self.everybodys}

    def snapshot_state(self) -> None:
        self.kept[:] = sorted(self._met)
        self.everybodys[:] = sorted(self._met)

    def __call__(self, value: str) -> bool:
        is_new = value not in self._met
        self._met.add(value)
        return is_new


@pytest.mark.parametrize("parallelism", [1, 3])
def test_a_function_s_lists_survive_a_restart_and_a_rescale(parallelism: int) -> None:
    harness = Harness(pipeline(lambda s: s.filter(Distinct)))
    harness.started()
    feed(harness, "a", "b", "a")
    harness.checkpoint_now()
    restart(harness, pipeline=pipeline(lambda s: s.filter(Distinct), parallelism))
    feed(harness, "b", "a", "c")
    harness.checkpoint_now()
    assert sorted(filter(None, harness.values())) == [b'"a"', b'"b"', b'"c"']


def test_every_subtask_has_a_function_of_its_own() -> None:
    harness = Harness(pipeline(lambda s: s.filter(Distinct), parallelism=3), workers=1)
    harness.started()
    feed(harness, "a", "a", "a")
    harness.checkpoint_now()
    assert harness.values() == [b'"a"'] * 3


class Texts(mo.CheckpointedFunction):
    kept: mo.OperatorListState[str] = mo.OperatorListState()

    def __call__(self, value: Any) -> Any:
        self.kept.append(value)
        return value


class Numbers(mo.CheckpointedFunction):
    kept: mo.OperatorListState[int] = mo.OperatorListState()

    def __call__(self, value: Any) -> Any:
        self.kept.append(value)
        return value


def test_an_element_that_does_not_fit_its_type_any_more_is_named() -> None:
    harness = Harness(pipeline(lambda s: s.map(Texts, uid="numbers")))
    harness.started()
    feed(harness, "text")
    harness.checkpoint_now()
    harness.deploy(pipeline=pipeline(lambda s: s.map(Numbers, uid="numbers")))
    harness.run(40)
    (event,) = harness.failures()
    assert event.failure is not None
    assert "operator 'numbers': an element of its state 'kept' doesn't fit its type: Expected `int`" in event.failure


def test_an_element_that_could_not_be_restored_is_not_stored() -> None:
    harness = Harness(pipeline(lambda s: s.map(Numbers, uid="numbers")))
    harness.started()
    feed(harness, "text")
    harness.trigger()
    harness.run(40)
    (event,) = harness.failures()
    assert "operator 'numbers': an element of Numbers.kept can't be stored: Expected `int`" in str(event.failure)


@pytest.mark.parametrize(
    ("function", "what"),
    [
        (Numbers(), "pass the class Numbers itself"),
        (type("Needy", (Numbers,), {"__init__": lambda self, size: None}), "Needy.. can't be made without arguments"),
    ],
)
def test_functions_that_subtasks_can_not_make_are_refused(function: Any, what: str) -> None:
    with pytest.raises(mo.PipelineError, match=what):
        pipeline(lambda s: s.map(function, uid="odd"))
