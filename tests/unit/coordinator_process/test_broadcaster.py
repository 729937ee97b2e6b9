from __future__ import annotations

import pytest

from moorage.coordinator_process.broadcaster import RESEND_DELAY_MS, Broadcaster
from moorage.errors import LogError, LogUnavailableError
from moorage.ids import TopicPartition
from moorage.ports import TopicSpec
from moorage.testing.clocks import ManualClock
from moorage.testing.memory_log import MemoryCluster, MemoryLog

TOPIC = "commands"
PARTITION = TopicPartition(TOPIC, 0)


class Bench:
    def __init__(self) -> None:
        self.cluster = MemoryCluster(ManualClock())
        self.log = MemoryLog(self.cluster, "coordinator", immediate=False)
        self.log.create_topics([TopicSpec(TOPIC, 1, {})])
        self.lost: list[tuple[str, str]] = []
        self.broadcaster = Broadcaster(self.log, lambda kind, why: self.lost.append((kind, why)))

    def send(self, *values: bytes, now_ms: int = 0) -> None:
        for value in values:
            self.broadcaster.send(TOPIC, value, "Kind", now_ms)

    def deliver(self, count: int = 1) -> None:
        for _ in range(count):
            (queue,) = self.log.pending()
            self.log.deliver_one(queue)

    def stored(self) -> list[bytes | None]:
        return [record.value for record in self.cluster.records(TOPIC)]


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_messages_are_stored_in_order(bench: Bench) -> None:
    bench.send(b"1", b"2", b"3")
    bench.deliver(3)
    assert bench.stored() == [b"1", b"2", b"3"]


def test_silence_lasts_until_the_oldest_is_confirmed(bench: Bench) -> None:
    assert bench.broadcaster.silence_ms(500) == 0
    bench.send(b"1", now_ms=100)
    bench.send(b"2", now_ms=400)
    bench.broadcaster.serve(500)
    assert bench.broadcaster.silence_ms(500) == 400
    assert bench.broadcaster.is_waiting("Kind")
    bench.deliver()
    bench.broadcaster.serve(500)
    assert bench.broadcaster.silence_ms(500) == 100
    bench.deliver()
    bench.broadcaster.serve(500)
    assert bench.broadcaster.silence_ms(500) == 0
    assert not bench.broadcaster.is_waiting("Kind")


def test_after_a_failure_everything_from_there_on_is_sent_again(bench: Bench) -> None:
    bench.send(b"1", b"2", b"3", b"4")
    bench.deliver()
    bench.log.faults.fail_next("append", LogUnavailableError("broker went away"))
    bench.deliver(2)
    assert bench.stored() == [b"1", b"3"]
    bench.broadcaster.serve(0)
    bench.deliver(3)
    bench.broadcaster.serve(0)
    # 2 after 3 would be another order: 3 is said again.
    assert bench.stored() == [b"1", b"3", b"2", b"3", b"4"]
    assert bench.broadcaster.silence_ms(9_999) == 0


def test_it_does_not_hurry_while_it_keeps_failing(bench: Bench) -> None:
    bench.send(b"1")
    for now_ms in range(0, RESEND_DELAY_MS * 4, 10):
        if bench.log.pending():
            bench.log.faults.fail_next("append", LogUnavailableError("broker went away"))
            bench.deliver()
        bench.broadcaster.serve(now_ms)
    bench.broadcaster.serve(RESEND_DELAY_MS * 5)
    bench.deliver()
    assert bench.stored() == [b"1"]


def test_what_is_sent_during_a_failure_waits_for_its_turn(bench: Bench) -> None:
    bench.send(b"1")
    bench.log.faults.fail_next("append", LogUnavailableError("broker went away"))
    bench.deliver()
    bench.broadcaster.serve(0)
    bench.log.faults.fail_next("append", LogUnavailableError("broker went away"))
    bench.deliver()
    bench.broadcaster.serve(1)
    bench.send(b"2")
    bench.broadcaster.serve(RESEND_DELAY_MS)
    bench.deliver(2)
    assert bench.stored() == [b"1", b"2"]


def test_what_can_never_be_sent_is_given_up_alone(bench: Bench) -> None:
    bench.send(b"huge", b"2")
    bench.log.faults.fail_next("append", LogError("message too large"))
    bench.deliver()
    bench.broadcaster.serve(0)
    bench.deliver()
    bench.broadcaster.serve(0)
    assert bench.stored() == [b"2"]
    assert bench.lost == [("Kind", "message too large")]
    assert bench.broadcaster.silence_ms(100) == 0


def test_after_close_nothing_is_left_to_send(bench: Bench) -> None:
    bench.send(b"1", b"2")
    bench.broadcaster.close()
    bench.broadcaster.serve(0)
    assert bench.log.pending() == []
    bench.send(b"3")
    bench.deliver()
    assert bench.stored() == [b"3"]
