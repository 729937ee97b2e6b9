"""What a job leaves in Kafka besides the logs of its exchanges: open transactions, groups, logs that nobody reads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from moorage.cleaner.classify import JobFacts
from moorage.cleaner.trim import ExchangeStarts
from moorage.graph.job_graph import OperatorKind
from moorage.messages.registry import JobRecord
from moorage.naming import commits_topic, exchange_topic, is_job_topic, source_group, transactional_id


def transactional_ids(record: JobRecord) -> Sequence[str]:
    """Every id under which a sink of this life of the job may have left a transaction open.

    The ids themselves Kafka forgets when they have not been used for a week (``transactional.id.expiration.ms``).
    """
    return [
        transactional_id(record.job, vertex.operators[0].uid, parallelism, subtask)
        for vertex in record.graph.vertices
        if vertex.is_committer
        for parallelism in sorted({vertex.parallelism, *record.former_parallelism.get(vertex.vertex, ())})
        for subtask in range(parallelism)
    ]


def source_groups(record: JobRecord) -> Sequence[str]:
    """The groups that its sources committed to, for lag tools."""
    return [
        source_group(record.job, operator.uid)
        for vertex in record.graph.vertices
        for operator in vertex.operators
        if operator.kind is OperatorKind.SOURCE
    ]


def void_topics(facts: JobFacts, topics: Iterable[str], retained: Sequence[ExchangeStarts]) -> Sequence[str]:
    """Exchange topics of the job of which nothing that is there now will be read: the job has ended and no checkpoint
    of it is retained, or an earlier life of its name had an exchange that the present graph does not have.

    ``retained``: as in ``trim_offsets``. Why that is safe stands in the package's docstring.
    """
    record = facts.record
    exchanges = {topic for topic in topics if is_job_topic(record.job, topic) and topic != commits_topic(record.job)}
    checkpoints = [known for known in facts.retained if known.kind == "checkpoint"]
    if not checkpoints:
        return sorted(exchanges) if record.status.has_ended else []
    if any(known.checkpoint <= record.base_checkpoint_id for known in checkpoints):
        return []
    read = {exchange.exchange for exchange in record.graph.exchanges}.union(*retained)
    return sorted(exchanges - {exchange_topic(record.job, exchange) for exchange in read})
