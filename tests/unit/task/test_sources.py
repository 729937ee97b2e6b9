"""KafkaSource at work: where it starts, what it finds, where it ends, what it does with what it can't read."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.task.harness import EPOCH, Harness, Order, copy_pipeline

import moorage as mo
from moorage.connectors.kafka_source import SplitState, decode_splits, encode_split
from moorage.connectors.kafka_source_coordinator import encode_partitions
from moorage.errors import CorruptDataError, LogUnavailableError
from moorage.ids import Attempt, OperatorUid, TopicPartition, VertexId
from moorage.messages.commands import OperatorCommand
from moorage.messages.events import DeclineReason
from moorage.serde.frames import ColumnCodec, FrameKind, decode_frame
from moorage.testing.memory_log import MemoryLog

WALL_START_MS = 1_700_000_000_000


def numbered(first: int, count: int) -> list[bytes]:
    return [b"%03d" % number for number in range(first, first + count)]


def running(pipeline: mo.Pipeline, **options: Any) -> Harness:
    harness = Harness(pipeline, **options)
    harness.started()
    return harness


# --- where it starts -------------------------------------------------------------------------------------------------


def filled(**source: Any) -> Harness:
    """Two records in each of three partitions, then the job is deployed, then one more in each."""
    harness = Harness(copy_pipeline(parallelism=2, guarantee="at_least_once", **source))
    for partition in range(3):
        harness.append("orders", partition, *numbered(10 * partition, 2), timestamp_ms=WALL_START_MS + partition)
    harness.cluster.groups["my-group"] = {TopicPartition("orders", 1): 1}
    harness.started()
    for partition in range(3):
        harness.append("orders", partition, *numbered(100 + partition, 1))
    harness.run(20)
    return harness


LATER = [b"100", b"101", b"102"]


def test_earliest_reads_everything() -> None:
    assert filled().values() == [b"000", b"001", b"010", b"011", b"020", b"021", *LATER]


def test_latest_reads_what_comes() -> None:
    assert filled(start="latest").values() == LATER


def test_a_timestamp_reads_from_the_first_record_that_is_not_older() -> None:
    assert filled(start=WALL_START_MS + 1).values() == [b"010", b"011", b"020", b"021", *LATER]


def test_committed_reads_from_the_offsets_of_the_group_else_everything() -> None:
    assert filled(start="committed", group="my-group").values() == [b"000", b"001", b"011", b"020", b"021", *LATER]


def test_several_topics_are_spread_over_the_subtasks() -> None:
    harness = running(copy_pipeline(["a", "b"], parallelism=3), topics={"a": 2, "b": 3})
    for number, (topic, partition) in enumerate([("a", 0), ("a", 1), ("b", 0), ("b", 1), ("b", 2)]):
        harness.append(topic, partition, *numbered(10 * number, 3))
    harness.run(20)
    assert harness.values() == sorted(value for n in range(5) for value in numbered(10 * n, 3))
    assert sorted(c.counters.records_in for c in harness.contexts()) != [0, 0, 15]


def test_a_subtask_without_a_partition_takes_part_in_checkpoints() -> None:
    harness = running(copy_pipeline(parallelism=5, guarantee="exactly_once"))
    harness.append("orders", 0, *numbered(0, 3))
    harness.run(20)
    harness.checkpoint_now()
    assert harness.values() == numbered(0, 3)
    harness.deploy()
    harness.append("orders", 0, *numbered(3, 3))
    harness.run(30)
    harness.checkpoint_now()
    assert harness.values() == numbered(0, 6)


def test_a_topic_that_does_not_exist_is_named() -> None:
    harness = Harness(copy_pipeline(["orders", "missing"]))
    harness.deploy()
    harness.run(20)
    (failure,) = harness.failures()
    assert failure.failure == "source 'orders': topic missing does not exist; create it first"


def test_a_source_that_no_checkpoint_knows_starts_as_it_says() -> None:
    def two_sources(latest: bool) -> mo.Pipeline:
        pipeline = copy_pipeline(guarantee="exactly_once")
        if latest:
            added = pipeline.source("more", mo.KafkaSource("more", value=mo.Raw(), start="latest"))
            added.sink("more-copies", mo.KafkaSink("totals", key=None, value=mo.Raw()))
        return pipeline

    harness = running(two_sources(latest=False), topics={"more": 1})
    harness.append("orders", 0, b"first")
    harness.append("more", 0, b"too old")
    harness.run(20)
    harness.checkpoint_now()
    harness.deploy(pipeline=two_sources(latest=True))
    harness.run(20)
    harness.append("more", 0, b"new")
    harness.append("orders", 0, b"second")
    harness.run(20)
    harness.checkpoint_now()
    assert harness.values() == [b"first", b"new", b"second"]


# --- partitions that are added ---------------------------------------------------------------------------------------


def tell(harness: Harness, topic: str) -> None:
    """The source's coordinator has found the partitions that there are."""
    harness.send(
        OperatorCommand(
            epoch=EPOCH,
            job=harness.compiled.graph.job,
            attempt=Attempt(harness.attempt),
            vertex=VertexId("orders"),
            operator=OperatorUid("orders"),
            subtask=None,
            payload=encode_partitions({topic: len(harness.cluster.topics[topic])}),
        )
    )


