"""The whole stack: real servers, real services."""

from __future__ import annotations

import os
import queue
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from moorage_cli.embedded.errors import StackError
from moorage_cli.embedded.processes import ProcessExit
from moorage_cli.embedded.stack import Stack

pytestmark = pytest.mark.kafka

PYTHON_PATH = {"PYTHONPATH": os.pathsep.join(str(Path(entry).resolve()) for entry in sys.path if entry)}
EXITS: queue.Queue[ProcessExit] = queue.Queue()


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with Stack(tmp_path_factory.mktemp("stack"), workers=2, env=PYTHON_PATH, on_exit=EXITS.put) as stack:
        yield stack


def _eventually(condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "it did not come true in time"
        time.sleep(0.05)


def _exit_of(pid: int) -> ProcessExit:
    """What was reported of the process; others may have died before it."""
    while (exit_ := EXITS.get(timeout=10)).pid != pid:
        pass
    return exit_


def _workers(stack: Stack) -> set[str]:
    with stack.client() as client:
        return {worker.id for worker in client.task_managers()}


def test_runs_every_part_as_a_process_of_its_own(stack: Stack) -> None:
    pids = {name: process.pid for name, process in stack.processes.items()}

    assert set(pids) == {"kafka", "redis", "coordinator", "cleaner", "worker-0", "worker-1"}
    assert None not in pids.values()
    assert len(set(pids.values())) == 6
    assert {worker.partition("/")[0] for worker in _workers(stack)} == {"worker-0", "worker-1"}


def test_every_service_serves_its_metrics(stack: Stack) -> None:
    assert set(stack.metrics_urls) == {"coordinator", "cleaner", "worker-0", "worker-1"}
    for url in stack.metrics_urls.values():
        assert "\nmoorage_" in httpx.get(url, timeout=10).text


def test_a_killed_worker_registers_again(stack: Stack) -> None:
    before = _workers(stack)
    supervisor = stack.processes["worker-0"].pid

    killed = stack.kill("worker-0")

    assert killed != supervisor
    _eventually(lambda: any(worker.startswith("worker-0/") for worker in _workers(stack) - before))
    assert stack.processes["worker-0"].pid == supervisor


def test_a_killed_supervisor_takes_its_worker_along_and_both_are_replaced(stack: Stack) -> None:
    before = _workers(stack)
    supervisor = stack.processes["worker-1"].pid
    assert supervisor is not None

    os.kill(supervisor, signal.SIGKILL)

    assert _exit_of(supervisor) == ProcessExit("worker-1", supervisor, -signal.SIGKILL, restarts=True)
    _eventually(lambda: any(worker.startswith("worker-1/") for worker in _workers(stack) - before))


def test_a_killed_coordinator_serves_again_at_the_same_address(stack: Stack) -> None:
    url = stack.rest_url

    killed = stack.kill("coordinator")

    assert _exit_of(killed).restarts
    _eventually(lambda: stack.processes["coordinator"].pid not in (None, killed))
    assert stack.rest_url == url

    def leads() -> bool:
        try:
            return httpx.get(f"{url}/overview", timeout=5).json()["taskmanagers"] == 2
        except (httpx.TransportError, KeyError):
            return False

    _eventually(leads)


def test_a_killed_redis_is_started_again_by_hand_and_the_services_go_on(stack: Stack) -> None:
    address = stack.redis_url

    assert not _exit_of(stack.kill("redis")).restarts
    stack.start_server("redis")

    assert stack.redis_url == address
    _eventually(lambda: len(_workers(stack)) >= 2)


def test_names_the_processes_there_are(stack: Stack) -> None:
    with pytest.raises(StackError, match="there is no process 'worker-9'; there are kafka, redis, coordinator"):
        stack.kill("worker-9")


def test_a_service_that_refuses_its_settings_ends_the_start_in_its_own_words(tmp_path: Path) -> None:
    env = {**PYTHON_PATH, "MOORAGE_WORKER_SLOTS": "none"}
    stack = Stack(tmp_path, workers=1, env=env)

    with pytest.raises(
        StackError, match=r"(?s)worker-0 .* ended with exit code 2 .*MOORAGE_WORKER_SLOTS=none: must be"
    ):
        stack.start()

    assert {name: process.pid for name, process in stack.processes.items()} == dict.fromkeys(stack.processes)
