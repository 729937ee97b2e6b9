"""Requests that go on after the answer: an id for each, under which their outcome is asked for (Flink: trigger ids)."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from moorage.checkpoint.notices import CheckpointFailed
from moorage.cluster.protocol import ClientRequest, Refused
from moorage_coordinator.flink.operations import COMPLETED, IN_PROGRESS, FailureCause, OperationResult, failure_cause
from moorage_coordinator.rest.endpoints import RestError
from moorage_coordinator.rest.questions import Questions

OPERATIONS_KEPT = 1_000
"""The oldest are forgotten, decided ones first; what they asked for happens all the same."""

T = TypeVar("T")


class Operations:
    """``of``: what the operation belongs to; an id is known there only."""

    def __init__(self, questions: Questions) -> None:
        self._questions = questions
        self._started: dict[tuple[str, str], Future[object]] = {}

    def start(self, of: str, trigger_id: str | None, make: Callable[[int], ClientRequest]) -> str:
        """The id. A client that gives one may ask again when it got no answer: it happens once."""
        trigger_id = trigger_id or secrets.token_hex(16)
        if (of, trigger_id) not in self._started:
            self._started[of, trigger_id] = self._questions.start(make)
            if len(self._started) > OPERATIONS_KEPT:
                self._forget_one()
        return trigger_id

    def is_known(self, of: str, trigger_id: str) -> bool:
        return (of, trigger_id) in self._started

    async def result(self, of: str, trigger_id: str, describe: Callable[[object], T]) -> OperationResult[T]:
        """``describe``: makes what is told of the loop's answer."""
        if not self.is_known(of, trigger_id):
            await self._questions.view()  # A standby says who leads: that one may know it.
            raise RestError(404, f"there is no request {trigger_id} of {of}; ids die with the leader that gave them")
        answer = self._started[of, trigger_id]
        if not answer.done():
            return OperationResult(status=IN_PROGRESS, operation=None)
        return OperationResult(status=COMPLETED, operation=describe(answer.result()))

    def _forget_one(self) -> None:
        oldest = next(iter(self._started))
        del self._started[next((key for key, answer in self._started.items() if answer.done()), oldest)]


def cause_of(result: object) -> FailureCause | None:
    """None: it did not fail."""
    match result:
        case CheckpointFailed():
            return failure_cause("org.apache.flink.runtime.checkpoint.CheckpointException", result.message)
        case Refused(message=message):
            return failure_cause("org.apache.flink.util.FlinkException", message)
        case _:
            return None
