"""Clock, executor, registry and storage of the simulation: what tests can do to them beyond the ports' contracts."""

from __future__ import annotations

import pytest

from moorage.errors import RegistryUnavailableError, StorageError
from moorage.ids import Epoch, JobId
from moorage.testing.clocks import ManualClock
from moorage.testing.executor import InlineExecutor
from moorage.testing.memory_registry import MemoryRegistry
from moorage.testing.memory_storage import MemoryStorage

JOB = JobId("orders")


def test_time_moves_when_told() -> None:
    clock = ManualClock(wall_start_ms=1_000)
    clock.advance(5)
    assert (clock.monotonic_ms(), clock.wall_ms()) == (5, 1_005)
    with pytest.raises(ValueError, match="backwards"):
        clock.advance(-1)


class TestInlineExecutor:
    def test_a_call_takes_effect_before_its_owner_hears_of_it(self) -> None:
        executor = InlineExecutor()
        story: list[str] = []
        executor.submit(lambda: story.append("called"), lambda *_: story.append("done"))
        assert (executor.calls, executor.results, story) == (1, 0, [])
        executor.call_one()
        assert (executor.calls, executor.results, story) == (0, 1, ["called"])
        executor.serve_one()
        assert (executor.calls, executor.results, story) == (0, 0, ["called", "done"])

    def test_calls_run_in_any_order(self) -> None:
        executor = InlineExecutor()
        got: list[tuple[object, object]] = []
        for n in range(3):
            executor.submit(lambda n=n: n, lambda *answer: got.append(answer))
        executor.run_one(2)
        executor.run_one(0)
        assert got == [(2, None), (0, None)]

    def test_an_error_is_handed_back(self) -> None:
        executor = InlineExecutor()
        got: list[tuple[object, object]] = []
        error = StorageError("full")

        def fail() -> None:
            raise error

        executor.submit(fail, lambda *answer: got.append(answer))
        executor.run_one()
        assert got == [(None, error)]

    def test_run_all_includes_what_is_submitted_meanwhile(self) -> None:
        executor = InlineExecutor()
        got: list[int] = []

        def again(n: int) -> None:
            got.append(n)
            if n < 3:
                executor.submit(lambda: n + 1, lambda answer, _: again(answer or 0))

        again(0)
        assert executor.run_all() == 3
        assert got == [0, 1, 2, 3]


class TestMemoryRegistry:
    def test_nothing_answers_in_an_outage(self) -> None:
        registry = MemoryRegistry(ManualClock())
        registry.available = False
        with pytest.raises(RegistryUnavailableError):
            registry.lease()
        registry.available = True
        assert registry.lease() is None

    def test_a_call_may_fail_before_or_after_it_took_effect(self) -> None:
        registry = MemoryRegistry(ManualClock())
        registry.acquire_lease("a", 1_000)
        for after, last in ((False, 0), (True, 1)):
            registry.faults.fail_next("next_checkpoint_id", RegistryUnavailableError("no answer"), after=after)
            with pytest.raises(RegistryUnavailableError):
                registry.next_checkpoint_id(Epoch(1), JOB)
            assert registry.last_checkpoint_id(JOB) == last

    def test_it_can_lose_everything(self) -> None:
        registry = MemoryRegistry(ManualClock())
        registry.acquire_lease("a", 1_000)
        registry.next_checkpoint_id(Epoch(1), JOB)
        registry.lose_data()
        assert registry.lease() is None
        assert registry.last_checkpoint_id(JOB) == 0
        assert not registry.renew_lease("a", Epoch(1), 1_000)


class TestMemoryStorage:
    def test_corruption_changes_bytes_and_not_the_name(self) -> None:
        storage = MemoryStorage(ManualClock())
        for path, data, damaged in (
            ("a", b"\x00\x01\x02", b"\x00\xfe\x02"),
            ("b", b"\xff", b"\x00"),
            ("c", b"", b"\xff"),
        ):
            storage.write(path, data)
            storage.corrupt(path)
            assert storage.read(path) == damaged
        assert storage.paths() == ["a", "b", "c"]

    def test_a_write_may_fail_before_or_after_it_took_effect(self) -> None:
        storage = MemoryStorage(ManualClock())
        for after, paths in ((False, []), (True, ["a"])):
            storage.faults.fail_next("write", StorageError("full"), after=after)
            with pytest.raises(StorageError, match="full"):
                storage.write("a", b"")
            assert storage.paths() == paths

    def test_nothing_answers_in_an_outage(self) -> None:
        storage = MemoryStorage(ManualClock())
        storage.available = False
        with pytest.raises(StorageError):
            storage.read("a")
        with pytest.raises(StorageError):
            storage.list("a/")
