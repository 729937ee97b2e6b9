"""Act one: every file of a job gets a verdict, and those that go get an order. Act two is to carry the plan out.

Why the verdicts hold for ever, whatever happens meanwhile, stands in the package's docstring.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from enum import Enum
from typing import NamedTuple

import msgspec

from moorage.graph.lineage import running_attempts
from moorage.ids import Attempt, CheckpointId
from moorage.messages.registry import CheckpointRecord, JobRecord
from moorage.naming import StoragePath, parse_storage_path
from moorage.ports import ObjectInfo, UnfinishedUpload

_ABANDONED_AFTER_MS = 3_600_000
"""An upload of which the storage can't tell the object is not under way any more."""


class Verdict(Enum):
    """What happens to a file, and why."""

    KEEP_REFERENCED = "keep_referenced"
    """A retained checkpoint or savepoint needs it."""
    KEEP_IN_PROGRESS = "keep_in_progress"
    """The checkpoint that it was written for may still complete."""
    KEEP_YOUNG = "keep_young"
    """Nothing needs it, but nobody has called it subsumed or aborted, and it is younger than the grace age."""
    KEEP_FOREIGN = "keep_foreign"
    """Not a path that Moorage builds, or another job's."""
    DELETE_SUBSUMED = "delete_subsumed"
    """Of a completed checkpoint that is not retained any more."""
    DELETE_ABORTED = "delete_aborted"
    """Of a checkpoint that the coordinator has aborted."""
    DELETE_ORPHAN = "delete_orphan"
    """Nothing refers to it and nobody ever told why."""
    DELETE_CLAIMED = "delete_claimed"
    """Of a savepoint that the job was started from and has claimed, and that no checkpoint needs any more."""
    DELETE_UNFINISHED = "delete_unfinished"
    """An upload that nobody goes on with."""

    @property
    def deletes(self) -> bool:
        return self.value.startswith("delete_")

    @property
    def reason(self) -> str:
        """One word or two, for logs and metrics: subsumed, in progress."""
        return self.value.partition("_")[2].replace("_", " ")


class JobFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What was observed of a job, in the order of the fields; the order matters to the argument."""

    last_checkpoint: CheckpointId
    """The last id given, 0 if none."""
    record: JobRecord
    discarded: frozenset[CheckpointId]
    """Ids that DiscardCheckpoint has named: their fate is final."""
    retained: tuple[CheckpointRecord, ...]
    completed: frozenset[CheckpointId]
    """Ids that the registry remembers as completed, subsumed ones included."""
    restored: frozenset[str] = frozenset()
    """``_metadata`` files of this job that a job was submitted to start from and may start from again."""
    claimants: tuple[CheckpointRecord, ...] = ()
    """Retained checkpoints of other jobs, which have claimed one of this job."""

    @property
    def is_needed_elsewhere(self) -> bool:
        """Files of this job are another job's, too; or its own, while it lives."""
        return bool(self.restored or self.claimants)

    @property
    def newest(self) -> CheckpointId:
        """The newest retained checkpoint, 0 if none: no checkpoint up to it can complete any more."""
        return max((r.checkpoint for r in self.retained if r.kind == "checkpoint"), default=CheckpointId(0))

    @property
    def in_the_logs(self) -> tuple[CheckpointRecord, ...]:
        """Retained checkpoints whose positions say where the job may read its exchange logs again: savepoints refer to
        no log, and those of an earlier life say nothing about where this one began."""
        base = self.record.base_checkpoint_id
        return tuple(r for r in self.retained if r.kind == "checkpoint" and r.checkpoint > base)

    @property
    def oldest_attempt(self) -> Attempt:
        """Nothing that was started in an earlier one runs, or will: a part of the job may have gone on while others
        restarted."""
        return min(running_attempts(self.record.lineage).values(), default=self.record.attempt)

    def is_decided(self, path: StoragePath) -> bool:
        """No checkpoint that is completed from now on can have written this file."""
        checkpoint = path.checkpoint
        return (
            checkpoint <= max(self.newest, self.record.base_checkpoint_id)
            or checkpoint in self.discarded
            or (path.attempt is not None and path.attempt < self.oldest_attempt)
            or (self.record.status.has_ended and checkpoint <= self.last_checkpoint)
        )


class Deletion(NamedTuple):
    path: str
    size_bytes: int
    modified_ms: int
    verdict: Verdict


class Tally(msgspec.Struct):
    """A number of files and their size."""

    files: int = 0
    size_bytes: int = 0

    def add(self, size_bytes: int) -> None:
        self.files += 1
        self.size_bytes += size_bytes


class SweepPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What goes, in this order, and what stays."""

    metadata: tuple[Deletion, ...]
    """``_metadata`` files, oldest checkpoint first: all of them go before anything else does."""
    files: tuple[Deletion, ...]
    kept: dict[Verdict, Tally]
    unregistered: tuple[ObjectInfo, ...] = ()
    """``_metadata`` files of a job of which the registry remembers no checkpoint at all: it may have lost its data, so
    the plan deletes nothing."""

    @property
    def deletions(self) -> Sequence[Deletion]:
        return (*self.metadata, *self.files)

    def batches(self, size: int) -> Iterator[Sequence[Deletion]]:
        """The deletions in order, cut so that no batch holds both a ``_metadata`` and something else."""
        for act in (self.metadata, self.files):
            for start in range(0, len(act), size):
                yield act[start : start + size]


def plan_sweep(
    facts: JobFacts,
    referenced: AbstractSet[str],
    listing: Iterable[ObjectInfo],
    *,
    now_ms: int,
    grace_age_ms: int,
    purge: bool = False,
) -> SweepPlan:
    """Classify every file of the job's prefix. ``referenced``: every path that a manifest which ``facts`` name needs.

    ``now_ms`` is wall-clock time, as ``ObjectInfo.modified_ms`` is. ``purge``: the user wants the ended job gone, so
    there is no grace, and no doubt about a registry that remembers nothing.
    """
    classifier = _Classifier(facts, referenced, now_ms - grace_age_ms, purge)
    metadata: list[_Candidate] = []
    files: list[_Candidate] = []
    standing: dict[CheckpointId, Verdict] = {}
    unregistered: list[ObjectInfo] = []
    kept: dict[Verdict, Tally] = {}
    for item in listing:
        path = parse_storage_path(item.path)
        verdict = classifier.verdict(item, path)
        if path is not None and verdict.deletes:
            deletion = Deletion(item.path, item.size_bytes, item.modified_ms, verdict)
            (metadata if path.is_metadata else files).append(_Candidate(path.checkpoint, deletion))
        else:
            kept.setdefault(verdict, Tally()).add(item.size_bytes)
        if path is not None and path.is_metadata:
            if verdict in (Verdict.KEEP_IN_PROGRESS, Verdict.KEEP_YOUNG):
                standing[path.checkpoint] = verdict
            if classifier.is_unregistered(path):
                unregistered.append(item)
    if unregistered:
        return SweepPlan(metadata=(), files=(), kept=kept, unregistered=tuple(unregistered))

    # While a _metadata stays, so do the files that were written for it.
    for candidate in files:
        if candidate.checkpoint in standing:
            kept.setdefault(standing[candidate.checkpoint], Tally()).add(candidate.deletion.size_bytes)
    files = [candidate for candidate in files if candidate.checkpoint not in standing]
    return SweepPlan(
        metadata=_oldest_first(metadata),
        files=_oldest_first(files),
        kept=kept,
    )


def abandoned_uploads(
    facts: JobFacts, uploads: Iterable[UnfinishedUpload], *, now_ms: int, grace_age_ms: int, purge: bool = False
) -> tuple[UnfinishedUpload, ...]:
    """Which of the unfinished uploads below the job's prefix to abort; the arguments are those of ``plan_sweep``."""
    classifier = _Classifier(facts, frozenset(), now_ms - grace_age_ms, purge)
    return tuple(upload for upload in uploads if classifier.is_abandoned(upload))


class _Candidate(NamedTuple):
    checkpoint: CheckpointId
    deletion: Deletion


def _oldest_first(candidates: list[_Candidate]) -> tuple[Deletion, ...]:
    candidates.sort()
    return tuple(candidate.deletion for candidate in candidates)


class _Classifier:
    def __init__(self, facts: JobFacts, referenced: AbstractSet[str], young_from_ms: int, purge: bool) -> None:
        self._facts = facts
        self._needed = referenced | {record.metadata_path for record in facts.retained}
        self._subsumed = facts.completed - {record.checkpoint for record in facts.retained}
        self._oldest_remembered = min(facts.completed, default=facts.last_checkpoint)
        self._young_from_ms = young_from_ms
        self._purge = purge

    def verdict(self, item: ObjectInfo, path: StoragePath | None) -> Verdict:
        if item.path in self._needed:
            return Verdict.KEEP_REFERENCED
        if path is None or path.job != self._facts.record.job:
            return Verdict.KEEP_FOREIGN
        if not self._facts.is_decided(path):
            return Verdict.KEEP_IN_PROGRESS
        checkpoint = path.checkpoint
        if checkpoint in self._subsumed:
            return Verdict.DELETE_SUBSUMED
        is_completed = checkpoint in self._facts.completed
        is_discarded = checkpoint in self._facts.discarded and not is_completed
        if item.modified_ms > self._young_from_ms and not (is_discarded or self._purge):
            return Verdict.KEEP_YOUNG
        if is_discarded or (checkpoint > self._oldest_remembered and not is_completed):
            return Verdict.DELETE_ABORTED
        return Verdict.DELETE_ORPHAN

    def is_abandoned(self, upload: UnfinishedUpload) -> bool:
        """Aborting an upload can break nothing that counts: at worst a checkpoint that is under way fails."""
        path = parse_storage_path(upload.path)
        if path is None:
            return upload.started_ms <= self._young_from_ms - _ABANDONED_AFTER_MS
        is_old = upload.started_ms <= self._young_from_ms or self._purge
        return is_old and path.job == self._facts.record.job and self._facts.is_decided(path)

    def is_unregistered(self, path: StoragePath) -> bool:
        """The storage holds a checkpoint of a job of which the registry remembers none."""
        facts = self._facts
        remembers_nothing = not facts.retained and not facts.completed and not self._purge
        return remembers_nothing and path.checkpoint > facts.record.base_checkpoint_id
