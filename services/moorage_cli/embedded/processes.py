"""Child processes that are watched, restarted, stopped in order and never left behind.

Each child has a thread that starts it, waits for it and starts it again. The kernel kills a child when the thread that
started it ends (see ``launch``), so this thread must live exactly as long as the child, and does. A child leads a
process group of its own: Ctrl-C in a terminal reaches only us, and what a child forks goes down with it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from moorage_cli.embedded.errors import StackError, log_tail

_LAUNCH = Path(__file__).with_name("launch.py")


@dataclass(frozen=True)
class ProcessSpec:
    """What to run and how to treat it."""

    name: str
    command: Sequence[str]
    log: Path
    """Standard output and error are appended here."""
    env: Mapping[str, str] = field(default_factory=dict)
    """On top of our own environment."""
    restart: bool = False
    """Start the process again when it ends without having been told to."""
    stop_grace_s: float = 15.0
    """Between SIGTERM and SIGKILL."""
    backoff_s: float = 0.2
    """Before the first restart; doubles with every death, up to ``max_backoff_s``."""
    max_backoff_s: float = 5.0
    healthy_after_s: float = 10.0
    """A run of this length sets the back-off back."""
    supervises: bool = False
    """It only watches over a child of its own that does the work: signals are meant for that one."""


class ProcessExit(NamedTuple):
    """A child ended without having been told to by ``stop``."""

    name: str
    pid: int
    returncode: int
    """As in subprocess: ``-n`` means killed by signal ``n``."""
    restarts: bool
    """It will be started again."""

    def __str__(self) -> str:
        if self.returncode < 0:
            return f"{self.name} (pid {self.pid}) was killed by {signal.Signals(-self.returncode).name}"
        return f"{self.name} (pid {self.pid}) ended with exit code {self.returncode}"


def _ignore(_exit: ProcessExit) -> None:
    pass


class ManagedProcess:
    """One supervised child. All methods may be called from any thread."""

    def __init__(self, spec: ProcessSpec, on_exit: Callable[[ProcessExit], None] = _ignore) -> None:
        """``on_exit`` is called in the child's own thread, at once when it dies."""
        self.spec = spec
        self._on_exit = on_exit
        self._lock = threading.Lock()
        self._popen: subprocess.Popen[bytes] | None = None
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def pid(self) -> int | None:
        """Process id of the running child, which is also its process group; None when none runs."""
        popen = self._popen
        return popen.pid if popen is not None and popen.poll() is None else None

    @property
    def returncode(self) -> int | None:
        """Of the last run, as in subprocess; None while it runs and before the first one."""
        return self._popen.poll() if self._popen is not None else None

    @property
    def supervised(self) -> bool:
        """The child runs or is about to be started again."""
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """Start the child; returns once it exists. It may be called again after ``stop`` or after the child ended."""
        if self.supervised:
            raise StackError(f"{self.name} runs already")
        self._stopping.clear()
        self.spec.log.parent.mkdir(parents=True, exist_ok=True)
        first: Future[None] = Future()
        self._thread = threading.Thread(
            target=self._supervise, args=(first,), name=f"supervise-{self.name}", daemon=True
        )
        self._thread.start()
        first.result()

    def signal(self, number: int) -> int:
        """Send a signal to the child and everything in its group, or to the one that it supervises where that can be
        told; returns the pid that got it."""
        pid = self.pid
        if pid is None:
            raise StackError(f"{self.name} does not run")
        supervised = _only_child(pid) if self.spec.supervises else None
        if supervised is not None:
            os.kill(supervised, number)
            return supervised
        os.killpg(pid, number)
        return pid

    def terminate(self) -> None:
        """Tell the child to end, and don't wait for it; it is not started again."""
        with self._lock:
            self._stopping.set()
        self._signal_quietly(signal.SIGTERM)
        self._signal_quietly(signal.SIGCONT)  # a stopped process would not see the SIGTERM

    def stop(self) -> None:
        """End the child: SIGTERM, after the grace SIGKILL. Returns when it is gone; harmless if it is already."""
        if self._thread is None:
            return
        self.terminate()
        self._thread.join(self.spec.stop_grace_s)
        self._signal_quietly(signal.SIGKILL)
        self._thread.join()

    def wait(self, timeout_s: float) -> int | None:
        """Wait until the child ended for good (a restarting one does not): its return code, None on timeout."""
        if self._thread is not None:
            self._thread.join(timeout_s)
        return None if self.supervised else self.returncode

    def _signal_quietly(self, number: int) -> None:
        pid = self.pid
        if pid is not None:
            _kill_group(pid, number)

    def _supervise(self, first: Future[None]) -> None:
        backoff_s = self.spec.backoff_s
        while True:
            with self._lock:
                if self._stopping.is_set():
                    return
                try:
                    popen = self._popen = self._spawn()
                except OSError as error:
                    # Only the first start can fail: it is always the same interpreter that is run.
                    first.set_exception(StackError(f"{self.name} can't start: {error}"))
                    return
            if not first.done():
                first.set_result(None)
            started_s = time.monotonic()
            returncode = popen.wait()
            _kill_group(popen.pid, signal.SIGKILL)
            if self._stopping.is_set():
                return
            self._on_exit(ProcessExit(self.name, popen.pid, returncode, self.spec.restart))
            if not self.spec.restart:
                return
            if time.monotonic() - started_s >= self.spec.healthy_after_s:
                backoff_s = self.spec.backoff_s
            if self._stopping.wait(backoff_s):
                return
            backoff_s = min(2 * backoff_s, self.spec.max_backoff_s)

    def _spawn(self) -> subprocess.Popen[bytes]:
        with self.spec.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-I", "-S", str(_LAUNCH), str(os.getpid()), *self.spec.command],
                env={**os.environ, **self.spec.env},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                process_group=0,
            )


def _only_child(pid: int) -> int | None:
    """None: it has none (at this moment), or this system does not tell."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return None
    return int(children[0]) if len(children) == 1 else None


def _kill_group(group: int, number: int) -> None:
    """Signal a process group that may be gone already."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        # macOS answers EPERM for a group of which only zombies are left.
        return


def wait_until_ready(
    process: ManagedProcess, ready: Callable[[], bool], timeout_s: float, interval_s: float = 0.05
) -> None:
    """Return once ``ready()`` is true; StackError with the log's last lines when the child dies first or on timeout."""
    deadline_s = time.monotonic() + timeout_s
    while not ready():
        if not process.supervised:
            raise StackError(f"{process.name} died while starting. {log_tail(process.spec.log)}")
        if time.monotonic() > deadline_s:
            raise StackError(f"{process.name} was not ready after {timeout_s:.0f} s. {log_tail(process.spec.log)}")
        time.sleep(interval_s)
