"""Orders that are counted per user: input, and results as a read-committed reader sees them."""

from __future__ import annotations

import json
from contextlib import closing

from moorage.ids import TopicPartition
from moorage.ports import Log

_CHUNK = 10_000


def produce(log: Log, orders: range, users: int) -> None:
    """One order for each number, to the topic ``orders``."""
    with closing(log.record_writer("orders")) as writer:
        for first in range(orders.start, orders.stop, _CHUNK):
            names = [f"user-{number % users}" for number in range(first, min(first + _CHUNK, orders.stop))]
            values = [json.dumps({"user": name}).encode() for name in names]
            writer.append_records("orders", [name.encode() for name in names], values, [0] * len(names), None)
            writer.commit()


def results(log: Log, topic: str, partitions: int) -> list[tuple[str, int]]:
    """User and count of every result."""
    read = [TopicPartition(topic, number) for number in range(partitions)]
    rows = [json.loads(message.value) for message in log.read_to_end(read, read_committed=True)]
    return [(row["user"], row["count"]) for row in rows]
