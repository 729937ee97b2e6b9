"""From a graph that a client sends to a job that is stored. The client is answered when it can't be lost any more."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import msgspec

from moorage.cleaner.retention import CheckpointRetention, is_discarded
from moorage.cluster.protocol import JobAccepted, Refusal, Refused, SubmitJob
from moorage.cluster.rescale import what_binds
from moorage.effects import (
    CallError,
    CallFailure,
    CreateTopics,
    Effects,
    FoundSavepoint,
    JobHistory,
    ReadJob,
    ReadSavepoint,
    SaveJob,
)
from moorage.errors import StateError
from moorage.graph.job_graph import JobGraph
from moorage.graph.restorable import bound_vertex, check_restorable
from moorage.ids import JobId, OperatorId
from moorage.messages.registry import JobRecord, JobStatus, RestoreMode, RestoreSettings
from moorage.naming import commits_topic, exchange_topic, folder_of
from moorage.ports import TopicSpec
from moorage.state.places import check_places

SEGMENT_BYTES = 64 << 20
"""A log is trimmed by whole segments: small ones keep little that nobody needs."""

_EXCHANGE_CONFIG = {
    "cleanup.policy": "delete",
    "retention.ms": "-1",  # Nothing is deleted by age: the cleaner trims what no checkpoint needs.
    "retention.bytes": "-1",
    "segment.bytes": str(SEGMENT_BYTES),
}
_COMMITS_CONFIG = {"cleanup.policy": "compact", "segment.bytes": str(1 << 20)}


def topics_of(graph: JobGraph) -> tuple[TopicSpec, ...]:
    """The topics that a job owns."""
    exchanges = [
        TopicSpec(exchange_topic(graph.job, exchange.exchange), exchange.partitions, _EXCHANGE_CONFIG)
        for exchange in graph.exchanges
    ]
    commits = [TopicSpec(commits_topic(graph.job), graph.max_parallelism, _COMMITS_CONFIG)]
    return (*exchanges, *commits)


class Submission:
    """One job on its way: read what an earlier job of its name left, create its topics, store it.

    ``stored`` is called with the job as stored, before the client is answered; ``ended`` in any case.
    """

    def __init__(
        self,
        effects: Effects,
        request: SubmitJob,
        *,
        stored: Callable[[JobHistory], None],
        ended: Callable[[JobId], None],
    ) -> None:
        self._effects = effects
        self._request = request.request
        self._graph = request.graph
        self._from = request.restore
        self._first_only = request.first_only
        self._restore: RestoreSettings | None = None
        self._partly_finished: frozenset[OperatorId] = frozenset()
        self._stored = stored
        self._ended = ended
        effects.call(ReadJob(job=request.graph.job), self._read_savepoint, self._refuse)

    def _read_savepoint(self, earlier: JobHistory) -> None:
        if self._first_only and earlier.last_attempt > 0:
            detail = "a job of this name ran before and has ended; `moorage submit` starts it again"
            self._refuse(CallError(CallFailure.REFUSED, detail))
        elif self._from is None:
            self._create_topics(earlier)
        else:
            self._effects.call(ReadSavepoint(path=self._from.path), partial(self._check, earlier), self._refuse)

    def _check(self, earlier: JobHistory, found: FoundSavepoint) -> None:
        assert self._from is not None
        try:
            check_places(found.metadata, folder_of(found.path))
            check_restorable(found.metadata, self._graph, allow_non_restored=self._from.allow_non_restored)
        except StateError as error:
            self._refuse(CallError(CallFailure.REFUSED, f"{found.path} can't be restored: {error}"))
            return
        self._restore = RestoreSettings(
            path=found.path,
            checksum=found.checksum,
            checkpoint=found.metadata.checkpoint,
            is_savepoint=found.metadata.savepoint,
            allow_non_restored=self._from.allow_non_restored,
            mode=self._from.mode,
        )
        self._partly_finished = found.metadata.partly_finished
        self._create_topics(earlier)

    def _create_topics(self, earlier: JobHistory) -> None:
        topics = CreateTopics(specs=topics_of(self._graph), fresh=earlier.last_attempt == 0)
        self._effects.call(topics, partial(self._save, earlier), self._refuse)

    def _save(self, earlier: JobHistory, _: None) -> None:
        if self._restore is not None and (former := resumable(earlier, self._graph, self._restore.path)) is not None:
            if (vertex := bound_vertex(former.graph, self._graph, self._partly_finished)) is not None:
                detail = f"it was about to finish when it ended: {what_binds(vertex)}"
                self._refuse(CallError(CallFailure.REFUSED, detail))
                return
            record = _resumed(former, self._graph, self._effects.wall_ms)
        else:
            record = JobRecord(
                job=self._graph.job,
                graph=self._graph,
                status=JobStatus.CREATED,
                attempt=earlier.last_attempt,
                submitted_ms=self._effects.wall_ms,
                base_checkpoint_id=earlier.last_checkpoint_id,
                restore=self._restore,
            )
        history = msgspec.structs.replace(earlier, record=record)
        self._effects.call(
            SaveJob(epoch=self._effects.epoch, record=record), partial(self._saved, history), self._refuse, repeats=True
        )

    def _saved(self, history: JobHistory, _: None) -> None:
        self._stored(history)
        self._ended(self._graph.job)
        self._effects.reply(self._request, JobAccepted(self._graph.job))

    def _refuse(self, error: CallError) -> None:
        self._ended(self._graph.job)
        is_unavailable = error.failure is CallFailure.UNAVAILABLE
        refusal = Refusal.UNAVAILABLE if is_unavailable else Refusal.CONFLICT
        self._effects.reply(self._request, Refused(refusal, f"job {self._graph.job} was not submitted: {error.detail}"))


def claim_problem(request: SubmitJob) -> str | None:
    """Why the job can't become the owner of what it starts from; None: it can, or need not."""
    is_claimed = request.restore is not None and request.restore.mode is RestoreMode.CLAIM
    if is_claimed and not request.graph.checkpoint.enabled:
        return "without checkpoint.enabled it never moves on from what it starts from, so it can't claim that"
    return None


def resumable(earlier: JobHistory, graph: JobGraph, path: str) -> JobRecord | None:
    """The former life of the job, if starting from ``path`` goes on with it: the newest checkpoint that an ended job
    retained, and the same operators. Then nothing has happened since that a restart would not get over: frames in
    flight and results that sinks had not committed lie in the exchanges still. A job without checkpointing goes on with
    no former life."""
    former = earlier.record
    if former is None or former.graph.fingerprint != graph.fingerprint or not graph.checkpoint.enabled:
        return None
    own = [record for record in earlier.checkpoints if record.checkpoint > former.base_checkpoint_id]
    restartable = [record for record in own if record.kind == "checkpoint" or record.ends_as is not None]
    newest = max(restartable, key=lambda record: record.checkpoint, default=None)
    if newest is None or newest.kind != "checkpoint" or newest.metadata_path != path:
        return None
    if is_discarded(newest, former.status, CheckpointRetention(former.graph.checkpoint.retention)):
        return None  # Perhaps the cleaner is deleting it right now.
    return former


def _resumed(former: JobRecord, graph: JobGraph, submitted_ms: int) -> JobRecord:
    return msgspec.structs.replace(
        former,
        graph=graph,
        status=JobStatus.RESTARTING,
        submitted_ms=submitted_ms,
        slots=(),
        failure=None,
        failures=(),
        failure_times_ms=(),
        automatic_parallelism=False,
        ended_ms=None,
    )
