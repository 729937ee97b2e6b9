"""How far the exactly-once sinks have committed.

Commits are durable, so what was committed once stays committed: the floor never falls, also over restarts, when it is
not known anew until every subtask has reported.
"""

from __future__ import annotations

from collections.abc import Collection

from moorage.graph.job_graph import JobGraph
from moorage.ids import CheckpointId, SubtaskId, VertexId


class SinkCommits:
    def __init__(self, graph: JobGraph) -> None:
        self._sinks = _sinks(graph)
        self._committed: dict[SubtaskId, CheckpointId] = {}
        self._slowest: set[SubtaskId] = set()
        """Once all have reported: those at the lowest checkpoint. When none is left the floor rises, so a commit costs
        the same whatever the number of sinks."""
        self.floor: CheckpointId | None = None
        """Every sink subtask has committed up to this checkpoint; None: not known. Meaningless without such sinks."""
        self.last_committed_ms: int | None = None
        """Wall clock of the newest commit."""

    @property
    def has_sinks(self) -> bool:
        return bool(self._sinks)

    def restarted(self, graph: JobGraph, goes_on: Collection[VertexId] = ()) -> None:
        """Another attempt: its subtasks may be others, of another number, but for those of vertices that go on."""
        self._sinks = _sinks(graph)
        self._committed = {sink: known for sink, known in self._committed.items() if sink.vertex in goes_on}
        self._slowest.clear()

    def committed(self, sink: SubtaskId, checkpoint: CheckpointId, committed_ms: int) -> bool:
        """Take note of a SinkCommitted; True when the floor rose."""
        if sink not in self._sinks or checkpoint <= self._committed.get(sink, -1):
            return False
        self._committed[sink] = checkpoint
        self.last_committed_ms = max(committed_ms, self.last_committed_ms or 0)
        self._slowest.discard(sink)
        if self._slowest or len(self._committed) < len(self._sinks):
            return False
        lowest = min(self._committed.values())
        self._slowest = {sink for sink, committed in self._committed.items() if committed == lowest}
        if self.floor is not None and lowest <= self.floor:
            return False
        self.floor = lowest
        return True

    def validate(self) -> None:
        assert self._committed.keys() <= self._sinks
        if self._slowest:
            lowest = min(self._committed.values())
            assert self._slowest == {sink for sink, committed in self._committed.items() if committed == lowest}
            assert self.floor is not None
            assert lowest <= self.floor


def _sinks(graph: JobGraph) -> frozenset[SubtaskId]:
    return frozenset(
        SubtaskId(vertex.vertex, index)
        for vertex in graph.vertices
        if vertex.is_committer
        for index in range(vertex.parallelism)
    )
