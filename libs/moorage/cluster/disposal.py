"""Disposal of a savepoint: the registry forgets it, then its files go, ``_metadata`` first."""

from __future__ import annotations

from collections.abc import Iterable

from moorage.cluster.protocol import DisposeSavepointRequested, Refusal, Refused, SavepointDisposed
from moorage.effects import CallError, CallFailure, DeleteSavepoint, Effects, RemoveCheckpoint
from moorage.messages.registry import CheckpointRecord, JobRecord
from moorage.naming import metadata_of


class Disposal:
    """One request on its way. ``jobs``: every job with what the registry retains of it."""

    def __init__(
        self,
        effects: Effects,
        request: DisposeSavepointRequested,
        jobs: Iterable[tuple[JobRecord, Iterable[CheckpointRecord]]],
    ) -> None:
        self._effects = effects
        self._request = request.request
        self._path = metadata_of(request.path)
        registered: tuple[JobRecord, CheckpointRecord] | None = None
        for job, records in jobs:
            retained = list(records)
            if job.restore is not None and job.restore.path == self._path and not job.status.has_ended:
                has_own = any(record.checkpoint > job.base_checkpoint_id for record in retained)
                if not has_own:
                    self._refuse(
                        Refusal.CONFLICT, f"job {job.job} starts from it while it has no checkpoint of its own"
                    )
                    return
            for record in retained:
                if record.metadata_path == self._path:
                    registered = (job, record)
        if registered is None:
            self._delete(None)
            return
        job, record = registered
        if record.kind != "savepoint":
            self._refuse(Refusal.CONFLICT, f"it is checkpoint {record.checkpoint} of job {job.job}, not a savepoint")
        elif record.ends_as is not None and not job.status.has_ended:
            self._refuse(Refusal.CONFLICT, f"job {job.job} is being stopped with it")
        else:
            effects.call(
                RemoveCheckpoint(epoch=effects.epoch, job=job.job, checkpoint=record.checkpoint),
                self._delete,
                self._failed,
                repeats=True,
            )

    def _delete(self, _: None) -> None:
        self._effects.call(DeleteSavepoint(path=self._path), self._deleted, self._failed)

    def _deleted(self, _: None) -> None:
        self._effects.reply(self._request, SavepointDisposed(self._path))

    def _failed(self, error: CallError) -> None:
        refusals = {CallFailure.CORRUPT: Refusal.NOT_FOUND, CallFailure.UNAVAILABLE: Refusal.UNAVAILABLE}
        self._refuse(refusals.get(error.failure, Refusal.CONFLICT), error.detail)

    def _refuse(self, refusal: Refusal, message: str) -> None:
        self._effects.reply(self._request, Refused(refusal, f"{self._path} is not disposed of: {message}"))
