"""Finds the partitions of a source's topics, once for all its subtasks (Flink: KafkaSourceEnumerator).

Every subtask is told which partitions there are and takes its share by the same rule, so nothing is handed out and
nothing has to be taken back after a rescale. The known partitions are the state; they never get fewer, as Kafka takes
none away. Subtasks look for themselves once, when they start: what is told to one that knows it already has no effect.

Subtasks also tell when they work off a backlog, so that checkpoints can be taken at another interval meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from moorage.api.connectors import KAFKA_SOURCE_KIND, KafkaSourceDiscovery
from moorage.checkpoint.operator_coordinators import Kinds, OperatorContext
from moorage.effects import CallError, ListPartitions
from moorage.ids import CheckpointId

FIRST_RETRY_MS = 1_000


class Partitions(msgspec.Struct, frozen=True):
    """To the subtasks, and in checkpoints: how many partitions each topic has."""

    counts: dict[str, int]


class Backlog(msgspec.Struct, frozen=True):
    """From a subtask."""

    has_backlog: bool


def encode_partitions(counts: Mapping[str, int]) -> bytes:
    return msgspec.msgpack.encode(Partitions(dict(counts)))


def decode_partitions(data: bytes) -> dict[str, int]:
    return msgspec.msgpack.decode(data, type=Partitions).counts


def encode_backlog(has_backlog: bool) -> bytes:
    return msgspec.msgpack.encode(Backlog(has_backlog))


class KafkaSourceCoordinator:
    """``checkpoint.operator_coordinators.OperatorCoordinator``."""

    def __init__(self, context: OperatorContext) -> None:
        self._context = context
        self._config = msgspec.msgpack.decode(context.config, type=KafkaSourceDiscovery)
        self._known: dict[str, int] = {}
        self._is_asking = False
        self._is_told = False
        """This attempt's subtasks have heard what is known."""
        self._next_ms: int | None = None
        self._behind: set[int] = set()
        """Subtasks that work off a backlog."""

    def reset(self, checkpoint: CheckpointId | None, state: bytes | None) -> None:
        self._known = {} if state is None else decode_partitions(state)
        self._is_asking = self._is_told = False
        self._next_ms = None
        self._behind.clear()

    def tick(self, now_ms: int) -> None:
        interval_ms = self._config.interval_ms
        if interval_ms is None or self._is_asking or (self._next_ms is not None and now_ms < self._next_ms):
            return
        self._is_asking = True
        self._next_ms = now_ms + (interval_ms if self._is_told else min(interval_ms, FIRST_RETRY_MS))
        self._context.call(ListPartitions(topics=self._config.topics), self._found, self._not_found)

    def subtask_ready(self, subtask: int) -> None:
        """It has looked for itself."""

    def subtask_failed(self, subtask: int, cause: str) -> None:
        """All start again."""

    def handle_event(self, subtask: int, payload: bytes) -> None:
        before = bool(self._behind)
        if msgspec.msgpack.decode(payload, type=Backlog).has_backlog:
            self._behind.add(subtask)
        else:
            self._behind.discard(subtask)
        if before != bool(self._behind):
            self._context.backlog(bool(self._behind))

    def checkpoint(self, checkpoint: CheckpointId, done: Callable[[bytes], None]) -> None:
        done(encode_partitions(self._known))

    def completed(self, checkpoint: CheckpointId) -> None:
        """Nothing waits for it."""

    def aborted(self, checkpoint: CheckpointId) -> None:
        """Nothing waits for it."""

    def close(self) -> None:
        self._behind.clear()

    def _found(self, counts: dict[str, int]) -> None:
        self._is_asking = False
        # Metadata of a broker that lags behind may show fewer than there are.
        known = self._known | {topic: max(count, self._known.get(topic, 0)) for topic, count in counts.items()}
        if known != self._known or not self._is_told:
            self._known = known
            self._is_told = True
            self._context.send(None, encode_partitions(self._known))

    def _not_found(self, _: CallError) -> None:
        """Kafka does not answer: look again after the interval. The records of new partitions wait meanwhile."""
        self._is_asking = False


OPERATOR_COORDINATORS: Kinds = {KAFKA_SOURCE_KIND: KafkaSourceCoordinator}
"""Those that come with Moorage."""
