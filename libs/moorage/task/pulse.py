"""Says that a worker lives while its loop is inside one long step: a call of user code that takes seconds.

The loop sends heartbeats between steps, and a coordinator that hears none takes the worker for dead. That would be the
end of every pipeline with one slow call in it: each attempt dies of it. So somebody beside the loop speaks meanwhile,
as Flink's heartbeats come from a thread that runs no user code. What it may say is little, for the loop's own state is
in flux: that the process lives, and for how long the step has taken.
"""

from __future__ import annotations

from collections.abc import Callable

from moorage.errors import LogError
from moorage.ids import Epoch
from moorage.messages.events import WorkerHeartbeat
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
        self.lost = 0
        """Beats that were not delivered. Nothing more is done about one: the next follows."""

    def beat(self, busy_ms: int) -> None:
        config = self._config
        message = WorkerHeartbeat(
            worker=config.worker,
            epoch=self._epoch(),
            slots=config.slots,
            subtasks=(),
            sent_ms=self._clock.wall_ms(),
            host=config.host,
            metrics_port=config.metrics_port,
            busy_ms=busy_ms,
            cpu_cores=config.cpu_cores,
            memory_bytes=config.memory_bytes,
        )
        self._writer.append(EVENTS_TOPIC, 0, control.encode(message), self._delivered)
        self._writer.poll()

    def _delivered(self, _: int, error: LogError | None) -> None:
        self.lost += error is not None

    def close(self) -> None:
        self._writer.close()
