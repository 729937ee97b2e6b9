"""From a graph that a client sends to a job that is stored. The client is answered when it can't be lost any more."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import msgspec

from moorage.cluster.protocol import JobAccepted, Refusal, Refused, SubmitJob
from moorage.effects import CallError, CallFailure, CreateTopics, Effects, JobHistory, ReadJob, SaveJob
from moorage.graph.job_graph import JobGraph
from moorage.ids import JobId
from moorage.messages.registry import JobRecord, JobStatus
from moorage.naming import commits_topic, exchange_topic
from moorage.ports import TopicSpec

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
        self._stored = stored
        self._ended = ended
        effects.call(ReadJob(job=request.graph.job), self._create_topics, self._refuse)

    def _create_topics(self, earlier: JobHistory) -> None:
        self._effects.call(CreateTopics(specs=topics_of(self._graph)), partial(self._save, earlier), self._refuse)

    def _save(self, earlier: JobHistory, _: None) -> None:
        record = JobRecord(
            job=self._graph.job,
            graph=self._graph,
            status=JobStatus.CREATED,
            attempt=earlier.last_attempt,
            submitted_ms=self._effects.wall_ms,
            base_checkpoint_id=earlier.last_checkpoint_id,
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
