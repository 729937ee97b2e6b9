"""What is said and done beside a loop that is inside one long step."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import pytest

from moorage.ids import Epoch, WorkerId
from moorage.messages.events import WorkerHeartbeat
from moorage.naming import EVENTS_TOPIC
from moorage.ports import TopicSpec
from moorage.serde import control
from moorage.task.context import TaskSettings
from moorage.task.pulse import Pulse
from moorage.task.worker import WorkerConfig
from moorage.testing.clocks import ManualClock
from moorage.testing.memory_log import MemoryCluster, MemoryLog
from moorage_service.runtime import LoopTime, loop
from moorage_worker.pulse_thread import STUCK_EXIT_CODE, PulseThread

INTERVAL_MS = 20


class _World:
    """A loop whose only step is ``work``, with the thread beside it."""

    def __init__(self, *, step_timeout_ms: int = 60_000) -> None:
        self.cluster = MemoryCluster(ManualClock())
        self.cluster.create_topic(TopicSpec(EVENTS_TOPIC, 1, {}))
        self.exit_codes: list[int] = []
        self.pulses = 0
        self.time = LoopTime()
        self.logged: list[str] = []
        logger = logging.Logger("pulse")  # noqa: LOG001 - nobody else's settings count
        handler = logging.Handler()
        handler.emit = lambda record: self.logged.append(record.getMessage())  # type: ignore[method-assign]
        logger.addHandler(handler)
        self.thread = PulseThread(
            self.time,
            self._new_pulse,
            interval_ms=INTERVAL_MS,
            step_timeout_ms=step_timeout_ms,
            logger=logger,
            end_process=self.exit_codes.append,
        )

    def _new_pulse(self) -> Pulse:
        self.pulses += 1
        config = WorkerConfig(worker=WorkerId("w/1"), slots=3, heartbeat_interval_ms=INTERVAL_MS, task=TaskSettings())
        writer = MemoryLog(self.cluster, "pulse").writer("pulse")
        return Pulse(config, writer, ManualClock(), lambda: Epoch(7))

    def run(self, *work: Callable[[], object]) -> None:
        """Each is one step."""
        steps = list(work)

        def step() -> bool:
            steps.pop(0)()
            return True

        self.thread.start()
        try:
            loop(step, lambda: not steps, lambda _: None, self.time)
        finally:
            self.thread.stop()

    def heard(self) -> list[WorkerHeartbeat]:
        events = [control.decode(record.value or b"", control.EVENTS) for record in self.cluster.records(EVENTS_TOPIC)]
        return [event for event in events if isinstance(event, WorkerHeartbeat)]


def user_code_that_takes_long() -> None:
    time.sleep(0.3)


def test_a_long_step_is_spoken_for() -> None:
    world = _World()
    world.run(user_code_that_takes_long)
    beats = world.heard()
    assert 2 <= len(beats) <= 15
    assert [b.busy_ms for b in beats] == sorted({b.busy_ms for b in beats})
    assert beats[0].busy_ms >= INTERVAL_MS
    assert {(b.worker, b.epoch, b.slots, b.subtasks) for b in beats} == {("w/1", 7, 3, ())}
    assert world.exit_codes == []


def test_nothing_is_said_while_steps_are_short() -> None:
    world = _World()
    world.run(*[lambda: time.sleep(0.0005)] * 200)
    assert world.heard() == []
    assert world.pulses == 0


def test_a_step_that_never_ends_ends_the_process_and_shows_where(capfd: pytest.CaptureFixture[str]) -> None:
    world = _World(step_timeout_ms=100)
    world.run(user_code_that_takes_long)
    assert world.exit_codes == [STUCK_EXIT_CODE]
    assert "MOORAGE_WORKER_STEP_TIMEOUT_MS" in world.logged[-1]
    assert "user_code_that_takes_long" in capfd.readouterr().err


def test_people_are_told_what_takes_so_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moorage_worker.pulse_thread._WARN_MS", 50)
    world = _World()
    world.run(user_code_that_takes_long)
    assert 1 <= len(world.logged) <= 3, "less and less often"
    assert "user_code_that_takes_long" in world.logged[0]
