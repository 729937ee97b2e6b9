"""How far the exchange logs of a job may be shortened. Why that is safe stands in the package's docstring."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from moorage.cleaner.classify import JobFacts
from moorage.ids import ExchangeId, OperatorUid, TopicPartition
from moorage.naming import exchange_topic
from moorage.state.positions import CommitMarker, InputPositions

ExchangeStarts = Mapping[ExchangeId, Mapping[int, int]]
"""Per exchange and partition: where reading starts after a restore of one checkpoint."""

Markers = Mapping[tuple[OperatorUid, int], CommitMarker]
"""The newest commit marker of each sink and key group."""


def exchange_starts(vectors: Iterable[InputPositions]) -> ExchangeStarts:
    """The lowest position per partition over the consumer subtasks of one checkpoint."""
    starts: dict[ExchangeId, dict[int, int]] = {}
    for vector in vectors:
        for positions in vector.exchanges:
            merged = starts.setdefault(positions.exchange, {})
            for partition, offset in positions.start_offsets().items():
                merged[partition] = min(offset, merged.get(partition, offset))
    return starts


def trim_offsets(facts: JobFacts, retained: Sequence[ExchangeStarts], markers: Markers) -> Mapping[TopicPartition, int]:
    """Per exchange partition the oldest offset that is needed. A partition that is left out must not be cut.

    ``retained``: one entry for each of ``facts.in_the_logs``.
    """
    needed: dict[TopicPartition, int] = {}
    for exchange in facts.record.graph.exchanges:
        topic = exchange_topic(facts.record.job, exchange.exchange)
        consumer = facts.record.graph.vertex(exchange.consumer)
        for partition in range(exchange.partitions):
            if consumer.is_committer:
                # The sink is in no checkpoint; it goes on from its marker.
                starts = [_committed_start(facts, markers.get((consumer.operators[0].uid, partition)))]
            else:
                starts = [checkpoint.get(exchange.exchange, {}).get(partition) for checkpoint in retained]
            known = [start for start in starts if start is not None]
            if known and len(known) == len(starts):
                needed[TopicPartition(topic, partition)] = min(known)
    return needed


def _committed_start(facts: JobFacts, marker: CommitMarker | None) -> int | None:
    if marker is None or not marker.offsets or marker.checkpoint <= facts.record.base_checkpoint_id:
        return None
    return marker.start_offset
