"""What starts again after a failure (Flink: RestartPipelinedRegionFailoverStrategy, RestartAllFailoverStrategy)."""

from __future__ import annotations

from moorage.graph.execution import Execution, ExecutionState
from moorage.graph.regions import regions
from moorage.ids import SubtaskId, VertexId, WorkerId


def vertices_to_restart(
    execution: Execution, subtask: SubtaskId | None, worker: WorkerId | None
) -> frozenset[VertexId]:
    """All vertices of the regions that a failure has hit: that of ``subtask``, or of all that ran on the lost
    ``worker``; everything, when it is nobody's fault. And of those that don't run for sure: nothing can go on there."""
    graph = execution.graph
    everything = frozenset(vertex.vertex for vertex in graph.vertices)
    if graph.restart.failover == "full" or (subtask is None and worker is None):
        return everything
    hit = {subtask.vertex} if subtask is not None else {s.vertex for s in _on(execution, worker)}
    hit.update(s.vertex for s, state in execution.states() if state.is_unreported or state in _STOPPED)
    return frozenset[VertexId]().union(*(region for region in regions(graph) if region & hit)) or everything


_STOPPED = (ExecutionState.FAILED, ExecutionState.CANCELED)


def _on(execution: Execution, worker: WorkerId | None) -> list[SubtaskId]:
    return [] if worker is None else [subtask for subtask, _ in execution.on_worker(worker)]
