"""Which worker runs which slot of a job. Slot i runs subtask i of every vertex (Flink's slot sharing).

Slots are spread evenly: each goes to the worker that has the fewest slots of this job. Between those, one that ran the
slot before is preferred, by its name (a replacement has the same disk), then the one with the most free slots.

Workers that start together don't register together. So while workers are joining, a job that would be crowded on those
that are there waits a moment for the others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from moorage.cluster.workers import Workers
from moorage.ids import JobId, WorkerId, worker_name


def assign_slots(
    needed: int, free: Mapping[WorkerId, int], previous: Sequence[WorkerId] = ()
) -> tuple[WorkerId, ...] | None:
    """The worker of each slot, or None when there are not enough free slots."""
    left = {worker: slots for worker, slots in free.items() if slots > 0}
    if sum(left.values()) < needed:
        return None
    given: Counter[WorkerId] = Counter()
    slots: list[WorkerId] = []
    for slot in range(needed):
        before = worker_name(previous[slot]) if slot < len(previous) else None

        def rank(worker: WorkerId, before: str | None = before) -> tuple[int, bool, int, WorkerId]:
            return given[worker], worker_name(worker) != before, -left[worker], worker

        chosen = min((worker for worker in left if left[worker] > 0), key=rank)
        given[chosen] += 1
        left[chosen] -= 1
        slots.append(chosen)
    return tuple(slots)


class SlotPool:
    """Who holds which slots. A job holds its slots from the start of an attempt until the attempt ends."""

    def __init__(self, workers: Workers, settle_ms: int) -> None:
        """``settle_ms``: workers are joining as long as the last one joined less than this ago."""
        self._workers = workers
        self._settle_ms = settle_ms
        self._held: dict[JobId, tuple[WorkerId, ...]] = {}

    def offer(self, needed: int, previous: Sequence[WorkerId], now_ms: int) -> tuple[WorkerId, ...] | None:
        """Slots for a job that ran on ``previous`` before (empty: it never ran); None: not now."""
        slots = assign_slots(needed, self.free(), previous)
        if slots is None or (self.is_settling(now_ms) and _spread(slots) < (_spread(previous) or needed)):
            return None
        return slots

    def refill(self, slots: Sequence[WorkerId]) -> tuple[WorkerId, ...] | None:
        """``slots`` of a job that goes on, with others in the place of those whose workers are gone; None: not now."""
        gone = [slot for slot, worker in enumerate(slots) if worker not in self._workers]
        found = assign_slots(len(gone), self.free(), [slots[slot] for slot in gone])
        if found is None:
            return None
        replaced = dict(zip(gone, found, strict=True))
        return tuple(replaced.get(slot, worker) for slot, worker in enumerate(slots))

    def is_settling(self, now_ms: int) -> bool:
        """Workers are joining."""
        joined_ms = self._workers.last_joined_ms
        return joined_ms is not None and now_ms - joined_ms < self._settle_ms

    def hold(self, job: JobId, slots: tuple[WorkerId, ...]) -> None:
        self._held[job] = slots

    def release(self, job: JobId) -> None:
        self._held.pop(job, None)

    def reachable(self, job: JobId) -> int:
        """Slots that the job holds or could have."""
        live = [worker for worker in self._held.get(job, ()) if worker in self._workers]
        return len(live) + sum(self.free().values())

    def holds(self, job: JobId) -> bool:
        return job in self._held

    def knows(self, worker: WorkerId) -> bool:
        return worker in self._workers

    def free(self) -> dict[WorkerId, int]:
        """Free slots of each worker; one whose capacity shrank below what it runs has none."""
        used = Counter(worker for slots in self._held.values() for worker in slots)
        return {w.worker: max(0, w.slots - used[w.worker]) for w in self._workers.all()}

    def validate(self) -> None:
        assert all(slots for slots in self._held.values())


def _spread(slots: Sequence[WorkerId]) -> int:
    return len({worker_name(worker) for worker in slots})
