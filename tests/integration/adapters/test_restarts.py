"""The adapters while Kafka or Redis is killed and started again: what they hold goes on, nothing is lost or doubled."""

from __future__ import annotations

import logging
import signal
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from moorage.adapters.kafka import KafkaLog
from moorage.adapters.redis_registry import RedisRegistry
from moorage.errors import LogError, LogUnavailableError, RegistryUnavailableError
from moorage.ids import JobId, TopicPartition
from moorage.ports import OffsetSpec, TopicSpec
from moorage_cli.embedded.kafka import EmbeddedKafka
from moorage_cli.embedded.redis import EmbeddedRedis

pytestmark = pytest.mark.kafka

JOB = JobId("orders")


def wait_until(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "it did not happen in time"
        time.sleep(0.01)


def test_readers_and_writers_outlive_a_kafka_that_is_killed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    partition = TopicPartition("frames", 0)
    with EmbeddedKafka(tmp_path / "kafka", tmp_path / "kafka.log") as broker:
        log = KafkaLog(broker.bootstrap_servers, client_id="restart", timeout_ms=60_000)
        log.create_topics([TopicSpec("frames", 1, {}), TopicSpec("records", 1, {})])
        writer = log.writer("writer")
        reader = log.reader("reader")
        records = log.record_reader("records", group="group", read_committed=True, max_poll_records=100)
        transactions = log.transactional_writer("id", transaction_timeout_ms=60_000)
        transactions.init()
        reader.assign({partition: 0})
        records.assign({TopicPartition("records", 0): 0})
        offsets: list[int] = []
        frames: list[bytes] = []
        output: list[bytes | None] = []

        def delivered(offset: int, error: LogError | None) -> None:
            assert error is None
            offsets.append(offset)

        def serve(count: int) -> bool:
            writer.poll()
            transactions.poll()
            frames.extend(message.value for message in reader.poll(100))
            for batch in records.poll(100):
                output.extend(batch.values)
                records.commit({TopicPartition("records", 0): batch.offsets[-1] + 1})
            return len(offsets) == count and len(frames) == count and len(output) == count // 10

        def write(first: int) -> None:
            for n in range(first, first + 100):
                writer.append("frames", 0, b"%d" % n, delivered)
            transactions.begin()
            transactions.append_records("records", [b"k"] * 10, [b"%d" % first] * 10, [1] * 10, None)

        write(0)
        transactions.commit()
        wait_until(lambda: serve(100))

        write(100)
        broker.process.signal(signal.SIGKILL)
        broker.process.wait(10)
        for _ in range(100):
            serve(200)
            time.sleep(0.01)
        with pytest.raises(LogUnavailableError, match=broker.bootstrap_servers):
            log.check(500)
        broker.start()
        transactions.commit()
        wait_until(lambda: serve(200))

        write(200)
        broker.stop()
        broker.start()
        transactions.commit()
        wait_until(lambda: serve(300))

        assert offsets == list(range(300))
        assert frames == [b"%d" % n for n in range(300)]
        assert output == [b"%d" % first for first in (0, 100, 200) for _ in range(10)]
        assert log.offsets([partition], OffsetSpec.LATEST) == {partition: 300}
        impatient = KafkaLog(broker.bootstrap_servers, client_id="restart", timeout_ms=1_000)
        transactions.begin()

    # Without their Kafka clients close at once, whatever they have to do.
    write_to_nobody = impatient.record_writer("nobody")
    write_to_nobody.append_records("records", [b"k"], [b"lost"], [1], None)
    for blocking in (write_to_nobody.commit, impatient.topics):
        started_s = time.monotonic()
        with pytest.raises(LogUnavailableError):
            blocking()
        assert time.monotonic() - started_s < 3
    writer.append("frames", 0, b"lost", lambda *_: None)
    transactions.append("records", 0, None, b"lost")
    started_s = time.monotonic()
    for client in (writer, reader, records, transactions, write_to_nobody):
        client.close()
    assert time.monotonic() - started_s < 1

    said = [r.getMessage() for r in caplog.records if r.name == "moorage.adapters.kafka.client"]
    assert any("Kafka client restart.writer: " in line for line in said)
    assert len(said) < 60, "one line a minute of each kind and client"
    assert all(record.levelno <= logging.WARNING for record in caplog.records if record.name.startswith("moorage"))


def test_the_registry_outlives_a_redis_that_is_killed(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path / "redis", tmp_path / "redis.log") as server:
        registry = RedisRegistry(server.url, namespace=uuid.uuid4().hex)
        lease = registry.acquire_lease("leader", 60_000)
        assert lease is not None
        assert registry.next_checkpoint_id(lease.epoch, JOB) == 1
        server.process.signal(signal.SIGKILL)
        server.process.wait(10)
        with pytest.raises(RegistryUnavailableError, match=r"Redis at 127\.0\.0\.1"):
            registry.next_checkpoint_id(lease.epoch, JOB)
        server.start()
        assert registry.next_checkpoint_id(lease.epoch, JOB) == 2
        assert registry.renew_lease("leader", lease.epoch, 60_000)
        registry.close()


def test_a_redis_that_would_lose_acknowledged_writes_is_pointed_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with EmbeddedRedis(tmp_path / "redis", tmp_path / "redis.log") as server:
        registry = RedisRegistry(server.url)
        registry.check()
        assert caplog.records == []
        registry._redis.config_set("appendfsync", "everysec")
        registry.check()
        (warning,) = caplog.records
        assert "appendfsync always" in warning.getMessage()
        assert "everysec" in warning.getMessage()
        registry.close()
