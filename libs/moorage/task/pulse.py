"""Says that a worker lives while its loop is inside one long step: a call of user code that takes seconds.

The loop sends heartbeats between steps, and a coordinator that hears none takes the worker for dead. That would be the
end of every pipeline with one slow call in it: each attempt dies of it. So somebody beside the loop speaks meanwhile,
as Flink's heartbeats come from a thread that runs no user code. What it may say is little, for the loop's own state is
in flux: that the process lives, and for how long the step has taken.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from moorage.errors import LogError
from moorage.ids import Epoch
from moorage.naming import EVENTS_TOPIC
from moorage.ports import Clock, LogWriter
from moorage.serde import control
from moorage.task.worker import WorkerConfig


class Pulse:
    """``writer`` is its own: it runs in another thread than the loop. ``epoch``: the newest that the worker knows."""

    def __init__(self, config: WorkerConfig, writer: LogWriter, clock: Clock, epoch: Callable[[], Epoch]) -> None:
        self._config = config
        self._writer = writer
        self._clock = clock
        self._epoch = epoch

    def beat(self, busy_ms: int) -> None:
        message = self._config.heartbeat(self._epoch(), self._clock.wall_ms())
        message = msgspec.structs.replace(message, busy_ms=busy_ms)
        self._writer.append(EVENTS_TOPIC, 0, control.encode(message), self._delivered)
        self._writer.poll()

    def _delivered(self, _: int, error: LogError | None) -> None:
        """Nothing is done about a lost beat: the next follows."""

    def close(self) -> None:
        self._writer.close()
