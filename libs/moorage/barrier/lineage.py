"""Which channels exist in which part of a job's history.

A job carries its lineage: (attempt, checkpoint at which it ended) for every attempt that contributed something, then
the running attempt (design, section 6). Of a channel (partition, producer) the frames of segment (a, n) count up to the
barrier n which that producer sent in attempt a; then the next segment's count. Every other frame is void: written by a
zombie, or after the barrier that a restart went back to. An exchange lies within one region, all of whose vertices are
started together, so both its ends have the same segments (``graph.lineage``).

Why this needs no order between channels: an attempt is deployed after the checkpoint that it starts from is complete,
and a checkpoint is complete only when all its barriers are stored. So in every partition the frames of a later segment
lie behind all the end barriers of the earlier ones.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from moorage.graph.job_graph import Exchange, ExchangeKind
from moorage.graph.lineage import lineage_of, segment_with
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
    goes_on: Collection[VertexId] = (),
) -> tuple[LineageSegment, ...]:
    """The lineage of a new attempt that starts from checkpoint ``restored`` (its id and its attempt).

    ``lineage`` is that of the attempt before. Segments that end at or before ``needed_after`` are left out: every sink
    has committed beyond them. ``goes_on``: vertices that are not started again; their last segments stay open.
    """
    vertices: dict[tuple[Attempt, CheckpointId | None], dict[VertexId, int]] = {}
    for vertex, count in parallelism.items():
        former = lineage_of(lineage, vertex)
        if vertex in goes_on:
            segments = [s for s in former if s.end is None or s.end > needed_after]
        else:
            segments = [] if restored is None else _ended(former, *restored, needed_after)
            segments.append(LineageSegment(attempt, None, {vertex: count}))
        for segment in segments:
            vertices.setdefault((segment.attempt, segment.end), {})[vertex] = segment.parallelism[vertex]
    order = sorted(vertices, key=lambda key: (key[0], key[1] is None, key[1] or 0))
    return tuple(LineageSegment(*key, vertices[key]) for key in order)


def _ended(
    segments: Sequence[LineageSegment], checkpoint: CheckpointId, origin: Attempt, needed_after: CheckpointId
) -> list[LineageSegment]:
    """What counts of a vertex's segments when it goes back to a checkpoint."""
    source = segment_with(segments, checkpoint, origin)
    before = origin if source is None else source.attempt
    kept = [s for s in segments if s.attempt < before and s.end is not None and s.end > needed_after]
    if source is not None and checkpoint > needed_after:
        kept.append(LineageSegment(source.attempt, checkpoint, source.parallelism))
    return kept
