"""The worker's supervisor: what it reports, what it starts again, and that nothing outlives it."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from moorage.messages.events import WorkerLost
from moorage.naming import EVENTS_TOPIC
from moorage.ports import TopicSpec
from moorage.serde import control
from moorage.testing.clocks import ManualClock
from moorage.testing.memory_log import MemoryCluster, MemoryLog
from moorage_worker.supervisor import Supervisor, ended

SLEEP = "import sys, time; open(sys.argv[1], 'a').write(sys.argv[2] + '\\n'); time.sleep(60)"


class _World:
    """A supervisor in a thread; its worker notes its id in a file and sleeps."""

    def __init__(self, folder: Path, program: str = SLEEP) -> None:
        self.cluster = MemoryCluster(ManualClock())
        self.cluster.create_topic(TopicSpec(EVENTS_TOPIC, 1, {}))
        self.notes = folder / "started"
        self.notes.touch()
        self.code: int | None = None
        self.supervisor = Supervisor(
            "worker-1",
            [sys.executable, "-c", program, str(self.notes)],
            lambda: MemoryLog(self.cluster, "supervisor").writer("supervisor"),
            logging.getLogger("test"),
        )
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        self.code = self.supervisor.run()

    def started(self) -> list[str]:
        return self.notes.read_text().split()

    def child(self) -> int:
        pid = self.supervisor.pid
        assert pid is not None
        return pid

    def reports(self) -> list[WorkerLost]:
        events = [control.decode(record.value or b"", control.EVENTS) for record in self.cluster.records(EVENTS_TOPIC)]
        return [event for event in events if isinstance(event, WorkerLost)]


def _wait(until: Callable[[], bool]) -> float:
    started_s = time.monotonic()
    while not until():
        assert time.monotonic() < started_s + 20
        time.sleep(0.002)
    return time.monotonic() - started_s


def test_a_killed_worker_is_reported_at_once_and_replaced(tmp_path: Path) -> None:
    world = _World(tmp_path)
    _wait(lambda: len(world.started()) == 1)
    os.kill(world.child(), signal.SIGKILL)
    _wait(lambda: bool(world.reports()))
    _wait(lambda: len(world.started()) == 2)
    first, second = world.started()
    (report,) = world.reports()
    assert (report.worker, report.reason) == (first, "was killed by SIGKILL")
    assert 0 <= time.time() * 1_000 - report.ended_ms < 20_000
    assert first.startswith("worker-1/")
    assert second.startswith("worker-1/")
    assert first != second
    world.supervisor.stop(signal.SIGTERM, None)
    world.thread.join(10)
    assert world.code == 128 + signal.SIGTERM
    assert len(world.reports()) == 1


@pytest.mark.parametrize("code", [0, 1, 2])
def test_a_worker_that_can_t_start_is_not_started_again(tmp_path: Path, code: int) -> None:
    world = _World(tmp_path, f"import sys; sys.exit({code})")
    world.thread.join(10)
    assert world.code == code
    assert world.reports() == []


def test_the_worker_dies_with_its_supervisor(tmp_path: Path) -> None:
    program = (
        "import subprocess, sys, os, time\n"
        "child = 'import sys, time; from moorage_worker.supervisor import die_with; die_with(int(sys.argv[1]));"
        ' print("ready", flush=True); time.sleep(60)\'\n'
        "p = subprocess.Popen([sys.executable, '-c', child, str(os.getpid())], process_group=0)\n"
        "print(p.pid, flush=True); p.wait()\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        assert parent.stdout.readline() == "ready\n"
        parent.kill()
    _wait(lambda: not _runs(worker))


def _runs(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def test_endings_in_words() -> None:
    assert ended(-9) == "was killed by SIGKILL"
    assert ended(3) == "ended with exit code 3"
