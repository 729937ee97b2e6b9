"""Whose turn it is to be called: the master hooks of one job one after another, those of many jobs side by side.

So a hook that hangs holds up its own job, and no more than one thread. What waits behind it and has been overtaken by
another attempt or another leader by the time of its turn is not carried out: a hook must not go back to a checkpoint
that the job has left behind since.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from moorage.coordinator_process.hooks import HookRunner
from moorage.effects import CloseHooks, HookOperation
from moorage.errors import HookError
from moorage.ids import Attempt, Epoch, JobId
from moorage.ports import Executor

Done = Callable[[Any, Exception | None], None]


class HookQueue:
    """See the module. Everything is called from the loop. ``closed`` hears how hooks were closed by ``close_all``."""

    def __init__(
        self, runner: HookRunner, executor: Executor, closed: Callable[[CloseHooks, Exception | None], None]
    ) -> None:
        self._runner = runner
        self._executor = executor
        self._closed = closed
        self._waiting: dict[JobId, deque[tuple[HookOperation[Any], Done]]] = {}
        """Of the jobs whose hooks are being called."""
        self._newest: dict[JobId, tuple[Epoch, Attempt]] = {}
        """Of the jobs whose hooks are not closed: who was the last to ask."""

    def submit(self, operation: HookOperation[Any], done: Done) -> None:
        job = operation.job
        if isinstance(operation, CloseHooks):
            self._newest.pop(job, None)
        else:
            self._newest[job] = max(_asks(operation), self._newest.get(job, _asks(operation)))
        if job in self._waiting:
            self._waiting[job].append((operation, done))
        else:
            self._waiting[job] = deque()
            self._run(operation, done)

    def close_all(self) -> None:
        """The leadership has ended: nobody waits for an answer, and the next leader makes hooks of its own."""
        for job, (epoch, attempt) in list(self._newest.items()):
            operation = CloseHooks(epoch=epoch, job=job, attempt=attempt)
            self.submit(operation, partial(self._is_closed, operation))

    @property
    def is_idle(self) -> bool:
        return not self._waiting

    def _is_closed(self, operation: CloseHooks, _: None, error: Exception | None) -> None:
        self._closed(operation, error)

    def _run(self, operation: HookOperation[Any], done: Done) -> None:
        self._executor.submit(partial(self._runner.run, operation), partial(self._done, operation.job, done))

    def _done(self, job: JobId, done: Done, result: Any, error: Exception | None) -> None:
        done(result, error)
        self._next(job)

    def _next(self, job: JobId) -> None:
        waiting = self._waiting[job]
        while waiting:
            operation, done = waiting.popleft()
            if not self._is_overtaken(operation):
                self._run(operation, done)
                return
            done(None, HookError(f"the master hooks of job {job} were not asked: attempt {operation.attempt} is over"))
        del self._waiting[job]

    def _is_overtaken(self, operation: HookOperation[Any]) -> bool:
        if isinstance(operation, CloseHooks):
            return False
        is_closed = any(isinstance(later, CloseHooks) for later, _ in self._waiting[operation.job])
        return is_closed or _asks(operation) < self._newest.get(operation.job, _asks(operation))


def _asks(operation: HookOperation[Any]) -> tuple[Epoch, Attempt]:
    return operation.epoch, operation.attempt