@pytest.mark.parametrize("guarantee", ["at_least_once", "exactly_once"])
def test_new_partitions_are_found_while_running_and_read_from_their_beginning(guarantee: str) -> None:
    harness = running(copy_pipeline(parallelism=2, guarantee=guarantee, start="latest"))
    harness.cluster.add_partitions("orders")
    tell(harness, "orders")
    harness.append("orders", 3, *numbered(0, 2))
    harness.run(30)
    harness.append("orders", 3, *numbered(2, 2))
    harness.append("orders", 0, *numbered(4, 1))
    harness.run(30)
    harness.checkpoint_now()
    assert harness.values() == numbered(0, 5)
    harness.deploy()
    harness.run(20)
    harness.append("orders", 3, *numbered(5, 1))
    harness.run(20)
    harness.checkpoint_now()
    assert harness.values() == numbered(0, 6)


def test_partitions_that_were_added_while_nobody_ran_are_read_from_their_beginning() -> None:
    harness = running(copy_pipeline(guarantee="exactly_once", start="latest"))
    harness.run(10)
    harness.checkpoint_now()
    harness.cluster.add_partitions("orders")
    harness.append("orders", 3, *numbered(0, 2))
    harness.deploy()
    harness.run(30)
    harness.checkpoint_now()
    assert harness.values() == numbered(0, 2)


def test_looking_for_partitions_may_fail() -> None:
    harness = running(copy_pipeline(), workers=1)
    harness.workers[0][2].faults.fail_next("offsets", LogUnavailableError("Kafka does not answer"))
    harness.cluster.add_partitions("orders")
    tell(harness, "orders")
    harness.append("orders", 3, b"there")
    harness.run(400)
    assert harness.warnings == ["source 'orders': looking for new partitions failed: Kafka does not answer"]
    assert harness.values() == [b"there"]


# --- where it ends ---------------------------------------------------------------------------------------------------


def test_until_latest_reads_to_the_end_of_each_partition_and_then_ends() -> None:
    harness = Harness(copy_pipeline(guarantee="exactly_once", until="latest"))
    harness.append("orders", 0, *numbered(0, 1))
    harness.append("orders", 1, *numbered(100, 150))
    harness.started()
    harness.append("orders", 0, b"late")
    harness.append("orders", 1, b"late")
    harness.append("orders", 2, b"late")
    harness.cluster.add_partitions("orders")
    harness.append("orders", 3, b"late")
    harness.run(30)
    expected = [*numbered(0, 1), *numbered(100, 150)]
    harness.checkpoint_now()
    assert harness.values() == expected
    assert harness.finished() == {"orders": 1, "copies": 1}
    harness.deploy()
    harness.run(20)
    assert harness.values() == expected
    assert harness.finished() == {"orders": 1, "copies": 1}


def test_a_partition_that_ends_does_not_disturb_the_others() -> None:
    """All are polled at once, and one ends in that poll."""
    harness = Harness(copy_pipeline(until={("orders", 0): 2, ("orders", 1): 300, ("orders", 2): 300}))
    for partition in range(3):
        harness.append("orders", partition, *numbered(300 * partition, 100))
    harness.started()
    harness.run(10)
    for partition in range(3):
        harness.append("orders", partition, *numbered(300 * partition + 100, 100))
    harness.run(20)
    assert harness.values() == [*numbered(0, 2), *numbered(300, 200), *numbered(600, 200)]


def test_until_offsets_reads_up_to_them_and_nothing_of_partitions_that_are_not_named() -> None:
    harness = Harness(copy_pipeline(until={("orders", 0): 3, ("orders", 1): 0}))
    for partition in range(3):
        harness.append("orders", partition, *numbered(10 * partition, 5))
    harness.started()
    harness.run(20)
    assert harness.values() == numbered(0, 3)


# --- what it does not take -------------------------------------------------------------------------------------------

GOOD, BAD = b'{"user":"ann","amount":1.0}', b'{"user":"ann","amount":'


def orders(**source: Any) -> mo.Pipeline:
    return copy_pipeline(value=mo.Json(Order), **source)


