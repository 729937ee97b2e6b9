"""Supervision of child processes: real ones, tiny."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from moorage_cli.embedded.errors import StackError
from moorage_cli.embedded.processes import ManagedProcess, ProcessExit, ProcessSpec, wait_until_ready

SLEEP = "import time; time.sleep(600)"
IGNORE_SIGTERM = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); " + SLEEP
)

Start = Callable[..., ManagedProcess]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a Python child that runs the given code; it is stopped at the end of the test."""
    started = []

    def start(
        code: str,
        exits: queue.Queue[ProcessExit] | None = None,
        *,
        restart: bool = False,
        stop_grace_s: float = 10.0,
        backoff_s: float = 0.01,
    ) -> ManagedProcess:
        command = [sys.executable, "-c", code]
        spec = ProcessSpec(
            "child", command, tmp_path / "child.log", restart=restart, stop_grace_s=stop_grace_s, backoff_s=backoff_s
        )
        process = ManagedProcess(spec, (exits or queue.Queue()).put)
        process.start()
        started.append(process)
        return process

    yield start
    for process in started:
        process.stop()


def _eventually(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "it did not come true in time"
        time.sleep(0.01)


def _gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_reports_a_death_at_once(start: Start) -> None:
    exits: queue.Queue[ProcessExit] = queue.Queue()
    process = start("raise SystemExit(3)", exits)

    exit_ = exits.get(timeout=10)

    assert (exit_.name, exit_.returncode, exit_.restarts) == ("child", 3, False)
    assert str(exit_).endswith("ended with exit code 3")
    assert process.wait(10) == 3
    assert process.pid is None


def test_starts_a_killed_child_again(start: Start) -> None:
    exits: queue.Queue[ProcessExit] = queue.Queue()
    process = start(SLEEP, exits, restart=True)

    killed = process.signal(signal.SIGKILL)

    exit_ = exits.get(timeout=10)
    assert exit_ == ProcessExit("child", killed, -signal.SIGKILL, restarts=True)
    assert str(exit_) == f"child (pid {killed}) was killed by SIGKILL"
    _eventually(lambda: process.pid not in (None, killed))


def test_waits_longer_before_each_restart(start: Start) -> None:
    exits: queue.Queue[ProcessExit] = queue.Queue()
    start("raise SystemExit(1)", exits, restart=True, backoff_s=0.2)

    died_s = []
    for _ in range(3):
        exits.get(timeout=10)
        died_s.append(time.monotonic())

    assert died_s[1] - died_s[0] >= 0.2
    assert died_s[2] - died_s[1] >= 0.4


def test_stop_ends_a_child_that_would_be_restarted_without_reporting_it(start: Start) -> None:
    exits: queue.Queue[ProcessExit] = queue.Queue()
    process = start(SLEEP, exits, restart=True)

    process.stop()

    assert not process.supervised
    assert process.returncode == -signal.SIGTERM
    assert exits.empty()


def test_stop_kills_a_child_that_ignores_sigterm(start: Start) -> None:
    process = start(IGNORE_SIGTERM, stop_grace_s=0.2)
    _eventually(lambda: b"ready" in process.spec.log.read_bytes())

    process.stop()

    assert process.returncode == -signal.SIGKILL


def test_stop_ends_a_child_that_is_stopped(start: Start) -> None:
    process = start(SLEEP)
    process.signal(signal.SIGSTOP)

    process.stop()

    assert process.returncode == -signal.SIGTERM


def test_what_a_child_forked_goes_down_with_it(start: Start) -> None:
    fork = f"p = subprocess.Popen([sys.executable, '-c', {SLEEP!r}]); print(p.pid, flush=True); p.wait()"
    process = start(f"import subprocess, sys; {fork}")
    _eventually(lambda: process.spec.log.read_bytes().endswith(b"\n"))
    grandchild = int(process.spec.log.read_text())

    process.signal(signal.SIGKILL)

    _eventually(lambda: _gone(grandchild))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux kills the children of a killed process")
def test_no_child_outlives_a_killed_parent(tmp_path: Path) -> None:
    parent_code = f"""
import sys, time
from pathlib import Path
from moorage_cli.embedded.processes import ManagedProcess, ProcessSpec
command = [sys.executable, "-c", {SLEEP!r}]
child = ManagedProcess(ProcessSpec("child", command, Path({str(tmp_path / "log")!r}), restart=True))
child.start()
print(child.pid, flush=True)
time.sleep(600)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    parent = subprocess.Popen([sys.executable, "-c", parent_code], stdout=subprocess.PIPE, text=True, env=environment)
    assert parent.stdout is not None
    with parent.stdout:
        child = int(parent.stdout.readline())
        assert psutil.pid_exists(child)

        parent.kill()
        parent.wait(10)

    _eventually(lambda: _gone(child))


def test_readiness_names_the_child_that_died_and_shows_its_last_lines(start: Start) -> None:
    process = start("raise SystemExit('the disk is full')")

    with pytest.raises(StackError, match=r"child died while starting\. Last lines of .*\n.*the disk is full"):
        wait_until_ready(process, lambda: False, timeout_s=10)


def test_readiness_gives_up_after_the_timeout(start: Start) -> None:
    with pytest.raises(StackError, match=r"child was not ready after 0 s"):
        wait_until_ready(start(SLEEP), lambda: False, timeout_s=0.1)
