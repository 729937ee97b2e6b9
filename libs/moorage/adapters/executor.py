"""Threads for blocking calls; results come back to the loop that owns the executor."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from queue import Empty, Queue
from typing import TypeVar

T = TypeVar("T")


class ThreadExecutor:
    """``ports.Executor`` with a bounded number of threads.

    The owner calls ``poll`` in its loop, or ``wait`` when it has nothing else to do. ``done`` runs in the thread that
    polls, so the owner needs no locks.
    """

    def __init__(self, name: str, threads: int) -> None:
        self._pool = ThreadPoolExecutor(max_workers=threads, thread_name_prefix=name)
        # Not a SimpleQueue: in CPython 3.11 its ``get`` with a timeout waits for ever if the time is over before it
        # gets to wait, as happens to a loop on a busy machine now and then.
        self._results: Queue[Callable[[], None]] = Queue()

    def submit(self, call: Callable[[], T], done: Callable[[T | None, Exception | None], None]) -> None:
        def run() -> None:
            try:
                result = call()
            except Exception as error:  # noqa: BLE001 - handed to its owner, as the port says
                self._results.put(partial(done, None, error))
            else:
                self._results.put(partial(done, result, None))

        self._pool.submit(run)

    def poll(self) -> int:
        """Hand back the results that are there; how many."""
        # Only the owner takes from the queue, so what is counted is there; what comes meanwhile waits its turn.
        ready = self._results.qsize()
        for _ in range(ready):
            self._results.get_nowait()()
        return ready

    def wait(self, timeout_ms: int) -> bool:
        """Wait for a result and hand it back; False when none came in time."""
        try:
            result = self._results.get(timeout=timeout_ms / 1000)
        except Empty:
            return False
        result()
        return True

    def close(self) -> None:
        """Forget what has not started and return at once; a call that runs ends by itself and its result is dropped."""
        self._pool.shutdown(wait=False, cancel_futures=True)
