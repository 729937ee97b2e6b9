"""The checkpoint registry in dicts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Lock

from moorage.errors import BaseSubsumedError, FencedError, RegistryUnavailableError, StaleAttemptError
from moorage.ids import Attempt, CheckpointId, Epoch, JobId
from moorage.messages.registry import CheckpointRecord, JobRecord, Lease
from moorage.ports import COMPLETED_IDS_KEPT, Clock
from moorage.testing.faults import Faults


class MemoryRegistry:
    """``ports.Registry``.

    ``faults.fail_next(<method name>, error, after=...)`` fails one call, ``available = False`` every call;
    ``lose_data()`` is a Redis that comes back empty.
    """

    def __init__(self, clock: Clock) -> None:
        self.available = True
        self.faults = Faults()
        self._clock = clock
        self._lock = Lock()
        self.lose_data()

    def lose_data(self) -> None:
        self._epoch = Epoch(0)
        self._holder: str | None = None
        self._expires_ms = 0
        self._jobs: dict[JobId, JobRecord] = {}
        self._checkpoints: dict[JobId, dict[CheckpointId, CheckpointRecord]] = {}
        self._completed: dict[JobId, set[CheckpointId]] = {}
        # These two outlive a purge.
        self._last_checkpoint_id: dict[JobId, CheckpointId] = {}
        self._last_attempt: dict[JobId, Attempt] = {}

    # --- lease -------------------------------------------------------------------------------------------------------

    def acquire_lease(self, holder: str, ttl_ms: int, *, above: Epoch | None = None) -> Lease | None:
        with self._call("acquire_lease"):
            if self._holder_now() not in (None, holder):
                return None
            self._epoch = Epoch(max(self._epoch, above or 0) + 1)
            self._holder = holder
            self._expires_ms = self._clock.monotonic_ms() + ttl_ms
            return Lease(holder=holder, epoch=self._epoch, ttl_ms=ttl_ms)

    def renew_lease(self, holder: str, epoch: Epoch, ttl_ms: int) -> bool:
        with self._call("renew_lease"):
            if (self._holder_now(), self._epoch) != (holder, epoch):
                return False
            self._expires_ms = self._clock.monotonic_ms() + ttl_ms
            return True

    def release_lease(self, holder: str, epoch: Epoch) -> None:
        with self._call("release_lease"):
            if (self._holder_now(), self._epoch) == (holder, epoch):
                self._holder = None

    def lease(self) -> Lease | None:
        with self._call("lease"):
            holder = self._holder_now()
            if holder is None:
                return None
            return Lease(holder=holder, epoch=self._epoch, ttl_ms=self._expires_ms - self._clock.monotonic_ms())

    # --- jobs --------------------------------------------------------------------------------------------------------

    def jobs(self) -> Sequence[JobRecord]:
        with self._call("jobs"):
            return list(self._jobs.values())

    def save_job(self, epoch: Epoch, record: JobRecord) -> None:
        with self._call("save_job", epoch):
            stored = self._jobs.get(record.job)
            if stored is not None and stored.attempt != record.attempt:
                raise StaleAttemptError(f"job {record.job} is at attempt {stored.attempt}, not {record.attempt}")
            self._store(record)

    def start_attempt(self, epoch: Epoch, record: JobRecord, latest: CheckpointId) -> None:
        with self._call("start_attempt", epoch):
            if self._jobs.get(record.job) == record:
                return
            attempt = self._last_attempt.get(record.job, Attempt(0))
            newest = max(self._checkpoints.get(record.job, ()), default=CheckpointId(0))
            if attempt >= record.attempt or newest != latest:
                raise StaleAttemptError(
                    f"attempt {record.attempt} of job {record.job} from checkpoint {latest} is refused:"
                    f" the last attempt is {attempt}, the newest checkpoint is {newest}"
                )
            self._store(record)

    def last_attempt(self, job: JobId) -> Attempt:
        with self._call("last_attempt"):
            return self._last_attempt.get(job, Attempt(0))

    def purge_job(self, epoch: Epoch, job: JobId) -> None:
        with self._call("purge_job", epoch):
            self._jobs.pop(job, None)
            self._checkpoints.pop(job, None)
            self._completed.pop(job, None)

    # --- checkpoints -------------------------------------------------------------------------------------------------

    def next_checkpoint_id(self, epoch: Epoch, job: JobId) -> CheckpointId:
        with self._call("next_checkpoint_id", epoch):
            given = CheckpointId(self._last_checkpoint_id.get(job, 0) + 1)
            self._last_checkpoint_id[job] = given
            return given

    def last_checkpoint_id(self, job: JobId) -> CheckpointId:
        with self._call("last_checkpoint_id"):
            return self._last_checkpoint_id.get(job, CheckpointId(0))

    def add_checkpoint(
        self,
        epoch: Epoch,
        job: JobId,
        attempt: Attempt,
        record: CheckpointRecord,
        retain: int,
        keep_from: CheckpointId | None = None,
    ) -> Sequence[CheckpointRecord]:
        with self._call("add_checkpoint", epoch):
            stored = self._jobs.get(job)
            if stored is None or stored.attempt != attempt:
                raise StaleAttemptError(
                    f"checkpoint {record.checkpoint} of attempt {attempt} of job {job} is refused:"
                    f" the job is {'unknown' if stored is None else f'at attempt {stored.attempt}'}"
                )
            completed = self._completed.setdefault(job, set())
            if record.checkpoint in completed:
                return []
            checkpoints = self._checkpoints.setdefault(job, {})
            if record.base != 0 and record.base not in checkpoints:
                raise BaseSubsumedError(
                    f"checkpoint {record.checkpoint} of job {job} builds on {record.base}, which is gone"
                )
            newer = [n for n, known in checkpoints.items() if known.kind == "checkpoint" and n > record.checkpoint]
            if newer and record.kind == "checkpoint":
                raise BaseSubsumedError(
                    f"checkpoint {record.checkpoint} of job {job} comes after {max(newer)}, which is completed"
                )
            completed.add(record.checkpoint)
            if len(completed) > COMPLETED_IDS_KEPT:
                completed.remove(min(completed))
            self._last_checkpoint_id[job] = max(record.checkpoint, self._last_checkpoint_id.get(job, CheckpointId(0)))
            checkpoints[record.checkpoint] = record
            counted = sorted(n for n, known in checkpoints.items() if known.kind == "checkpoint")
            surplus = counted[: max(0, len(counted) - retain)]
            return [checkpoints.pop(n) for n in surplus if keep_from is None or n < keep_from]

    def checkpoints(self, job: JobId) -> Sequence[CheckpointRecord]:
        with self._call("checkpoints"):
            return [record for _, record in sorted(self._checkpoints.get(job, {}).items())]

    def remove_checkpoint(self, epoch: Epoch, job: JobId, checkpoint: CheckpointId) -> None:
        with self._call("remove_checkpoint", epoch):
            self._checkpoints.get(job, {}).pop(checkpoint, None)

    def completed_ids(self, job: JobId) -> Sequence[CheckpointId]:
        with self._call("completed_ids"):
            return sorted(self._completed.get(job, ()))

    # -----------------------------------------------------------------------------------------------------------------

    @contextmanager
    def _call(self, operation: str, epoch: Epoch | None = None) -> Iterator[None]:
        """Every call goes through here: outage, injected failure, fence."""
        if not self.available:
            raise RegistryUnavailableError("the registry does not answer")
        # Tests with a ThreadExecutor call from several threads.
        with self._lock, self.faults.around(operation):
            if epoch is not None:
                if epoch < self._epoch:
                    raise FencedError(f"{operation} with epoch {epoch} is refused: the epoch is {self._epoch}")
                self._epoch = epoch
            yield

    def _holder_now(self) -> str | None:
        return self._holder if self._clock.monotonic_ms() < self._expires_ms else None

    def _store(self, record: JobRecord) -> None:
        self._jobs[record.job] = record
        self._last_attempt[record.job] = max(record.attempt, self._last_attempt.get(record.job, Attempt(0)))
