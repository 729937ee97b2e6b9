"""Hooks of one job are called in their order, those of many side by side; what was overtaken is not called."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.checkpoint.test_master_hooks import Hook

from moorage.checkpoint.hooks import MasterHook
from moorage.coordinator_process.hook_queue import HookQueue
from moorage.coordinator_process.hooks import HookRunner
from moorage.effects import CloseHooks, HookOperation, RestoreHooks, TriggerHooks
from moorage.ids import Attempt, CheckpointId, Epoch, JobId
from moorage.testing.executor import InlineExecutor

ORDERS, USERS = JobId("orders"), JobId("users")


class Desk:
    def __init__(self) -> None:
        self.hooks: dict[JobId, Hook] = {}
        self.executor = InlineExecutor()
        self.closed: list[tuple[JobId, str]] = []
        self.answers: list[tuple[str, str]] = []
        self.queue = HookQueue(HookRunner([self._make]), self.executor, self._closed)

    def _make(self, job: JobId) -> MasterHook[Any]:
        return self.hooks.setdefault(job, Hook("table"))

    def _closed(self, operation: CloseHooks, error: Exception | None) -> None:
        self.closed.append((operation.job, str(error or "")))

    def ask(self, operation: HookOperation[Any]) -> None:
        name = type(operation).__name__
        self.queue.submit(operation, lambda _, error: self.answers.append((name, str(error or ""))))


@pytest.fixture
def desk() -> Desk:
    return Desk()


def trigger(job: JobId, checkpoint: int, attempt: int = 1, epoch: int = 1) -> TriggerHooks:
    return TriggerHooks(
        epoch=Epoch(epoch), job=job, attempt=Attempt(attempt), checkpoint=CheckpointId(checkpoint), triggered_ms=0
    )


def restore(job: JobId, checkpoint: int, attempt: int, epoch: int = 1) -> RestoreHooks:
    return RestoreHooks(
        epoch=Epoch(epoch),
        job=job,
        attempt=Attempt(attempt),
        checkpoint=CheckpointId(checkpoint),
        states=(),
        allow_non_restored=False,
    )


def close(job: JobId) -> CloseHooks:
    return CloseHooks(epoch=Epoch(1), job=job, attempt=Attempt(1))


def test_a_job_whose_hooks_hang_holds_up_nobody_else(desk: Desk) -> None:
    desk.ask(trigger(ORDERS, 1))
    desk.ask(trigger(ORDERS, 2))
    desk.ask(trigger(USERS, 1))
    assert desk.executor.calls == 2
    desk.executor.run_one(1)
    assert desk.hooks[USERS].calls == [(1, 0)]
    desk.executor.run_all()
    desk.executor.run_all()
    assert desk.hooks[ORDERS].calls == [(1, 0), (2, 0)]
    assert desk.queue.is_idle


def test_a_hook_is_not_sent_back_to_where_no_attempt_starts_any_more(desk: Desk) -> None:
    desk.ask(trigger(ORDERS, 9))
    desk.ask(restore(ORDERS, 5, attempt=2))
    desk.ask(restore(ORDERS, 7, attempt=3))
    while desk.executor.run_all():
        pass
    assert desk.hooks[ORDERS].calls == [(9, 0), (7, None)]
    assert desk.answers == [
        ("TriggerHooks", ""),
        ("RestoreHooks", "the master hooks of job orders were not asked: attempt 2 is over"),
        ("RestoreHooks", ""),
    ]


def test_what_an_earlier_leader_asked_for_gives_way_to_the_next(desk: Desk) -> None:
    desk.ask(trigger(ORDERS, 9))
    desk.ask(trigger(ORDERS, 10))
    desk.queue.close_all()
    desk.ask(restore(ORDERS, 9, attempt=1, epoch=2))
    while desk.executor.run_all():
        pass
    assert desk.hooks[ORDERS].calls == [(9, 0), "close", (9, None)]
    assert desk.closed == [(ORDERS, "")]


def test_the_hooks_of_an_ended_job_are_closed_once_and_what_waited_is_dropped(desk: Desk) -> None:
    desk.ask(trigger(ORDERS, 1))
    desk.ask(trigger(ORDERS, 2))
    desk.ask(close(ORDERS))
    while desk.executor.run_all():
        pass
    desk.queue.close_all()
    assert desk.executor.calls == 0
    assert desk.hooks[ORDERS].calls == [(1, 0), "close"]
    assert desk.closed == []


def test_hooks_that_can_not_be_closed_are_heard_of(desk: Desk) -> None:
    desk.ask(trigger(ORDERS, 1))
    desk.executor.run_all()
    desk.hooks[ORDERS].close_error = OSError("gone")
    desk.queue.close_all()
    desk.queue.close_all()
    desk.executor.run_all()
    assert desk.closed == [(ORDERS, "the master hooks of job orders: Hook can't be closed: OSError('gone')")]
