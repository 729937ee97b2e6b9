"""What every librdkafka client of ours shares: its options, what it logs, and its errors in our words."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

from confluent_kafka import KafkaError, KafkaException, Message

from moorage.errors import FencedError, LogError, LogUnavailableError, OffsetOutOfRangeError, SettingError

Options = Mapping[str, Any]
"""Client options by librdkafka's names."""

Client = TypeVar("Client")

# Of an event these are None; of a message, and of an event about a partition, they are not.
topic_of = cast("Callable[[Message], str]", Message.topic)
partition_of = cast("Callable[[Message], int]", Message.partition)
offset_of = cast("Callable[[Message], int]", Message.offset)

logger = logging.getLogger(__name__)

# The transaction coordinator answers a holder whose transaction has expired with the same codes as one that a newer
# holder has fenced.
_FENCED = {KafkaError._FENCED, KafkaError.PRODUCER_FENCED, KafkaError.INVALID_PRODUCER_EPOCH}  # noqa: SLF001
_OUT_OF_RANGE = {
    KafkaError.OFFSET_OUT_OF_RANGE,
    KafkaError._AUTO_OFFSET_RESET,  # noqa: SLF001
    KafkaError._LOG_TRUNCATION,  # noqa: SLF001
}
# Nobody there, or somebody who is not in charge (any more, or yet).
_UNAVAILABLE = {
    KafkaError._TRANSPORT,  # noqa: SLF001
    KafkaError._ALL_BROKERS_DOWN,  # noqa: SLF001
    KafkaError._RESOLVE,  # noqa: SLF001
    KafkaError._TIMED_OUT,  # noqa: SLF001
    KafkaError._MSG_TIMED_OUT,  # noqa: SLF001
    KafkaError._TIMED_OUT_QUEUE,  # noqa: SLF001
    KafkaError.REQUEST_TIMED_OUT,
    KafkaError.NETWORK_EXCEPTION,
    KafkaError.BROKER_NOT_AVAILABLE,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.FENCED_LEADER_EPOCH,
    KafkaError.UNKNOWN_LEADER_EPOCH,
    KafkaError.OFFSET_NOT_AVAILABLE,
    KafkaError.NOT_CONTROLLER,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.NOT_COORDINATOR,
    KafkaError.CONCURRENT_TRANSACTIONS,
}


def translate(what: str, error: KafkaError) -> LogError | FencedError:
    """``error`` as one of ours; ``what`` names the operation and the thing it was about."""
    message = f"{what}: {error.str()} ({error.name()})"
    if error.code() in _FENCED:
        return FencedError(message)
    if error.code() in _OUT_OF_RANGE:
        return OffsetOutOfRangeError(message)
    if is_unavailable(error):
        return LogUnavailableError(message)
    return LogError(message)


def is_unavailable(error: KafkaError) -> bool:
    """Trying again may help."""
    return error.code() in _UNAVAILABLE or bool(error.retriable())


def create(kind: Callable[..., Client], options: Options, client_log: ClientLog) -> Client:
    """A client that logs to ``client_log``; SettingError when librdkafka does not take the options."""
    try:
        return kind({**options, "logger": client_log, "error_cb": client_log.error})
    except KafkaException as error:
        raise SettingError(f"Kafka client {options['client.id']}: {error.args[0].str()}") from None


class ClientLog:
    """What librdkafka has to say, under the client's name.

    It repeats itself for as long as something lasts, so each kind of line is passed on once a minute. Nothing of it is
    worse than a warning here: it retries, and what it gives up is raised or reported where it belongs.
    """

    EVERY_S = 60.0

    def __init__(self, client_id: str) -> None:
        self._client_id = client_id
        self._last_s: dict[str, float] = {}
        self._muted = False

    def mute(self) -> None:
        """The client is thrown away: what it says of what it leaves behind is of no interest."""
        self._muted = True

    def log(self, level: int, _format: str, facility: str, _client: str, text: str) -> None:
        """Called by confluent-kafka with a line of librdkafka's log."""
        self.pass_on(level, facility, text)

    def error(self, error: KafkaError) -> None:
        """Called by confluent-kafka for what is nobody's call in particular, such as a lost connection."""
        # Single connections come and go, librdkafka logs them itself.
        level = logging.WARNING if error.code() == KafkaError._ALL_BROKERS_DOWN else logging.INFO  # noqa: SLF001
        self.pass_on(level, error.name(), error.str())

    def pass_on(self, level: int, kind: str, text: str) -> None:
        now_s = time.monotonic()
        if not self._muted and now_s - self._last_s.get(kind, -self.EVERY_S) >= self.EVERY_S:
            self._last_s[kind] = now_s
            logger.log(min(level, logging.WARNING), "Kafka client %s: %s (%s)", self._client_id, text, kind)
