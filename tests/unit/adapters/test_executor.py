from __future__ import annotations

import threading
import time

import pytest

from moorage.adapters.clock import SystemClock
from moorage.adapters.executor import ThreadExecutor
from moorage.errors import StorageError


class TestThreadExecutor:
    @pytest.fixture
    def executor(self) -> ThreadExecutor:
        return ThreadExecutor("test", 2)

    def test_results_are_handed_back_in_the_thread_that_polls(self, executor: ThreadExecutor) -> None:
        threads: list[threading.Thread] = []
        got: list[tuple[object, object]] = []

        def done(result: object, error: Exception | None) -> None:
            threads.append(threading.current_thread())
            got.append((result, error))

        executor.submit(threading.current_thread, done)
        while not executor.poll():
            time.sleep(0.001)
        ((ran_in, error),) = got
        assert threads == [threading.current_thread()]
        assert isinstance(ran_in, threading.Thread)
        assert ran_in is not threading.current_thread()
        assert ran_in.name.startswith("test")
        assert error is None
        executor.close()

    def test_an_error_is_handed_back(self, executor: ThreadExecutor) -> None:
        error = StorageError("full")
        got: list[tuple[object, object]] = []

        def fail() -> None:
            raise error

        executor.submit(fail, lambda *answer: got.append(answer))
        assert executor.wait(5_000)
        assert got == [(None, error)]
        executor.close()

    def test_threads_are_bounded(self, executor: ThreadExecutor) -> None:
        barrier = threading.Barrier(3)
        got: list[int] = []
        for n in range(3):
            executor.submit(lambda: barrier.wait(0.2), lambda *_, n=n: got.append(n))
        while len(got) < 3:
            executor.wait(5_000)
        assert barrier.broken, "three calls never ran at once"
        executor.close()

    def test_waiting_ends_in_time(self, executor: ThreadExecutor) -> None:
        started_s = time.monotonic()
        assert not executor.wait(20)
        assert 0.015 < time.monotonic() - started_s < 1
        assert executor.poll() == 0
        executor.close()

    def test_what_is_submitted_by_a_result_waits_for_the_next_poll(self, executor: ThreadExecutor) -> None:
        got: list[int] = []

        def done(n: int | None, _error: Exception | None) -> None:
            assert n is not None
            got.append(n)
            if n < 3:
                executor.submit(lambda: n + 1, done)

        executor.submit(lambda: 1, done)
        while len(got) < 3:
            assert executor.poll() <= 1
            time.sleep(0.001)
        assert got == [1, 2, 3]
        executor.close()

    def test_close_does_not_wait_and_drops_what_has_not_started(self) -> None:
        executor = ThreadExecutor("test", 1)
        release = threading.Event()
        ran: list[str] = []
        executor.submit(release.wait, lambda *_: ran.append("reported"))
        executor.submit(lambda: ran.append("second"), lambda *_: None)
        started_s = time.monotonic()
        executor.close()
        assert time.monotonic() - started_s < 0.5
        release.set()
        time.sleep(0.05)
        assert ran == []


def test_the_clock_is_the_machines() -> None:
    clock = SystemClock()
    before_ms, wall_ms = clock.monotonic_ms(), clock.wall_ms()
    time.sleep(0.02)
    assert 15 <= clock.monotonic_ms() - before_ms < 5_000
    assert abs(wall_ms - time.time() * 1000) < 5_000

    def test_waiting_ends_although_the_time_is_over_before_it_has_begun(self, executor: ThreadExecutor) -> None:
        """In CPython 3.11, SimpleQueue.get(timeout) hangs in one such case of 20,000."""
        ended = threading.Event()

        def wait_often() -> None:
            for _ in range(40_000):
                executor._results.put(lambda: None)
                executor.poll()
                executor.wait(0.001)  # type: ignore[arg-type]  # shorter than any real one
            ended.set()

        threading.Thread(target=wait_often, daemon=True).start()
        assert ended.wait(120)
        executor.close()