def test_a_record_that_can_not_be_decoded_fails_the_job() -> None:
    harness = running(orders())
    harness.append("orders", 1, GOOD, GOOD, BAD, GOOD)
    harness.run(20)
    (failure,) = harness.failures()
    assert failure.failure == (
        "source 'orders' can't decode the record at orders[1] offset 2 by Json(Order): Input data was truncated."
        " Mend the record, or choose on_error='skip' or 'dead_letter'"
    )
    assert failure.trace == "msgspec.DecodeError: Input data was truncated\n", "none of our own lines"


def test_it_is_skipped_and_counted() -> None:
    harness = running(orders(on_error="skip"))
    harness.append("orders", 1, GOOD, BAD, BAD, GOOD)
    harness.run(20)
    assert harness.values() == [GOOD, GOOD]
    assert [c.counters.records_skipped for c in harness.contexts()] == [2]
    assert not harness.failures()


def test_it_goes_to_the_dead_letters_as_it_is() -> None:
    harness = running(orders(on_error="dead_letter", dead_letter_topic="dead"), topics={"dead": 1})
    harness.append("orders", 1, GOOD, key=b"k")
    harness.append("orders", 1, BAD, key=b"k", timestamp_ms=77)
    harness.run(20)
    (letter,) = harness.cluster.records("dead")
    assert (letter.key, letter.value, letter.timestamp_ms) == (b"k", BAD, 77)
    assert dict(letter.headers) == {
        "moorage.error": b"Input data was truncated",
        "moorage.origin": b"orders[1] offset 1",
    }
    assert harness.values() == [GOOD]
    assert [c.counters.records_dead_lettered for c in harness.contexts()] == [1]


def test_dead_letters_are_stored_before_a_checkpoint_is_acknowledged() -> None:
    harness = running(orders(on_error="dead_letter", dead_letter_topic="dead"), topics={"dead": 1}, workers=1)
    log = harness.workers[0][2]
    log.immediate = False
    harness.append("orders", 0, BAD)
    deliver_all(harness, log, but="dead")
    checkpoint = harness.trigger()
    deliver_all(harness, log, but="dead", run_calls=False)
    assert not harness.acks(checkpoint)
    assert not harness.cluster.records("dead")
    deliver_all(harness, log, but="dead")
    assert harness.acks(checkpoint)
    assert len(harness.cluster.records("dead")) == 1


def test_dead_letters_that_are_not_stored_decline_the_checkpoint() -> None:
    harness = running(orders(on_error="dead_letter", dead_letter_topic="dead"), topics={"dead": 1}, workers=1)
    harness.workers[0][2].faults.fail_next("commit", LogUnavailableError("Kafka does not answer"))
    harness.append("orders", 0, BAD)
    harness.run(10)
    harness.trigger()
    harness.run(20)
    (decline,) = harness.declined()
    assert (decline.reason, decline.detail) == (DeclineReason.LOG, "LogUnavailableError: Kafka does not answer")
    (failure,) = harness.failures()
    assert failure.failure == "Kafka does not answer", "the error of a lost record stays"


def deliver_all(harness: Harness, log: MemoryLog, *, but: str, run_calls: bool = True) -> None:
    """Run; everything reaches the log but what is meant for one topic."""
    for _ in range(20):
        for worker, executor, _ in harness.workers:
            worker.step()
            if run_calls:
                executor.run_all()
        for queue in log.pending():
            while queue and queue.partition.topic != but:
                queue.deliver_one()
        harness.clock.advance(5)
    harness._read_events()


def test_a_tombstone_is_none() -> None:
    harness = running(orders())
    harness.append("orders", 0, GOOD, None, GOOD)
    harness.run(20)
    assert harness.values() == [b"null", GOOD, GOOD]


def test_only_committed_records_are_read() -> None:
    harness = running(copy_pipeline())
    writer = MemoryLog(harness.cluster, "shop").transactional_writer("shop", transaction_timeout_ms=60_000)
    writer.init()
    harness.append("orders", 1, b"before")
    for values, commits in (([b"aborted"], False), ([b"committed"], True)):
        writer.begin()
        writer.append("orders", 1, None, values[0])
        harness.append("orders", 1, b"beside " + values[0])
        harness.run(10)
        assert values[0] not in harness.values()
        assert b"beside " + values[0] not in harness.values(), "it lies behind an open transaction"
        (writer.commit if commits else writer.abort)()
        harness.run(10)
    assert harness.values() == [b"before", b"beside aborted", b"beside committed", b"committed"]


# --- checkpoints -----------------------------------------------------------------------------------------------------


