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
        self._purging: dict[JobId, int] = {}
        self._claims: dict[str, tuple[str, int]] = {}
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
            if self._purging.get(record.job, record.submitted_ms) != record.submitted_ms:
                raise StaleAttemptError(f"job {record.job} is refused: an earlier one of that name is being purged")
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

    def rebuild_job(
        self,
        epoch: Epoch,
        record: JobRecord,
        checkpoints: Sequence[CheckpointRecord],
        completed_ids: Sequence[CheckpointId],
        last_checkpoint_id: CheckpointId,
    ) -> None:
        with self._call("rebuild_job", epoch):
            stored = self._jobs.get(record.job)
            if stored == record:
                return
            if stored is not None:
                raise StaleAttemptError(f"job {record.job} is not rebuilt: it is known, at attempt {stored.attempt}")
            self._checkpoints[record.job] = {known.checkpoint: known for known in checkpoints}
            self._completed[record.job] = set(completed_ids)
            last = self._last_checkpoint_id.get(record.job, CheckpointId(0))
            self._last_checkpoint_id[record.job] = max(last_checkpoint_id, last)
            self._store(record)

    def last_attempt(self, job: JobId) -> Attempt:
        with self._call("last_attempt"):
            return self._last_attempt.get(job, Attempt(0))

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
            checkpoints = self._checkpoints.setdefault(job, {})
            if record.checkpoint in completed or record.checkpoint in checkpoints:
                return []
            if record.base != 0 and record.base not in checkpoints:
                raise BaseSubsumedError(
                    f"checkpoint {record.checkpoint} of job {job} builds on {record.base}, which is gone"
                )
            newer = [n for n, known in checkpoints.items() if known.kind == "checkpoint" and n > record.checkpoint]
            if newer and record.kind == "checkpoint":
                raise BaseSubsumedError(
                    f"checkpoint {record.checkpoint} of job {job} comes after {max(newer)}, which is completed"
                )
            if record.is_part_of_history:
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

    # --- of the cleaner ----------------------------------------------------------------------------------------------

    def claim(self, work: str, holder: str, ttl_ms: int) -> bool:
        with self._call("claim"):
            now_ms = self._clock.monotonic_ms()
            present, expires_ms = self._claims.get(work, (holder, 0))
            if present != holder and now_ms < expires_ms:
                return False
            self._claims[work] = (holder, now_ms + ttl_ms)
            return True

    def remove_checkpoints(self, job: JobId, submitted_ms: int) -> bool:
        with self._call("remove_checkpoints"):
            if not self._has_ended(job, submitted_ms):
                return False
            retained = self._checkpoints.get(job, {})
            self._checkpoints[job] = {n: known for n, known in retained.items() if known.kind == "savepoint"}
            return True

    def begin_purge(self, job: JobId, submitted_ms: int) -> bool:
        with self._call("begin_purge"):
            if not self._has_ended(job, submitted_ms) or self._checkpoints.get(job):
                return False
            self._purging[job] = submitted_ms
            return True

    def purge_job(self, job: JobId, submitted_ms: int) -> None:
        with self._call("purge_job"):
            if self._purging.get(job) == submitted_ms:
                for kept in (self._jobs, self._checkpoints, self._completed, self._purging):
                    kept.pop(job, None)

    # -----------------------------------------------------------------------------------------------------------------

    @contextmanager
    def _call(self, operation: str, epoch: Epoch | None = None) -> Iterator[None]:
        """Every call goes through here: outage, injected failure, fence."""
        if not self.available:
            raise RegistryUnavailableError("the registry does not answer")
        # Tests with a ThreadExecutor call from several threads.
        with self._lock, self.faults.around(operation):
            if epoch is not None and epoch != self._epoch:
                raise FencedError(f"{operation} with epoch {epoch} is refused: the epoch is {self._epoch}")
            yield

    def _has_ended(self, job: JobId, submitted_ms: int) -> bool:
        stored = self._jobs.get(job)
        return stored is not None and stored.submitted_ms == submitted_ms and stored.status.has_ended

    def _holder_now(self) -> str | None:
        return self._holder if self._clock.monotonic_ms() < self._expires_ms else None

    def _store(self, record: JobRecord) -> None:
        self._jobs[record.job] = record
        self._last_attempt[record.job] = max(record.attempt, self._last_attempt.get(record.job, Attempt(0)))
