"""Coordinator to cleaner. These only make cleaning prompt: the cleaner is correct without a single one of them."""

from __future__ import annotations

import msgspec

from moorage.ids import CheckpointId, Epoch, JobId


class DiscardCheckpoint(msgspec.Struct, frozen=True, kw_only=True):
    """The checkpoint was subsumed or aborted: nothing needs it any more but later ones that share its files."""

    epoch: Epoch
    job: JobId
    checkpoint: CheckpointId


class DiscardState(msgspec.Struct, frozen=True, kw_only=True):
    """State that arrived with a late or refused acknowledgement."""

    epoch: Epoch
    job: JobId
    checkpoint: CheckpointId
    paths: tuple[str, ...]


class TrimExchange(msgspec.Struct, frozen=True, kw_only=True):
    """A checkpoint was subsumed or a sink has committed: the exchange logs may be shortened."""

    epoch: Epoch
    job: JobId


class PurgeJob(msgspec.Struct, frozen=True, kw_only=True):
    """The job has ended for good: its checkpoints, topics and groups go, and the registry forgets it.

    Old messages may be read again, when a later job has the same name.
    """

    epoch: Epoch
    job: JobId
    submitted_ms: int
    """``JobRecord.submitted_ms`` of the job that is meant; a later one of that name is left alone."""


CleanupRequest = DiscardCheckpoint | DiscardState | TrimExchange | PurgeJob
