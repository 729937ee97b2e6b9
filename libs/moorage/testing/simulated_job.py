"""The job that the simulation runs, and what its output must be.

The orders pipeline, with further branches that a seed may add: a copy of the input, a second keyed operator behind the
first one, an at-least-once sink; and further parts that no exchange connects with the others, which read the same
input. Parallelism differs from operator to operator.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from itertools import accumulate
from operator import add
from random import Random
from typing import Any
from zlib import crc32

import msgspec

from moorage.api.compiler import CompiledPipeline, compile_pipeline
from moorage.api.connectors import KafkaSink, KafkaSource
from moorage.api.formats import Json
from moorage.api.functions import CheckpointedFunction, OperatorListState
from moorage.api.keyed_state import KeyedContext, KeyedState
from moorage.api.pipeline import Broadcast, Pipeline, Stream
from moorage.api.state import ReducingState
from moorage.graph.job_graph import CheckpointConfig, RestartConfig
from moorage.ids import TopicPartition
from moorage.testing.memory_log import MemoryCluster

MAX_PARALLELISM = 8
BUCKETS = 3
Row = dict[str, Any]
Judge = Callable[[int, Row], bool]


class InvariantError(AssertionError):
    """What must never happen; the message names the seed."""


class Order(msgspec.Struct):
    user: str
    amount: int
    number: int
    """Of the user's orders, from 1 on."""


class Total(KeyedState):
    """A row with a state of its own beside it."""

    count: int = 0
    total: ReducingState[int] = ReducingState(add)

    def process(self, order: Order, ctx: KeyedContext) -> Iterator[Row]:
        self.count += 1
        self.total.add(order.amount)
        yield {"user": ctx.key, "count": self.count, "total": self.total.get()}


class Bucket(KeyedState):
    size: int = 0

    def process(self, row: Row, ctx: KeyedContext) -> Row:
        self.size += 1
        return {"bucket": ctx.key, "size": self.size, "user": row["user"], "count": row["count"]}


class Visit(KeyedState):
    count: int = 0

    def process(self, order: Order, ctx: KeyedContext) -> Row:
        self.count += 1
        return {"user": ctx.key, "count": self.count}


class Heard(CheckpointedFunction):
    """How many orders a subtask has heard of, of all users."""

    counts: OperatorListState[int] = OperatorListState("broadcast")

    def __call__(self, order: Order) -> None:
        self.counts[:] = [sum(self.counts) + 1]


class Listener(KeyedState):
    count: int = 0

    def process(self, order: Order, ctx: KeyedContext) -> Row:
        self.count += 1
        return {"user": ctx.key, "count": self.count, "heard": sum(ctx.broadcast.counts)}


def numbered(order: Order) -> Row:
    return {"user": order.user, "count": order.number}


def _peek(rng: Random) -> float:
    """What ``rng`` gives next, without taking it: seeds whose job does not change go on meaning what they meant."""
    copy = Random()  # noqa: S311 - a schedule, not a secret
    copy.setstate(rng.getstate())
    return copy.random()


def bucket_of(row: Row) -> int:
    return crc32(row["user"].encode()) % BUCKETS


class Count(Enum):
    """How an output tells to how many orders of a user it has the answers."""

    ALL = "all"
    """One row each."""
    DISTINCT = "distinct"
    """Some twice: at-least-once sinks."""
    NEWEST = "newest"
    """Some left out: at-least-once state."""


