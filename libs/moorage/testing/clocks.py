"""Time that moves when it is told to."""

from __future__ import annotations


class ManualClock:
    """``ports.Clock`` for tests and the simulation. Monotonic time starts at 0."""

    def __init__(self, wall_start_ms: int = 1_700_000_000_000) -> None:
        self._wall_start_ms = wall_start_ms
        self._now_ms = 0

    def monotonic_ms(self) -> int:
        return self._now_ms

    def wall_ms(self) -> int:
        return self._wall_start_ms + self._now_ms

    def advance(self, ms: int) -> None:
        if ms < 0:
            raise ValueError(f"time does not run backwards: {ms} ms")
        self._now_ms += ms
