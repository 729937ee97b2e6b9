"""The parts of a job that no exchange connects (Flink: SchedulingPipelinedRegion, at the level of vertices).

No record, barrier or position passes from one region to another. So a region can go back to a checkpoint on its own.
"""

from __future__ import annotations

from collections.abc import Sequence

from moorage.graph.job_graph import JobGraph
from moorage.ids import VertexId


def regions(graph: JobGraph) -> Sequence[frozenset[VertexId]]:
    """Every vertex is in one of them; in the order of their first vertices."""
    region_of = {vertex.vertex: frozenset({vertex.vertex}) for vertex in graph.vertices}
    for exchange in graph.exchanges:
        joined = region_of[exchange.producer] | region_of[exchange.consumer]
        region_of.update(dict.fromkeys(joined, joined))
    return list(dict.fromkeys(region_of.values()))
