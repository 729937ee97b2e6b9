"""Which workers there are (Flink: ResourceManager and HeartbeatManager).

A worker is registered by its heartbeat and lost when none came for ``timeout_ms`` of the coordinator's clock. Another
incarnation of the same name means that the old one is dead, at once. What can't be held against a worker (the
coordinator was paused, or could not reach Kafka) gives every worker a full timeout again. A worker that is busy in user
code for long lives: it says so beside its loop, and says nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from moorage.ids import WorkerId, worker_name
from moorage.messages.events import WorkerHeartbeat

REPLACED_REMEMBERED = 1_000


class LostWorker(NamedTuple):
    worker: WorkerId
    reason: str
    silence_ms: int
    """Since its last sign of life."""


class HeartbeatResult(NamedTuple):
    """What a heartbeat changed."""

    accepted: bool
    """False: from an incarnation that was replaced; it has no effect."""
    joined: bool
    is_newest: bool
    """False: what it says of subtasks is old (a duplicate), or nothing (a busy worker's)."""
    lost: Sequence[LostWorker]


class Worker:
    """A registered worker."""

    __slots__ = ("heartbeat", "last_seen_ms")

    def __init__(self, heartbeat: WorkerHeartbeat, now_ms: int) -> None:
        self.heartbeat = heartbeat
        self.last_seen_ms = now_ms

    @property
    def worker(self) -> WorkerId:
        return self.heartbeat.worker

    @property
    def slots(self) -> int:
        return self.heartbeat.slots


class Workers:
    def __init__(self, timeout_ms: int) -> None:
        self._timeout_ms = timeout_ms
        self._workers: dict[WorkerId, Worker] = {}
        self._by_name: dict[str, WorkerId] = {}
        self._replaced: dict[WorkerId, None] = {}
        """Dead incarnations, in the order in which they were replaced: a zombie does not replace its successor."""

        self.last_joined_ms: int | None = None

    def heartbeat(self, message: WorkerHeartbeat, now_ms: int) -> HeartbeatResult:
        worker = message.worker
        if worker in self._replaced:
            return HeartbeatResult(False, False, False, ())
        if message.leaving:
            lost = [self._remove(worker, "it is leaving", 0)] if worker in self._workers else []
            self._remember_replaced(worker)
            return HeartbeatResult(True, False, True, lost)
        lost = []
        previous = self._by_name.get(worker_name(worker))
        if previous is not None and previous != worker:
            if message.sent_ms < self._workers[previous].heartbeat.sent_ms:
                # The dead one's last words, which reach a leader that does not know yet who replaced it.
                return HeartbeatResult(False, False, False, ())
            silence_ms = now_ms - self._workers[previous].last_seen_ms
            lost.append(self._remove(previous, f"it was replaced by {worker}", silence_ms))
            self._remember_replaced(previous)
        known = self._workers.get(worker)
        if known is None:
            self._workers[worker] = Worker(message, now_ms)
            self.last_joined_ms = now_ms
            self._by_name[worker_name(worker)] = worker
            return HeartbeatResult(True, True, not message.busy_ms, lost)
        known.last_seen_ms = now_ms
        is_newest = not message.busy_ms and message.sent_ms > known.heartbeat.sent_ms
        if is_newest:
            known.heartbeat = message
        return HeartbeatResult(True, False, is_newest, lost)

    def ended(self, worker: WorkerId, reason: str, ago_ms: int) -> LostWorker | None:
        """Its supervisor saw the process end; None: it was not registered (any more)."""
        self._remember_replaced(worker)
        return self._remove(worker, reason, ago_ms) if worker in self._workers else None

    def expire(self, now_ms: int) -> Sequence[LostWorker]:
        """Remove the workers that were silent too long."""
        silent = [w for w in self._workers.values() if now_ms - w.last_seen_ms >= self._timeout_ms]
        return [
            self._remove(w.worker, f"no heartbeat for {silence_ms} ms", silence_ms)
            for w, silence_ms in [(w, now_ms - w.last_seen_ms) for w in silent]
        ]

    def grace(self, now_ms: int) -> None:
        """Nobody's silence up to now counts."""
        for worker in self._workers.values():
            worker.last_seen_ms = now_ms

    def all(self) -> Iterable[Worker]:
        return self._workers.values()

    def __contains__(self, worker: WorkerId) -> bool:
        return worker in self._workers

    def _remove(self, worker: WorkerId, reason: str, silence_ms: int) -> LostWorker:
        del self._workers[worker]
        del self._by_name[worker_name(worker)]
        return LostWorker(worker, reason, silence_ms)

    def _remember_replaced(self, worker: WorkerId) -> None:
        self._replaced[worker] = None
        if len(self._replaced) > REPLACED_REMEMBERED:
            del self._replaced[next(iter(self._replaced))]

    def validate(self) -> None:
        assert {worker_name(worker): worker for worker in self._workers} == self._by_name
        assert all(worker == known.worker for worker, known in self._workers.items())
        assert self._replaced.keys().isdisjoint(self._workers)
