"""When is a checkpoint triggered? (Flink: CheckpointRequestDecider)

- Requests by hand go ahead of periodic ones and don't wait for the pause.
- A periodic one is due ``interval_ms`` after the last was due; what was missed meanwhile is not caught up.
- ``min_pause_ms`` lies between the end of a completed checkpoint and the next periodic one.
- Never more than ``max_concurrent`` at once, and one trigger at a time.
"""

from __future__ import annotations

from collections import deque

import msgspec

from moorage.graph.job_graph import CheckpointConfig

MAX_WAITING_REQUESTS = 1_000


class CheckpointRequest(msgspec.Struct, frozen=True):
    """``client``: whom to tell about the outcome; None: a periodic one."""

    client: int | None = None

    @property
    def is_periodic(self) -> bool:
        return self.client is None


PERIODIC = CheckpointRequest()


class CheckpointRequestDecider:
    """See the module. ``start`` begins the periodic ones, ``stop`` ends everything."""

    def __init__(self, config: CheckpointConfig) -> None:
        self._config = config
        self._waiting: deque[CheckpointRequest] = deque()
        self._due_ms: int | None = None
        """When the next periodic one is due; None: never."""
        self._last_completion_ms: int | None = None

    def start(self, now_ms: int) -> None:
        self._due_ms = now_ms + self._config.interval_ms if self._config.interval_ms > 0 else None

    def stop(self) -> list[CheckpointRequest]:
        """No more periodic ones; returns the requests that were waiting."""
        waiting = list(self._waiting)
        self._waiting.clear()
        self._due_ms = None
        return waiting

    def request(self, request: CheckpointRequest) -> bool:
        """Add a request by hand; False: refused, too many wait already."""
        if len(self._waiting) >= MAX_WAITING_REQUESTS:
            return False
        self._waiting.append(request)
        return True

    def completed(self, now_ms: int) -> None:
        self._last_completion_ms = now_ms

    def choose(self, now_ms: int, *, in_progress: int, is_triggering: bool) -> CheckpointRequest | None:
        """The request to execute now, if any; it is taken."""
        if is_triggering or in_progress >= self._config.max_concurrent:
            return None
        if self._waiting:
            return self._waiting.popleft()
        if self._due_ms is None or now_ms < self._due_ms or now_ms < self._pause_ends_ms():
            return None
        following_ms = self._due_ms + self._config.interval_ms
        self._due_ms = following_ms if following_ms > now_ms else now_ms + self._config.interval_ms
        return PERIODIC

    def _pause_ends_ms(self) -> int:
        return 0 if self._last_completion_ms is None else self._last_completion_ms + self._config.min_pause_ms

    def validate(self) -> None:
        assert len(self._waiting) <= MAX_WAITING_REQUESTS
        assert not any(request.is_periodic for request in self._waiting)
        assert self._due_ms is None or self._config.interval_ms > 0
