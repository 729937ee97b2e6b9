"""How much a subtask does in one step of the worker's loop.

Between two steps the worker hears commands, sends heartbeats, commits. So a step is bounded in time, which only user
code can break: some microseconds a record here, a call of a remote service there. A clock that is looked at for every
record would cost more than most records; the pace instead learns how many records fit.
"""

from __future__ import annotations

_FIRST_RECORDS = 16
"""Nothing is known yet: with 10 ms a record a step takes too long already, with 1 us we are at full speed ten steps
later."""


class Pace:
    """``records`` are as many as a step should process: at least 1, at most ``records_max``."""

    __slots__ = ("_records_max", "_step_ms", "records")

    def __init__(self, records_max: int, step_ms: int) -> None:
        self._records_max = records_max
        self._step_ms = step_ms
        self.records = min(_FIRST_RECORDS, records_max)

    def took(self, records: int, elapsed_ms: int) -> None:
        """So many records took so long."""
        if elapsed_ms > self._step_ms:
            self.records = max(1, min(self._records_max, records * self._step_ms // elapsed_ms))
        elif records >= self.records and 2 * elapsed_ms <= self._step_ms:
            self.records = min(self._records_max, 2 * self.records)
