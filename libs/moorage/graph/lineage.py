"""What a job's lineage says of one vertex.

A segment is of the vertices that it names. Vertices that restarted together share theirs; a region that went on while
others restarted has the segment still that it had before (``graph.regions``). So each vertex has an attempt of its own:
that in which it was started last.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from moorage.ids import Attempt, CheckpointId, VertexId
from moorage.messages.registry import LineageSegment


def lineage_of(lineage: Sequence[LineageSegment], vertex: VertexId) -> tuple[LineageSegment, ...]:
    """The segments of a vertex, oldest first; the last one is the attempt in which it runs."""
    return tuple(segment for segment in lineage if vertex in segment.parallelism)


def running_attempts(lineage: Sequence[LineageSegment]) -> Mapping[VertexId, Attempt]:
    """The attempt in which each vertex runs."""
    return {v: segment.attempt for segment in lineage if segment.end is None for v in segment.parallelism}


def segment_with(
    segments: Sequence[LineageSegment], checkpoint: CheckpointId, attempt: Attempt
) -> LineageSegment | None:
    """Which of a vertex's segments a checkpoint lies in that was completed in an ``attempt`` of the job; None: none of
    those that are left."""
    segment = next((s for s in reversed(segments) if s.attempt <= attempt), None)
    # The vertex may have run in an older attempt then; but if that had ended before, the right segment is gone.
    is_over = segment is not None and segment.end is not None and segment.end < checkpoint
    return None if segment is None or (is_over and segment.attempt < attempt) else segment
