"""Kafka and Redis for tests that need the real ones, started once per session and only when a test asks.

From ``MOORAGE_KAFKA_BOOTSTRAP_SERVERS`` and ``MOORAGE_REDIS_URL``; else containers, when a Docker engine
answers and has or gets the images; else local processes. Tests share them, so they use names of their own for topics,
groups, transactional ids and registry namespaces.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator

import docker
import pytest
from docker.errors import DockerException
from testcontainers.core.config import testcontainers_config
from testcontainers.core.container import DockerContainer
from tests.google_server import GoogleServer, running_google_server
from tests.s3_server import S3Server, running_s3_server

from moorage_cli.embedded import kafka as embedded_kafka
from moorage_cli.embedded import redis as embedded_redis
from moorage_cli.embedded.errors import choose_port

KAFKA_IMAGE = "apache/kafka:4.1.0"
REDIS_IMAGE = "redis:7-alpine"

# The fixtures stop their containers themselves, and the image of the one that would else may not be to be had.
testcontainers_config.ryuk_disabled = True


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Who uses the servers is marked, so that these tests run one after the other on one broker (`make test`)."""
    for item in items:
        if isinstance(item, pytest.Function) and {"kafka", "redis"} & set(item.fixturenames):
            item.add_marker("kafka")


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Bootstrap servers of a Kafka with one broker."""
    if servers := os.environ.get("MOORAGE_KAFKA_BOOTSTRAP_SERVERS"):
        yield servers
    elif _docker_has(KAFKA_IMAGE):
        port = choose_port("a container", 0)
        with _kafka_container(port):
            yield _wait_for(f"127.0.0.1:{port}", embedded_kafka.answers)
    else:
        directory = tmp_path_factory.mktemp("kafka")
        with embedded_kafka.EmbeddedKafka(directory, directory / "kafka.log") as broker:
            yield broker.bootstrap_servers


@pytest.fixture(scope="session")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a Redis that keeps an append-only file."""
    if url := os.environ.get("MOORAGE_REDIS_URL"):
        yield url
    elif _docker_has(REDIS_IMAGE):
        port = choose_port("a container", 0)
        with (
            DockerContainer(REDIS_IMAGE)
            .with_command("redis-server --appendonly yes --appendfsync always")
            .with_bind_ports(6379, port)
        ):
            yield _wait_for(f"redis://127.0.0.1:{port}/0", embedded_redis.answers)
    else:
        directory = tmp_path_factory.mktemp("redis")
        with embedded_redis.EmbeddedRedis(directory, directory / "redis.log") as server:
            yield server.url


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    """An S3 server; tests take buckets of their own."""
    with running_s3_server() as server:
        yield server


@pytest.fixture(scope="session")
def google(s3: S3Server) -> Iterator[GoogleServer]:
    """What answers as Google's object store does; tests take buckets of their own."""
    with running_google_server(s3) as server:
        yield server


def _kafka_container(port: int) -> DockerContainer:
    # Two listeners: the broker reaches itself (transaction markers) by one that exists inside of the container.
    settings = {
        "NODE_ID": "1",
        "PROCESS_ROLES": "broker,controller",
        "CONTROLLER_QUORUM_VOTERS": "1@localhost:29093",
        "CONTROLLER_LISTENER_NAMES": "CONTROLLER",
        "INTER_BROKER_LISTENER_NAME": "INTERNAL",
        "LISTENERS": "EXTERNAL://:9092,INTERNAL://:29092,CONTROLLER://:29093",
        "ADVERTISED_LISTENERS": f"EXTERNAL://127.0.0.1:{port},INTERNAL://localhost:29092",
        "LISTENER_SECURITY_PROTOCOL_MAP": "EXTERNAL:PLAINTEXT,INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "OFFSETS_TOPIC_REPLICATION_FACTOR": "1",
        "OFFSETS_TOPIC_NUM_PARTITIONS": "4",
        "TRANSACTION_STATE_LOG_REPLICATION_FACTOR": "1",
        "TRANSACTION_STATE_LOG_MIN_ISR": "1",
        "TRANSACTION_STATE_LOG_NUM_PARTITIONS": "4",
        "GROUP_INITIAL_REBALANCE_DELAY_MS": "0",
        "AUTO_CREATE_TOPICS_ENABLE": "false",
        "TRANSACTION_MAX_TIMEOUT_MS": "86400000",
    }
    container = DockerContainer(KAFKA_IMAGE).with_bind_ports(9092, port)
    for name, value in settings.items():
        container.with_env(f"KAFKA_{name}", value)
    return container


def _docker_has(image: str) -> bool:
    """A Docker engine answers, and the image is there or could be pulled."""
    try:
        client = docker.from_env(timeout=60)
        client.ping()
        if not client.images.list(name=image):
            client.images.pull(image)
    except DockerException:
        return False
    return True


def _wait_for(address: str, answers: Callable[[str], bool], timeout_s: float = 90.0) -> str:
    deadline_s = time.monotonic() + timeout_s
    while not answers(address):
        assert time.monotonic() < deadline_s, f"nothing answers at {address} after {timeout_s:.0f} s"
        time.sleep(0.1)
    return address