def test_offsets_are_committed_to_the_group_with_the_checkpoint() -> None:
    harness = running(copy_pipeline(parallelism=2))
    harness.append("orders", 0, *numbered(0, 4))
    harness.append("orders", 2, *numbered(10, 2))
    harness.run(20)
    checkpoint = harness.trigger()
    harness.append("orders", 0, *numbered(4, 4))
    harness.run(20)
    assert harness.cluster.groups == {}
    harness.finalize(checkpoint)
    harness.run(20)
    offsets = {tp.partition: offset for tp, offset in harness.cluster.groups["moorage.orders.orders"].items()}
    assert offsets == {0: 4, 1: 0, 2: 2}
    harness.checkpoint_now()
    assert harness.cluster.groups["moorage.orders.orders"][TopicPartition("orders", 0)] == 8


def test_an_aborted_checkpoint_commits_no_offsets() -> None:
    harness = running(copy_pipeline(group="mine"))
    harness.append("orders", 0, *numbered(0, 4))
    harness.run(20)
    checkpoint = harness.trigger()
    harness.run(20)
    harness.abort(checkpoint)
    harness.run(20)
    harness.notify(checkpoint)
    harness.run(20)
    assert harness.cluster.groups == {}


def test_positions_carry_a_checksum() -> None:
    split = SplitState("orders", 3, 17, None)
    element = encode_split(split)
    assert decode_splits([element]) == {TopicPartition("orders", 3): split}
    for index in range(len(element)):
        damaged = bytearray(element)
        damaged[index] ^= 1
        with pytest.raises(CorruptDataError, match="position of a Kafka source: wrong checksum"):
            decode_splits([bytes(damaged)])
        with pytest.raises(CorruptDataError, match="position of a Kafka source"):
            decode_splits([element[:index]])


def data_values(value: bytes) -> list[bytes]:
    """Of a frame in a sink's exchange."""
    frame = decode_frame(value)
    return list(ColumnCodec(bytes | None, bytes).decode(frame.payload).values) if frame.kind is FrameKind.DATA else []


def test_a_partition_keeps_its_key_group_over_a_rescale() -> None:
    """So what a sink writes of it stays in order, whoever reads it and whoever commits it."""
    harness = Harness(copy_pipeline(parallelism=1, guarantee="exactly_once"), partitions=5)
    harness.started()
    for partition in range(5):
        harness.append("orders", partition, *numbered(100 * partition, 10))
    harness.run(30)
    harness.checkpoint_now()

    def groups() -> dict[int, set[int]]:
        records = harness.cluster.records("moorage.orders.orders--copies", read_committed=False)
        values = {(r.partition, v) for r in records for v in data_values(r.value or b"")}
        return {n: {group for group, value in values if int(value) // 100 == n} for n in range(5)}

    before = groups()
    assert all(len(found) == 1 for found in before.values())
    harness.deploy(pipeline=copy_pipeline(parallelism=2, guarantee="exactly_once"))
    harness.run(30)
    for partition in range(5):
        harness.append("orders", partition, *numbered(100 * partition + 10, 10))
    harness.run(30)
    harness.checkpoint_now()
    assert groups() == before
    assert len(harness.values()) == 100


# --- poisoned records ------------------------------------------------------------------------------------------------


def poisoned(function: Any, **source: Any) -> Harness:
    pipeline = mo.Pipeline("orders", parallelism=1, max_parallelism=8)
    orders = pipeline.source("orders", mo.KafkaSource("orders", value=mo.Raw(), **source))
    orders.filter(lambda value: value != b"001", uid="some").map(function, uid="poisoned").sink(
        "copies", mo.KafkaSink("totals", key=None, value=mo.Raw())
    )
    harness = Harness(pipeline)
    harness.append("orders", 1, *numbered(0, 20))
    harness.deploy()
    harness.run(30)
    return harness


def test_user_code_that_fails_on_a_record_names_its_place_in_the_input() -> None:
    def fails(value: bytes) -> bytes:
        if value == b"007":
            raise ValueError("no sevens")
        return value

    (failure,) = poisoned(fails).failures()
    assert failure.failure == "operator 'poisoned' failed on b'007': ValueError: no sevens, from orders[1] offset 7"
    assert "in fails" in (failure.trace or "")
    assert not failure.permanent, "other code may do"


def test_a_failure_that_does_not_come_again_names_where_it_may_have_been() -> None:
    failed: list[bytes] = []

    def fails_once(value: bytes) -> bytes:
        if value == b"007" and not failed:
            failed.append(value)
            raise ValueError("no sevens")
        return value

    (failure,) = poisoned(fails_once).failures()
    assert "from one of orders[1] offsets 0 to 15; it did not fail again" in (failure.failure or "")
