"""When is a checkpoint triggered? (Flink: CheckpointRequestDecider)

- Savepoints go first, then checkpoints by hand, each in their order; neither waits for the pause. Periodic ones come
  last.
- A periodic one is due ``interval_ms`` after the last was due; what was missed meanwhile is not caught up. While a
  source works off a backlog the interval is ``interval_during_backlog_ms``.
- ``min_pause_ms`` lies between the end of a completed checkpoint and the next periodic one.
- Never more than ``max_concurrent`` at once, but for savepoints, of which there may be MAX_SAVEPOINTS; and one trigger
  at a time.
- Once all input has ended the final checkpoint is due at once, and again at intervals until it is complete, whatever
  was said of a backlog.
- While the job is being stopped with a savepoint nothing else is triggered.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import msgspec

from moorage.checkpoint.notices import CheckpointDone, CheckpointFailed
from moorage.graph.job_graph import CheckpointConfig
from moorage.messages.barriers import SnapshotKind
from moorage.messages.registry import JobStatus

MAX_WAITING_REQUESTS = 1_000
MAX_SAVEPOINTS = 8
"""At once: each is a full copy of the state; others wait."""
FINAL_RETRY_MS = 1_000
"""Between two tries at the final checkpoint of a job that takes no periodic ones."""


class CheckpointRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody wants to be triggered."""

    kind: SnapshotKind = SnapshotKind.CHECKPOINT
    location: str | None = None
    """Savepoints: the folder in which their own folder is made; None: the job's ``savepoints``."""
    native: bool = False
    """Savepoints: in the backend's own format."""
    ends_as: JobStatus | None = None
    """Savepoints that stop the job: its status in the end."""
    client: int | None = None
    """The request of a client that CheckpointDone or CheckpointFailed answers in the end."""
    on_done: Callable[[CheckpointDone | CheckpointFailed], None] | None = None
    """Called once with the outcome; it may end the attempt."""
    is_periodic: bool = False


PERIODIC = CheckpointRequest(is_periodic=True)


class CheckpointRequestDecider:
    """See the module. ``start`` begins the periodic ones, ``stop`` ends everything."""

    def __init__(self, config: CheckpointConfig) -> None:
        self._config = config
        self._savepoints: deque[CheckpointRequest] = deque()
        self._by_hand: deque[CheckpointRequest] = deque()
        self._interval_ms = 0
        """Between two periodic ones; 0: none."""
        self._due_ms: int | None = None
        """When the next periodic one is due; None: never."""
        self._last_completion_ms: int | None = None
        self._is_stopping = False
        self._is_started = False
        self._is_final = False
        """All input has ended."""

    def start(self, now_ms: int, delay_ms: int = 0) -> None:
        """``delay_ms``: the first periodic one comes so much later."""
        self._is_stopping = False
        self._is_started = True
        self._is_final = False
        self._interval_ms = self._config.interval_ms
        self._due_ms = now_ms + self._interval_ms + delay_ms if self._interval_ms > 0 else None

    def stop(self) -> list[CheckpointRequest]:
        """No more periodic ones; returns the requests that were waiting."""
        self._is_started = False
        self._due_ms = None
        return self.take_waiting()

    def take_waiting(self) -> list[CheckpointRequest]:
        """Savepoints and requests by hand; none waits any more."""
        waiting = [*self._savepoints, *self._by_hand]
        self._savepoints.clear()
        self._by_hand.clear()
        return waiting

    def request(self, request: CheckpointRequest) -> bool:
        """Add a request; False: refused, too many wait already."""
        if len(self._savepoints) + len(self._by_hand) >= MAX_WAITING_REQUESTS:
            return False
        (self._savepoints if request.kind.is_savepoint else self._by_hand).append(request)
        return True

    def completed(self, now_ms: int) -> None:
        self._last_completion_ms = now_ms

    def backlog(self, now_ms: int, has_backlog: bool) -> None:
        """A source has begun to work off a backlog, or none does so any more."""
        if self._config.interval_during_backlog_ms is None or not self._is_started or self._is_final:
            return
        self._interval_ms = self._config.interval_during_backlog_ms if has_backlog else self._config.interval_ms
        if self._interval_ms == 0:
            self._due_ms = None
        else:
            due_ms = now_ms + self._interval_ms
            self._due_ms = due_ms if self._due_ms is None else min(due_ms, self._due_ms)

    def input_ended(self, now_ms: int) -> None:
        """The final checkpoint is due."""
        self._is_final = True
        self._interval_ms = self._config.interval_ms or FINAL_RETRY_MS
        self._due_ms = now_ms
        self._last_completion_ms = None

    def stopping(self, is_stopping: bool) -> None:
        """Only savepoints are triggered while the job is being stopped with one."""
        self._is_stopping = is_stopping

    def choose(
        self, now_ms: int, *, in_progress: int, savepoints: int, is_triggering: bool
    ) -> CheckpointRequest | None:
        """The request to execute now, if any; it is taken. ``savepoints``: so many of those ``in_progress``."""
        if is_triggering:
            return None
        if self._savepoints and savepoints < MAX_SAVEPOINTS:
            return self._savepoints.popleft()
        if self._is_stopping or in_progress >= self._config.max_concurrent:
            return None
        if self._by_hand:
            return self._by_hand.popleft()
        if self._due_ms is None or now_ms < self._due_ms or now_ms < self._pause_ends_ms():
            return None
        following_ms = self._due_ms + self._interval_ms
        self._due_ms = following_ms if following_ms > now_ms else now_ms + self._interval_ms
        return PERIODIC

    def _pause_ends_ms(self) -> int:
        return 0 if self._last_completion_ms is None else self._last_completion_ms + self._config.min_pause_ms

    def validate(self) -> None:
        assert len(self._savepoints) + len(self._by_hand) <= MAX_WAITING_REQUESTS
        assert all(request.kind.is_savepoint for request in self._savepoints)
        assert not any(request.kind.is_savepoint or request.is_periodic for request in self._by_hand)
        assert self._due_ms is None or self._interval_ms > 0
