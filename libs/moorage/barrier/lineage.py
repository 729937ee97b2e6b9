"""Which channels exist in which part of a job's history.

A job carries its lineage: (attempt, checkpoint at which it ended) for every attempt that contributed something, then
the running attempt (design, section 6). Of a channel (partition, producer) the frames of segment (a, n) count up to the
barrier n which that producer sent in attempt a; then the next segment's count. Every other frame is void: written by a
zombie, or after the barrier that a restart went back to.

Why this needs no order between channels: an attempt is deployed after the checkpoint that it starts from is complete,
and a checkpoint is complete only when all its barriers are stored. So in every partition the frames of a later segment
lie behind all the end barriers of the earlier ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from moorage.graph.job_graph import Exchange, ExchangeKind
from moorage.ids import Attempt, CheckpointId, VertexId
from moorage.messages.registry import LineageSegment
from moorage.state.key_groups import owner_of

BEFORE_FIRST = CheckpointId(0)


def producers_of(exchange: Exchange, partition: int, segment: LineageSegment) -> Sequence[int]:
    """The producer subtasks that write to a partition in a segment; none when the exchange did not exist then."""
    parallelism = segment.parallelism.get(exchange.producer, 0)
    if parallelism == 0 or exchange.consumer not in segment.parallelism:
        return ()
    if exchange.kind is ExchangeKind.FORWARD:
        return (owner_of(partition, exchange.partitions, parallelism),)
    return range(parallelism)


def next_lineage(
    lineage: Sequence[LineageSegment],
    restored: tuple[CheckpointId, Attempt] | None,
    attempt: Attempt,
    parallelism: Mapping[VertexId, int],
    needed_after: CheckpointId = BEFORE_FIRST,
) -> tuple[LineageSegment, ...]:
    """The lineage of a new attempt that starts from checkpoint ``restored`` (its id and its attempt).

    ``lineage`` is that of the attempt before. Segments that end at or before ``needed_after`` are left out: every sink
    has committed beyond them.
    """
    running = LineageSegment(attempt, None, dict(parallelism))
    if restored is None:
        return (running,)
    checkpoint, origin = restored
    kept = [s for s in lineage if s.attempt < origin and s.end is not None and s.end > needed_after]
    source = next((s for s in lineage if s.attempt == origin), None)
    if source is not None and checkpoint > needed_after:
        kept.append(LineageSegment(origin, checkpoint, source.parallelism))
    return (*kept, running)
