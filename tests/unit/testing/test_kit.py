"""The test kit, on pipelines such as people write."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest

import moorage as mo
from moorage.testing.kit import (
    Checkpoint,
    KillCoordinator,
    KillWorker,
    PipelineTestError,
    Record,
    Rescale,
    StopAndRestore,
    run_pipeline,
)

Row = dict[str, Any]


class Total(mo.KeyedState):
    total: int = 0

    def process(self, order: Row, ctx: mo.KeyedContext) -> Iterator[Row]:
        if order["amount"] < 0:
            raise ValueError("a negative amount")
        self.total += order["amount"]
        yield {"user": ctx.key, "total": self.total}


def _pipeline(**options: Any) -> mo.Pipeline:
    pipeline = mo.Pipeline("orders", parallelism=2, max_parallelism=8, **options)
    orders = pipeline.source("orders", mo.KafkaSource("orders"))
    orders.key_by("user").process("totals", Total).sink("results", mo.KafkaSink("totals", key="user"))
    return pipeline


def _orders(*amounts: Any) -> list[Any]:
    """Amounts become orders of ann; actions stay as they are."""
    return [Record({"user": "ann", "amount": a}, partition=0) if isinstance(a, int) else a for a in amounts]


def _totals(*items: Any, pipeline: mo.Pipeline | None = None) -> list[int]:
    rows = run_pipeline(pipeline or _pipeline(), {"orders": _orders(*items)})["totals"]
    return [row["total"] for row in rows]


def test_a_pipeline_runs_to_its_end() -> None:
    rows = run_pipeline(
        _pipeline(),
        {"orders": [{"user": "ann", "amount": 2}, {"user": "bob", "amount": 1}, {"user": "ann", "amount": 3}]},
    )["totals"]
    assert [row["total"] for row in rows if row["user"] == "ann"] in ([2, 5], [3, 5])
    assert [row["total"] for row in rows if row["user"] == "bob"] == [1]


@pytest.mark.parametrize(
    "faults",
    [
        [KillWorker()],
        [KillWorker(0), KillWorker(1)],
        [Checkpoint(), KillWorker(1)],
        [KillCoordinator()],
        [Rescale(1)],
        [Rescale(5), KillWorker(1)],
        [StopAndRestore()],
        [KillCoordinator(), StopAndRestore(), KillWorker()],
    ],
    ids=str,
)
def test_results_are_the_same_whatever_happens(faults: list[Any]) -> None:
    assert _totals(1, 2, *faults, 3, 4) == [1, 3, 6, 10]


def test_a_pipeline_without_checkpoints_begins_anew() -> None:
    pipeline = mo.Pipeline("orders", parallelism=2, max_parallelism=8, checkpoint=mo.CheckpointConfig(enabled=False))
    totals = pipeline.source("orders", mo.KafkaSource("orders")).key_by("user").process("totals", Total)
    totals.sink("results", mo.KafkaSink("totals", key="user", guarantee="at_least_once"))
    assert _totals(1, 2, 3, pipeline=pipeline) == [1, 3, 6]
    assert _totals(1, 2, KillCoordinator(), 3, pipeline=pipeline) == [1, 3, 6]
    again = _totals(1, 2, KillWorker(0), KillWorker(1), 3, pipeline=pipeline)
    assert again[-3:] == [1, 3, 6]
    with pytest.raises(PipelineTestError, match="checkpointing is not enabled for this job"):
        _totals(1, Checkpoint(), pipeline=pipeline)


def test_unaligned_checkpoints_are_no_different() -> None:
    pipeline = _pipeline(checkpoint=mo.CheckpointConfig(unaligned=True))
    assert _totals(1, Checkpoint(), 2, KillWorker(), 3, pipeline=pipeline) == [1, 3, 6]


def test_a_new_version_goes_on_with_the_state() -> None:
    class Average(mo.KeyedState):
        total: int = 0
        count: int = 0

        def process(self, order: Row, ctx: mo.KeyedContext) -> Row:
            self.total += order["amount"]
            self.count += 1
            return {"user": ctx.key, "total": self.total, "count": self.count}

    newer = mo.Pipeline("orders", parallelism=2, max_parallelism=8)
    orders = newer.source("orders", mo.KafkaSource("orders"))
    orders.key_by("user").process("totals", Average).sink("results", mo.KafkaSink("totals", key="user"))
    rows = run_pipeline(_pipeline(), {"orders": _orders(1, 2, StopAndRestore(newer), 3)})["totals"]
    assert rows[-1] == {"user": "ann", "total": 6, "count": 1}


def test_unions_and_rebalanced_streams() -> None:
    pipeline = mo.Pipeline("orders", parallelism=2, max_parallelism=8)
    web = pipeline.source("web", mo.KafkaSource("web"))
    shops = pipeline.source("shops", mo.KafkaSource("shops"))
    both = web.union(shops.rebalance(parallelism=3))
    both.key_by("user").process("totals", Total).sink("results", mo.KafkaSink("totals", key="user"))
    web.union(shops).map(dict, uid="copy").sink("copies", mo.KafkaSink("copies", key="user"))
    rows = run_pipeline(
        pipeline, {"web": _orders(1, 2, KillWorker(), 4), "shops": _orders(10, Checkpoint(), 20, Rescale(3), 40)}
    )
    assert max(row["total"] for row in rows["totals"]) == 77
    assert len(rows["totals"]) == 6
    assert sorted(row["amount"] for row in rows["copies"]) == [1, 2, 4, 10, 20, 40]


def test_keys_timestamps_and_bytes_may_be_given() -> None:
    rows = run_pipeline(_pipeline(), {"orders": [Record(b'{"user":"ann","amount":7}', key=b"k", timestamp_ms=5)]})
    assert rows == {"totals": [{"user": "ann", "total": 7}]}


@pytest.mark.parametrize("restart", [mo.RestartConfig(), mo.RestartConfig(strategy="none")], ids=lambda r: r.strategy)
def test_an_error_of_the_pipeline_ends_the_test_at_once_with_its_own_traceback(restart: mo.RestartConfig) -> None:
    with pytest.raises(PipelineTestError, match=r"operator 'totals' failed on .*a negative amount") as caught:
        _totals(1, -1, pipeline=_pipeline(restart=restart))
    cause = caught.value.__cause__
    assert isinstance(cause, ValueError)
    assert [frame.name for frame in traceback.extract_tb(cause.__traceback__)] == ["process"]
    assert [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)][-1] == "run_pipeline"


def test_a_record_that_can_t_be_decoded_ends_the_test_at_once() -> None:
    with pytest.raises(PipelineTestError, match=r"can't decode the record at orders\[0\] offset 0") as caught:
        run_pipeline(_pipeline(), {"orders": [Record(b"{", partition=0)]})
    assert "truncated" in str(caught.value.__cause__)


class _Flaky(mo.KeyedState):
    """Fails once, as something outside may."""

    calls: ClassVar[int] = 0

    def process(self, order: Row, ctx: mo.KeyedContext) -> Row:
        type(self).calls += 1
        if self.calls == 1:
            raise ConnectionError("try again")
        return {"user": ctx.key, "amount": order["amount"]}


def test_state_that_can_t_be_stored_ends_the_test_at_once() -> None:
    with pytest.raises(PipelineTestError, match=r"the state can't be stored: .*total"):
        run_pipeline(_pipeline(), {"orders": [{"user": "ann", "amount": 0.5}]})


def test_restarts_may_be_asked_for() -> None:
    pipeline = mo.Pipeline("orders", parallelism=1, max_parallelism=8)
    orders = pipeline.source("orders", mo.KafkaSource("orders"))
    orders.key_by("user").process("flaky", _Flaky).sink("results", mo.KafkaSink("totals", key="user"))
    rows = run_pipeline(pipeline, {"orders": _orders(1, 2, KillWorker(), 3)}, restarts=True)["totals"]
    assert [row["amount"] for row in rows] == [1, 2, 3]


def test_a_job_that_restarts_too_often_shows_the_error() -> None:
    once = mo.RestartConfig(strategy="fixed_delay", max_attempts=1)
    with pytest.raises(PipelineTestError, match=r"the job has failed: .*a negative amount") as caught:
        run_pipeline(_pipeline(restart=once), {"orders": _orders(-1)}, restarts=True)
    assert isinstance(caught.value.__cause__, ValueError)


def _refuse_negative(order: Row) -> Row:
    if order["amount"] < 0:
        raise ValueError("a negative amount")
    return order


def test_a_poisoned_record_ends_the_job_with_its_place_in_the_input() -> None:
    """It kills every attempt; people must find it."""
    twice = mo.RestartConfig(strategy="fixed_delay", max_attempts=2)
    pipeline = mo.Pipeline("orders", parallelism=2, max_parallelism=8, restart=twice)
    orders = pipeline.source("orders", mo.KafkaSource("orders")).map(_refuse_negative)
    orders.sink("results", mo.KafkaSink("totals", key="user"))
    place = (
        r"the job has failed: .*failed on .*'amount': -1.*: ValueError: a negative amount, from orders\[0\] offset 2"
    )
    with pytest.raises(PipelineTestError, match=place):
        run_pipeline(pipeline, {"orders": _orders(1, 2, -1, 3)}, restarts=True)


def test_behind_an_exchange_the_place_is_that_of_the_frame_and_the_record_is_shown() -> None:
    once = mo.RestartConfig(strategy="fixed_delay", max_attempts=1)
    place = r"failed on .*'amount': -1.*, in a frame of \d+ in moorage\.orders\.orders--totals\[\d\] offset \d+"
    with pytest.raises(PipelineTestError, match=place):
        run_pipeline(_pipeline(restart=once), {"orders": _orders(1, -1)}, restarts=True)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (KillWorker(7), r"KillWorker\(worker=7\): the workers are 0 to 1; run_pipeline\(..., workers=8\) has more"),
        (KillWorker(-1), r"KillWorker\(worker=-1\): the workers are 0 to 1"),
        (Rescale(9), r"Rescale\(9\): use 1 to 8, the pipeline's max_parallelism"),
        (Rescale(0), r"Rescale\(0\): use 1 to 8"),
        (Record(1, partition=2), r"Record\(.*partition=2\): topic 'orders' has the partitions 0 to 1"),
    ],
    ids=str,
)
def test_what_can_t_be_done_is_refused(item: Any, message: str) -> None:
    with pytest.raises(PipelineTestError, match=message):
        _totals(1, item)


def test_a_pipeline_needs_workers_with_slots() -> None:
    with pytest.raises(PipelineTestError, match="workers=0: a pipeline needs at least one"):
        run_pipeline(_pipeline(), {}, workers=0)
    wide = mo.Pipeline("wide", max_parallelism=32)
    wide.source("orders", mo.KafkaSource("orders")).sink("results", mo.KafkaSink("totals", key=None))
    with pytest.raises(
        PipelineTestError, match=r"the 1 workers have 8 slots; run_pipeline\(..., workers=2\) has enough"
    ):
        run_pipeline(wide, {"orders": [Rescale(9)]}, workers=1)


def test_topics_that_nobody_reads_are_refused() -> None:
    with pytest.raises(PipelineTestError, match="reads no topic 'others'"):
        run_pipeline(_pipeline(), {"others": []})


def test_what_can_t_be_processed_may_be_put_aside() -> None:
    """As docs/operations.md says."""

    class Amount(mo.KeyedState):
        total: float = 0.0

        def process(self, order: Row, ctx: mo.KeyedContext) -> Row:
            self.total += order["amount"]
            return {"user": ctx.key, "total": self.total}

    def parsed(order: Row) -> Row:
        try:
            return {**order, "amount": float(order["amount"])}
        except (KeyError, TypeError, ValueError) as error:
            return {"order": order, "error": repr(error)}

    pipeline = mo.Pipeline("orders", parallelism=2, max_parallelism=8)
    orders = pipeline.source("orders", mo.KafkaSource("orders")).map(parsed)
    orders.filter(lambda order: "error" in order, uid="bad").sink("dead", mo.KafkaSink("orders-dead", key=None))
    good = orders.filter(lambda order: "error" not in order, uid="good")
    good.key_by("user").process("totals", Amount).sink("results", mo.KafkaSink("totals", key="user"))
    rows = run_pipeline(
        pipeline, {"orders": [*_orders(1), {"user": "ann"}, KillWorker(), {"user": "ann", "amount": "x"}, *_orders(2)]}
    )
    assert [row["total"] for row in rows["totals"]] == [1, 3]
    assert sorted(row["error"] for row in rows["orders-dead"]) == [
        "KeyError('amount')",
        "ValueError(\"could not convert string to float: 'x'\")",
    ]


# --- a broadcast stream ----------------------------------------------------------------------------------------------


class Limits(mo.CheckpointedFunction):
    """The newest limit."""

    limits: mo.OperatorListState[int] = mo.OperatorListState("broadcast")

    def __call__(self, limit: Row) -> None:
        self.limits[:] = [limit["limit"]]


class Over(mo.KeyedState):
    count: int = 0

    def process(self, order: Row, ctx: mo.KeyedContext) -> Row | None:
        self.count += 1
        (limit,) = ctx.broadcast.limits or [1_000]
        return {"user": ctx.key, "count": self.count, "limit": limit} if order["amount"] > limit else None


def _broadcasting(**options: Any) -> mo.Pipeline:
    pipeline = mo.Pipeline("orders", parallelism=3, max_parallelism=8, **options)
    limits = pipeline.source("limits", mo.KafkaSource("limits"), parallelism=1)
    orders = pipeline.source("orders", mo.KafkaSource("orders"))
    over = orders.key_by("user").process("over", Over, broadcast=mo.Broadcast(limits, Limits))
    over.sink("results", mo.KafkaSink("alerts", key="user"))
    return pipeline


@pytest.mark.parametrize("unaligned", [False, True])
@pytest.mark.parametrize(
    "faults",
    [[], [KillWorker()], [KillWorker(0), KillWorker(1)], [Rescale(5)], [Rescale(1), KillWorker(1)], [StopAndRestore()]],
)
def test_every_subtask_knows_what_was_broadcast(faults: list[Any], unaligned: bool) -> None:
    users = [f"user-{number}" for number in range(12)]
    first = [{"user": user, "amount": 50} for user in users]
    second = [{"user": user, "amount": 7} for user in users]
    rows = run_pipeline(
        _broadcasting(checkpoint=mo.CheckpointConfig(unaligned=unaligned)),
        {"limits": [{"limit": 10}, Checkpoint()], "orders": [*first, Checkpoint(), *faults, *second]},
    )["alerts"]
    late = run_pipeline(
        _broadcasting(checkpoint=mo.CheckpointConfig(unaligned=unaligned)),
        {"limits": [{"limit": 5}, Checkpoint(), *faults], "orders": [Checkpoint(), Checkpoint(), *second]},
    )["alerts"]
    assert {row["user"] for row in late} == set(users)
    assert all(row["limit"] in (10, 1_000) for row in rows)
    assert all(row["limit"] == 5 and row["count"] == 1 for row in late)


def test_a_broadcast_state_must_be_the_same_everywhere() -> None:
    class Split(mo.CheckpointedFunction):
        limits: mo.OperatorListState[int] = mo.OperatorListState("split")

        def __call__(self, limit: Row) -> None:
            self.limits.append(limit["limit"])

    stream = mo.Pipeline("orders").source("limits", mo.KafkaSource("limits"))
    with pytest.raises(mo.PipelineError, match=r"Split.limits must be OperatorListState\('broadcast'\)"):
        mo.Broadcast(stream, Split)
