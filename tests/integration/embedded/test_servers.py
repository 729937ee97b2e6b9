"""The embedded Kafka and Redis as processes: start, crash, second start on the same directory."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis as redis_client
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from moorage_cli.embedded import kafka as embedded_kafka
from moorage_cli.embedded import redis as embedded_redis
from moorage_cli.embedded.errors import StackError, choose_port
from moorage_cli.embedded.kafka import EmbeddedKafka
from moorage_cli.embedded.processes import ProcessExit
from moorage_cli.embedded.redis import EmbeddedRedis


def _produce(bootstrap_servers: str, topic: str, values: list[bytes]) -> None:
    producer = Producer({"bootstrap.servers": bootstrap_servers})
    for value in values:
        producer.produce(topic, value, partition=0)
    assert producer.flush(20) == 0


def _read(bootstrap_servers: str, topic: str, count: int) -> list[bytes]:
    consumer = Consumer({"bootstrap.servers": bootstrap_servers, "group.id": "unused", "enable.auto.commit": False})
    consumer.assign([TopicPartition(topic, 0, 0)])
    try:
        return [value for m in consumer.consume(count, 20) if (value := m.value()) is not None]
    finally:
        consumer.close()


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedKafka]:
    directory = tmp_path_factory.mktemp("broker")
    with EmbeddedKafka(directory / "kafka", directory / "kafka.log") as broker:
        yield broker


@pytest.mark.kafka
def test_kafka_keeps_records_over_a_kill_and_a_clean_restart(broker: EmbeddedKafka) -> None:
    admin = AdminClient({"bootstrap.servers": broker.bootstrap_servers})
    admin.create_topics([NewTopic("kept", 1, 1)])["kept"].result(20)
    _produce(broker.bootstrap_servers, "kept", [b"one"])
    address = broker.bootstrap_servers

    broker.process.signal(signal.SIGKILL)
    assert broker.process.wait(10) == -signal.SIGKILL
    broker.start()
    _produce(address, "kept", [b"two"])
    broker.stop()
    assert not embedded_kafka.answering_cluster(address)
    broker.start()

    assert broker.bootstrap_servers == address
    assert _read(address, "kept", 2) == [b"one", b"two"]


@pytest.mark.kafka
def test_kafka_refuses_a_port_that_is_taken(broker: EmbeddedKafka, tmp_path: Path) -> None:
    port = int(broker.bootstrap_servers.rpartition(":")[2])

    with pytest.raises(StackError, match=rf"Kafka can't listen on 127\.0\.0\.1:{port}"):
        EmbeddedKafka(tmp_path, tmp_path / "kafka.log", port=port).start()


@pytest.mark.kafka
def test_kafka_does_not_take_another_one_for_itself(
    broker: EmbeddedKafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one took the port after we looked."""
    port = int(broker.bootstrap_servers.rpartition(":")[2])
    monkeypatch.setattr(embedded_kafka, "choose_port", lambda name, port: choose_port(name, 0) if port == 0 else port)

    with pytest.raises(StackError, match=rf"Kafka can't listen on 127\.0\.0\.1:{port}: another Kafka answers there"):
        EmbeddedKafka(tmp_path, tmp_path / "kafka.log", port=port).start()


def test_kafka_that_dies_while_starting_shows_its_last_lines(tmp_path: Path) -> None:
    with EmbeddedKafka(tmp_path / "kafka", tmp_path / "kafka.log"):
        pass
    (tmp_path / "kafka" / "data" / "meta.properties").write_text("version=1\nnode.id=7\ncluster.id=another\n")

    with pytest.raises(
        StackError, match=r"kafka died while starting\. Last lines of (.|\n)*doesn't match previous node id 1"
    ):
        EmbeddedKafka(tmp_path / "kafka", tmp_path / "kafka.log").start()


def test_redis_keeps_what_it_acknowledged_over_a_kill(tmp_path: Path) -> None:
    exits: list[ProcessExit] = []
    server = EmbeddedRedis(tmp_path / "redis", tmp_path / "redis.log", on_exit=exits.append)
    with server, redis_client.Redis.from_url(server.url) as client:
        client.set("key", "value")
        killed = server.process.signal(signal.SIGKILL)
        assert server.process.wait(10) == -signal.SIGKILL
        assert not embedded_redis.answers(server.url)
        server.start()

        assert client.get("key") == b"value"
        assert exits == [ProcessExit("redis", killed, -signal.SIGKILL, restarts=False)]


def test_redis_refuses_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StackError, match=rf"Redis can't listen on 127\.0\.0\.1:{port}"):
            EmbeddedRedis(tmp_path, tmp_path / "redis.log", port=port).start()
