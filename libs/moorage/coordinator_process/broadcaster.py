"""Gets messages out in their order, through every outage of Kafka.

A message is kept until Kafka has confirmed it and everything before it. A writer that has reported an error is of no
more use: a new one sends everything from the first unconfirmed message on again. So a receiver may see a stretch twice,
but in the end it has seen everything in its order. What Kafka says will never work is given up.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial

import msgspec

from moorage.errors import LogError, LogUnavailableError
from moorage.ports import Log, LogWriter

RESEND_DELAY_MS = 500


class _Message(msgspec.Struct, eq=False):
    topic: str
    value: bytes
    kind: str
    queued_ms: int
    is_confirmed: bool = False


class Broadcaster:
    """``lost`` is called with the kind of a message that was given up, and the reason."""

    def __init__(self, log: Log, lost: Callable[[str, str], None]) -> None:
        self._log = log
        self._lost = lost
        self._writer: LogWriter | None = None
        self._unconfirmed: deque[_Message] = deque()
        self._has_failed = False
        self._resend_at_ms = 0

    def send(self, topic: str, value: bytes, kind: str, now_ms: int) -> None:
        message = _Message(topic, value, kind, now_ms)
        self._unconfirmed.append(message)
        if not self._has_failed:
            self._append(message)

    def is_waiting(self, kind: str) -> bool:
        """Is a message of this kind unconfirmed?"""
        return any(message.kind == kind and not message.is_confirmed for message in self._unconfirmed)

    def silence_ms(self, now_ms: int) -> int:
        """For how long Kafka owes a confirmation."""
        return now_ms - self._unconfirmed[0].queued_ms if self._unconfirmed else 0

    def serve(self, now_ms: int) -> None:
        """Take in confirmations; after a failure, send again."""
        if self._writer is not None:
            self._writer.poll()
        while self._unconfirmed and self._unconfirmed[0].is_confirmed:
            self._unconfirmed.popleft()
        if self._has_failed and now_ms >= self._resend_at_ms:
            self._close_writer()
            self._has_failed = False
            self._resend_at_ms = now_ms + RESEND_DELAY_MS
            for message in self._unconfirmed:
                message.is_confirmed = False
                self._append(message)

    def close(self) -> None:
        """Whatever is unconfirmed is dropped."""
        self._close_writer()
        self._unconfirmed.clear()
        self._has_failed = False

    def _append(self, message: _Message) -> None:
        if self._writer is None:
            self._writer = self._log.writer("coordinator")
        self._writer.append(message.topic, 0, message.value, partial(self._delivered, message))

    def _delivered(self, message: _Message, _offset: int, error: LogError | None) -> None:
        if error is None:
            message.is_confirmed = True
            return
        self._has_failed = True
        if not isinstance(error, LogUnavailableError):
            self._unconfirmed.remove(message)
            self._lost(message.kind, str(error))

    def _close_writer(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