class SimulatedJob:
    """A pipeline drawn from ``rng``, and the judge of its output topics."""

    def __init__(self, rng: Random, *, orders: int, users: int, partitions: int) -> None:
        self._amounts: dict[str, list[int]] = {}
        self._sums: dict[str, list[int]] = {}
        self._has_exact_state = rng.random() < 0.9
        """Else barriers hold nothing back, and after a restart state may count an order twice."""
        self.is_bounded = rng.random() < 0.4
        """The job ends with its input."""
        self.partitions = partitions
        self._orders = deque((f"user-{rng.randrange(users)}", rng.randrange(1_000)) for _ in range(orders))
        """To be produced."""
        self.outputs = [self._output("totals", self._is_next_total)]
        self.compiled = self._compile(rng)

    def _compile(self, rng: Random) -> CompiledPipeline:
        def some() -> int:
            return rng.choice([1, 2, 3])

        pipeline = Pipeline(
            "orders",
            parallelism=some(),
            max_parallelism=MAX_PARALLELISM,
            checkpoint=CheckpointConfig(
                interval_ms=rng.choice([50, 100]),
                timeout_ms=1_000,
                max_concurrent=rng.choice([1, 2, 3]),
                retained=rng.choice([1, 2, 3]),
                tolerable_failures=1_000,
                **self._alignment(rng),
            ),
            restart=RestartConfig(initial_delay_ms=10, max_delay_ms=200),
        )
        orders = pipeline.source("orders", KafkaSource("orders", value=Json(Order), until=self._ends()))
        totals = orders.key_by("user").process("totals", Total, parallelism=some())
        totals.sink("results", KafkaSink("totals", key="user"), parallelism=some())
        if rng.random() < 0.25:
            orders.sink("copies", KafkaSink("copies", key="user"))
            self.outputs.append(_Output("copies", "user", self._is_next_order))
        if rng.random() < 0.25:
            buckets = totals.key_by(bucket_of).process("buckets", Bucket, parallelism=some())
            buckets.sink("sizes", KafkaSink("sizes", key="bucket"))
            self.outputs.append(self._output("sizes", self._is_next_in_bucket()))
        if rng.random() < 0.15:
            totals.sink("repeats", KafkaSink("repeats", key="user", guarantee="at_least_once"))
            self.outputs.append(self._output("repeats", self._is_some_total, exactly_once=False))
        if rng.random() < 0.3:
            spread = orders.rebalance(uid="spread", parallelism=some())
            spread.map(numbered).sink("spreads", KafkaSink("spreads", key="user"))
            self.outputs.append(self._stateless_output("spreads"))
            if rng.random() < 0.5:
                visits = orders.union(spread).key_by("user").process("visits", Visit, parallelism=some())
                visits.sink("counts", KafkaSink("visits", key="user"))
                self.outputs.append(self._output("visits", lambda number, row: bool(row["count"] == number), times=2))
        chance = _peek(rng)
        if 0.1 < chance < 0.6:
            self._add_parts(pipeline, Random(chance))  # noqa: S311
        if chance < 0.2:
            heard = Broadcast(orders.rebalance(uid="news", parallelism=1), Heard)
            listeners = orders.key_by("user").process("listeners", Listener, broadcast=heard)
            listeners.sink("notes", KafkaSink("notes", key="user"))
            self.outputs.append(self._output("notes", self._is_next_note))
        return compile_pipeline(pipeline, "simulation:pipeline")

    def _add_parts(self, pipeline: Pipeline, rng: Random) -> None:
        """One or two that nothing connects with the rest of the job."""

        def source(uid: str) -> Stream:
            orders = KafkaSource("orders", value=Json(Order), until=self._ends())
            return pipeline.source(uid, orders, parallelism=rng.choice([1, 2]))

        audits = source("again").key_by("user").process("audits", Visit, parallelism=rng.choice([1, 2, 3]))
        audits.sink("audited", KafkaSink("audits", key="user"), parallelism=rng.choice([1, 2]))
        self.outputs.append(self._output("audits", lambda number, row: bool(row["count"] == number)))
        if rng.random() < 0.3:
            source("mirrored").sink("mirror", KafkaSink("mirror", key="user"))
            self.outputs.append(_Output("mirror", "user", self._is_next_order))

    def _output(self, topic: str, is_right: Judge, *, exactly_once: bool = True, times: int = 1) -> _Output:
        """Of totals: what the state says shows in it. ``times``: results per order."""
        if self._has_exact_state:
            return _Output(topic, "user", is_right, Count.ALL if exactly_once else Count.DISTINCT, times)
        return _Output(topic, "user", lambda _, row: row["count"] > 0, Count.NEWEST, times)

    def _stateless_output(self, topic: str) -> _Output:
        """One row per order, in no order."""
        seen: set[tuple[str, int]] = set()

        def is_new(_: int, row: Row) -> bool:
            order = (row["user"], row["count"])
            is_right = row["count"] <= len(self._amounts[row["user"]]) and order not in seen
            seen.add(order)
            return is_right

        if self._has_exact_state:
            return _Output(topic, "user", is_new)
        return _Output(topic, "user", lambda _, row: row["count"] > 0, Count.DISTINCT)

    def _alignment(self, rng: Random) -> dict[str, Any]:
        if self._has_exact_state:
            unaligned = rng.random() < 0.6
            return {
                "unaligned": unaligned,
                "aligned_timeout_ms": rng.choice([0, 20, 100]) if unaligned else 0,
                "alignment_limit_bytes": rng.choice([None, None, None, 500]),
            }
        return {"mode": "at_least_once"}

    # --- input and output --------------------------------------------------------------------------------------------

    @property
    def orders_left(self) -> int:
        return len(self._orders)

    def produce(self) -> tuple[TopicPartition, bytes]:
        """The next order, as it goes into the input topic."""
        user, amount = self._orders.popleft()
        amounts = self._amounts.setdefault(user, [])
        amounts.append(amount)
        self._sums[user] = list(accumulate(amounts))
        return TopicPartition("orders", self._partition_of(user)), msgspec.json.encode(
            Order(user, amount, len(amounts))
        )

    def _partition_of(self, user: str) -> int:
        return crc32(user.encode()) % self.partitions

    def _ends(self) -> dict[tuple[str, int], int] | None:
        """Where the source stops; None: it goes on for ever."""
        counts = Counter(self._partition_of(user) for user, _ in self._orders)
        return {("orders", number): counts[number] for number in range(self.partitions)} if self.is_bounded else None

    def check_output(self, cluster: MemoryCluster) -> None:
        """Look at what read-committed readers can see now. InvariantError for what must never be there."""
        for output in self.outputs:
            output.check(cluster)

    def missing(self) -> Mapping[str, int]:
        """Results that are not there yet, by topic."""
        return {
            output.topic: lacking
            for output in self.outputs
            if (lacking := sum(output.lacking(user, len(amounts)) for user, amounts in self._amounts.items()))
        }

    # --- what must follow --------------------------------------------------------------------------------------------

    def _is_some_total(self, number: int, row: Row) -> bool:
        sums = self._sums[row["user"]]
        return bool(1 <= row["count"] <= len(sums) and row["total"] == sums[row["count"] - 1])

    def _is_next_total(self, number: int, row: Row) -> bool:
        return bool(row["count"] == number and self._is_some_total(number, row))

    def _is_next_order(self, number: int, row: Row) -> bool:
        amounts = self._amounts[row["user"]]
        return bool(number <= len(amounts) and row["amount"] == amounts[number - 1])

    def _is_next_note(self, number: int, row: Row) -> bool:
        """Nobody hears of more orders than there are: what is broadcast counts once, too."""
        return bool(row["count"] == number and row["heard"] <= sum(map(len, self._amounts.values())))

    def _is_next_in_bucket(self) -> Judge:
        sizes: dict[int, int] = {}

        def judge(number: int, row: Row) -> bool:
            bucket = row["bucket"]
            sizes[bucket] = sizes.get(bucket, 0) + 1
            return bool(row["count"] == number and row["size"] == sizes[bucket] and bucket == bucket_of(row))

        return judge


