"""What the adapters say when nobody is there, or when they are told nonsense."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator

import pytest
from confluent_kafka import KafkaError

from moorage.adapters.kafka import KafkaLog
from moorage.adapters.kafka.client import ClientLog, translate
from moorage.adapters.redis_registry import RedisRegistry
from moorage.errors import (
    FencedError,
    LogError,
    LogUnavailableError,
    OffsetOutOfRangeError,
    RegistryUnavailableError,
    SettingError,
)


@pytest.fixture
def nobody() -> Iterator[str]:
    """An address that nothing listens on, and nothing else gets meanwhile."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{bound.getsockname()[1]}"


class TestKafka:
    def test_the_bootstrap_servers_are_named(self, nobody: str) -> None:
        with pytest.raises(LogUnavailableError, match=f"Kafka at {nobody} does not answer within 200 ms"):
            KafkaLog(nobody).check(200)

    @pytest.mark.parametrize("options", ["common", "consumer", "producer"])
    def test_an_option_that_librdkafka_does_not_know_is_named(self, nobody: str, options: str) -> None:
        with pytest.raises(SettingError, match=r'Kafka client moorage\.\w+: .*"no.such.option"'):
            KafkaLog(nobody, **{options: {"no.such.option": "1"}}).check(200)  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("code", "expected"),
        [
            (KafkaError._FENCED, FencedError),
            (KafkaError.PRODUCER_FENCED, FencedError),
            (KafkaError.INVALID_PRODUCER_EPOCH, FencedError),
            (KafkaError._AUTO_OFFSET_RESET, OffsetOutOfRangeError),
            (KafkaError.OFFSET_OUT_OF_RANGE, OffsetOutOfRangeError),
            (KafkaError._TRANSPORT, LogUnavailableError),
            (KafkaError._MSG_TIMED_OUT, LogUnavailableError),
            (KafkaError.NOT_LEADER_FOR_PARTITION, LogUnavailableError),
            (KafkaError.TOPIC_AUTHORIZATION_FAILED, LogError),
            (KafkaError.MSG_SIZE_TOO_LARGE, LogError),
        ],
    )
    def test_errors_in_our_words(self, code: int, expected: type[Exception]) -> None:
        error = translate("can't do it", KafkaError(code, "because"))
        assert type(error) is expected
        assert str(error).startswith("can't do it: because (")

    def test_a_client_says_each_kind_of_thing_once_a_minute(
        self, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        caplog.set_level(logging.INFO)
        now_s = 1_000.0
        monkeypatch.setattr("time.monotonic", lambda: now_s)
        client_log = ClientLog("w-1.control")
        for _ in range(100):
            client_log.log(logging.ERROR, "%s [%s] %s", "FAIL", "rdkafka#1", "connection refused")
            client_log.error(KafkaError(KafkaError._ALL_BROKERS_DOWN, "1/1 brokers are down"))
        now_s += 61
        client_log.log(logging.CRITICAL, "%s [%s] %s", "FAIL", "rdkafka#1", "connection refused again")
        assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
            ("WARNING", "Kafka client w-1.control: connection refused (FAIL)"),
            ("WARNING", "Kafka client w-1.control: 1/1 brokers are down (_ALL_BROKERS_DOWN)"),
            ("WARNING", "Kafka client w-1.control: connection refused again (FAIL)"),
        ]


class TestRedis:
    def test_the_address_is_named_without_the_password(self, nobody: str) -> None:
        registry = RedisRegistry(f"redis://user:s3cret@{nobody}/0", timeout_ms=200)
        with pytest.raises(RegistryUnavailableError, match=f"Redis at {nobody}") as caught:
            registry.check()
        with pytest.raises(RegistryUnavailableError, match=f"Redis at {nobody}, jobs"):
            registry.jobs()
        assert "s3cret" not in str(caught.value)

    @pytest.mark.parametrize("url", ["http://127.0.0.1:1", "redis://127.0.0.1:1/0?socket_timeout=soon"])
    def test_a_url_that_is_not_understood_stops_the_start(self, url: str) -> None:
        with pytest.raises(SettingError, match=r"Redis at 127\.0\.0\.1:1"):
            RedisRegistry(url)

    def test_an_unknown_option_stops_the_start(self, nobody: str) -> None:
        registry_options = {"colour": "red"}
        with pytest.raises(SettingError, match="colour"):
            RedisRegistry(f"redis://{nobody}", options=registry_options)
