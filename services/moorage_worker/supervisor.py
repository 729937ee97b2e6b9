"""The parent of a worker process: starts it, says at once when it has died, starts it again.

The coordinator finds out by itself that a worker is gone, but only by its silence. A parent process knows within
milliseconds, so it tells (``WorkerLost``). What it does is little enough not to fail itself: it runs no user code,
holds no state, and reads nothing. When it is killed, the kernel kills the worker too (on Linux), so no worker is ever
left without one.

A worker that ends with exit code 0 was told to; one that ends with 2 has a setting that is not allowed. Neither is
started again, nor one that fails before it was ever healthy: whoever started us sees why.
"""

from __future__ import annotations

import ctypes
import logging
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from types import FrameType

from moorage.config import KafkaSettings, WorkerSettings, load
from moorage.errors import LogError, MoorageError
from moorage.ids import WorkerId
from moorage.messages.events import WorkerLost
from moorage.naming import EVENTS_TOPIC
from moorage.ports import LogWriter
from moorage.serde import control
from moorage_service.runtime import SETTINGS_EXIT_CODE, start_logging
from moorage_service.wiring import connected_log

_PR_SET_PDEATHSIG = 1
_HEALTHY_AFTER_S = 5.0
_BACKOFF_MIN_S = 0.1
_BACKOFF_MAX_S = 5.0
_REPORT_TIMEOUT_S = 2.0
_POLL_S = 0.002


def supervise(environ: Mapping[str, str]) -> int:
    """Run worker processes until one ends that must not be replaced; returns its exit code."""
    settings = load(WorkerSettings, environ)
    kafka = load(KafkaSettings, environ)
    logger = start_logging("worker", settings)
    supervisor = Supervisor(
        settings.name,
        command=[sys.executable, "-m", "moorage_worker", "process"],
        connect=lambda: connected_log(kafka, f"moorage-supervisor-{settings.name}").writer("supervisor"),
        logger=logger,
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, supervisor.stop)
    return supervisor.run()


class Supervisor:
    """See the module. ``command`` gets the worker's id and our pid as further arguments."""

    def __init__(
        self, name: str, command: Sequence[str], connect: Callable[[], LogWriter], logger: logging.Logger
    ) -> None:
        self._name = name
        self._command = command
        self._connect = connect
        self._logger = logger
        self._child: subprocess.Popen[bytes] | None = None
        self._is_stopping = False

    @property
    def pid(self) -> int | None:
        """Of the worker that was started last."""
        return None if self._child is None else self._child.pid

    def stop(self, _number: int, _frame: FrameType | None) -> None:
        """Signal handler: the worker ends in good order, and we with it."""
        self._is_stopping = True
        if self._child is not None and self._child.poll() is None:
            self._child.terminate()

    def run(self) -> int:
        backoff_s = 0.0
        was_healthy = False
        with closing(_Reporter(self._connect, self._logger)) as reporter:
            while True:
                worker = WorkerId(f"{self._name}/{secrets.token_hex(4)}")
                started_s = time.monotonic()
                code = self._run_one(worker, reporter)
                ended_ms = time.time_ns() // 1_000_000
                is_healthy = time.monotonic() - started_s >= _HEALTHY_AFTER_S
                was_healthy = was_healthy or is_healthy
                if self._is_stopping or code in (0, SETTINGS_EXIT_CODE) or (code > 0 and not was_healthy):
                    return code if code >= 0 else 128 - code
                reason = ended(code)
                self._logger.warning("worker %s %s: the coordinator is told, another one is started", worker, reason)
                reporter.report(WorkerLost(worker=worker, reason=reason, ended_ms=ended_ms))
                backoff_s = 0.0 if is_healthy else min(max(2 * backoff_s, _BACKOFF_MIN_S), _BACKOFF_MAX_S)
                time.sleep(backoff_s)
                if self._is_stopping:
                    return 0

    def _run_one(self, worker: WorkerId, reporter: _Reporter) -> int:
        # In a group of its own: Ctrl-C in a terminal reaches us alone, and we pass on what ends the worker well.
        self._child = subprocess.Popen([*self._command, worker, str(os.getpid())], process_group=0)  # noqa: S603
        reporter.prepare()
        if self._is_stopping:
            self._child.terminate()
        return self._child.wait()


class _Reporter:
    """Connected while nothing has happened yet, because connecting takes longer than reporting."""

    def __init__(self, connect: Callable[[], LogWriter], logger: logging.Logger) -> None:
        self._connect = connect
        self._logger = logger
        self._writer: LogWriter | None = None

    def prepare(self) -> None:
        if self._writer is not None:
            return
        try:
            self._writer = self._connect()
        except MoorageError as error:
            self._logger.warning("deaths of the worker can't be reported yet: %s", error)

    def report(self, event: WorkerLost) -> None:
        """A report that is lost costs time, nothing else: the coordinator counts heartbeats."""
        self.prepare()
        writer = self._writer
        if writer is None:
            return
        outcomes: list[LogError | None] = []
        writer.append(EVENTS_TOPIC, 0, control.encode(event), lambda _, error: outcomes.append(error))
        deadline_s = time.monotonic() + _REPORT_TIMEOUT_S
        while not outcomes and time.monotonic() < deadline_s:
            writer.poll()
            time.sleep(_POLL_S)
        if not outcomes or outcomes[0] is not None:
            self._logger.warning(
                "the death of %s was not reported: %s", event.worker, outcomes or "Kafka does not answer"
            )

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


def ended(code: int) -> str:
    """How a process ended, in words; ``code`` as in subprocess."""
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def die_with(parent: int) -> None:
    """Called by the worker: the kernel kills it when ``parent`` ends, however that ends. Other systems than Linux have
    nothing alike; there a killed parent leaves its worker running."""
    if sys.platform == "linux" and ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        raise MoorageError("prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:
        raise MoorageError("the supervisor has ended")
