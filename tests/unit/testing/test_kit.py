"""The test kit, on pipelines such as people write."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

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


def test_an_error_of_the_pipeline_is_shown() -> None:
    with pytest.raises(PipelineTestError, match="a negative amount"):
        _totals(1, -1, pipeline=_pipeline(restart=mo.RestartConfig(strategy="none")))


def test_topics_that_nobody_reads_are_refused() -> None:
    with pytest.raises(PipelineTestError, match="reads no topic 'others'"):
        run_pipeline(_pipeline(), {"others": []})


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
