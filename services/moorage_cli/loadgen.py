"""`moorage loadgen`: orders for the example pipeline, without end, at a steady rate."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import msgspec

from moorage.ports import TransactionalWriter
from moorage_cli.demo import INPUT_TOPIC

BATCH_S = 0.02
REPORT_S = 30.0
BACKLOG_S = 5.0
"""Orders that Kafka has not confirmed yet pile up for at most so long; then nothing more is sent until it answers."""


class OrderLoad:
    """Random orders of ``users`` users, ``rate`` per second."""

    def __init__(
        self,
        writer: TransactionalWriter,
        *,
        rate: int,
        users: int,
        tell: Callable[[str], None],
        seed: int | None = None,
    ) -> None:
        self._writer = writer
        self._rate = rate
        self._users = [f"user-{i:05}" for i in range(users)]
        self._tell = tell
        self._random = random.Random(seed)  # noqa: S311 - it is load, not a secret
        self._encode = msgspec.json.Encoder().encode
        self._carry = 0.0
        self.sent = 0

    def run(self) -> None:
        """Until interrupted. MoorageError when Kafka refuses an order for good."""
        self._tell(f"sending {self._rate:,} orders per second to the topic {INPUT_TOPIC}")
        last_s = started_s = time.monotonic()
        report_at_s = started_s + REPORT_S
        while True:
            now_s = time.monotonic()
            self.send(now_s - last_s)
            last_s = now_s
            if now_s >= report_at_s:
                report_at_s += REPORT_S
                self._tell(f"{self.sent:,} orders sent, {self.sent / (now_s - started_s):,.0f} per second")
            time.sleep(BATCH_S)

    def send(self, elapsed_s: float) -> None:
        """The orders that are due after so long. What is not sent because Kafka lags is not made up for later."""
        self._writer.poll()
        if self._writer.pending_records > self._rate * BACKLOG_S:
            return
        due = self._carry + self._rate * min(elapsed_s, 1.0)
        count = int(due)
        self._carry = due - count
        users = self._random.choices(self._users, k=count)
        values = [self._encode({"user": user, "amount": self._random.randrange(1, 40_000) / 4}) for user in users]
        keys = [user.encode() for user in users]
        self._writer.append_records(INPUT_TOPIC, keys, values, [time.time_ns() // 1_000_000] * count, None)
        self.sent += count
