from __future__ import annotations

from typing import Any

import msgspec

from moorage.ports import TopicSpec
from moorage.testing.clocks import ManualClock
from moorage.testing.memory_log import MemoryCluster, MemoryLog
from moorage_cli.demo import INPUT_TOPIC
from moorage_cli.loadgen import BACKLOG_S, OrderLoad


class Load:
    """What a load generator sends to a topic with 4 partitions."""

    def __init__(self, rate: int) -> None:
        self.cluster = MemoryCluster(ManualClock())
        log = MemoryLog(self.cluster)
        log.create_topics([TopicSpec(INPUT_TOPIC, 4, {})])
        self.orders = OrderLoad(log.record_writer("load"), rate=rate, users=3, tell=lambda _: None, seed=1)

    def stored(self) -> list[tuple[bytes | None, Any]]:
        return [(r.key, msgspec.json.decode(r.value or b"")) for r in self.cluster.records(INPUT_TOPIC)]


def test_sends_what_is_due() -> None:
    load = Load(rate=150)

    for _ in range(100):
        load.orders.send(elapsed_s=0.02)
    load.orders.send(elapsed_s=0.0)

    assert load.orders.sent == 300
    assert len(load.stored()) == 300


def test_an_order_names_its_user_in_key_and_value() -> None:
    load = Load(rate=100)

    load.orders.send(elapsed_s=1.0)
    load.orders.send(elapsed_s=0.0)

    for key, order in load.stored():
        assert key == order["user"].encode()
        assert order["amount"] > 0
    assert {order["user"] for _, order in load.stored()} == {"user-00000", "user-00001", "user-00002"}


def test_does_not_make_up_for_a_long_pause() -> None:
    load = Load(rate=100)

    load.orders.send(elapsed_s=3_600.0)

    assert load.orders.sent == 100


def test_waits_while_kafka_confirms_nothing() -> None:
    load = Load(rate=100)
    load.cluster.available = False

    for _ in range(3_600):
        load.orders.send(elapsed_s=1.0)

    assert load.orders.sent <= 100 * (BACKLOG_S + 1)

    load.cluster.available = True
    load.orders.send(elapsed_s=0.0)
    load.orders.send(elapsed_s=0.0)
    assert len(load.stored()) == load.orders.sent