class _Output:
    """One output topic, read on as it grows. Rows of a key lie in one partition, in order."""

    def __init__(self, topic: str, key: str, is_right: Judge, count: Count = Count.ALL, times: int = 1) -> None:
        """``is_right(number, row)``: whether ``row`` may be the ``number``-th of its key. ``times``: rows per order."""
        self.topic = topic
        self._key = key
        self._is_right = is_right
        self._count = count
        self._times = times
        self._next_offsets: dict[int, int] = {}
        self._counts: dict[str, int] = {}
        self._seen: dict[str, set[int]] = {}

    def check(self, cluster: MemoryCluster) -> None:
        for record in cluster.records(self.topic, starts=self._next_offsets):
            self._next_offsets[record.partition] = record.offset + 1
            row = msgspec.json.decode(record.value or b"null")
            key = row[self._key]
            number = self._counts[key] = self._counts.get(key, 0) + 1
            if not self._is_right(number, row):
                where = f"{TopicPartition(record.topic, record.partition)} offset {record.offset}"
                raise InvariantError(f"{row} is not result {number} of {key} ({where})")
            self._seen.setdefault(key, set()).add(row.get("count", number))

    def lacking(self, key: str, orders: int) -> int:
        """Rows of a key that are not there yet."""
        return max(0, self._times * orders - self._rows(key))

    def _rows(self, key: str) -> int:
        seen = self._seen.get(key, set())
        match self._count:
            case Count.ALL:
                return self._counts.get(key, 0)
            case Count.DISTINCT:
                return len(seen)
            case Count.NEWEST:
                return max(seen, default=0)
