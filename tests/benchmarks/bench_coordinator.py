"""How the coordinator's core scales with the number of subtasks::

    python -m tests.benchmarks.bench_coordinator [--subtasks 100,1000,10000] [--checkpoints 5]

The whole core takes part: events come as Avro, are decoded and handled; its calls are carried out at once on a registry
and a storage in memory, so what is measured is the core, Avro and the encoding of ``_metadata``. Each acknowledgement
carries one operator with a handle of keyed state and one without. One thread; times are those of the CPU, the best of
the rounds, so that other work on the machine counts little.
"""

from __future__ import annotations

import argparse
import gc
import os
import time
import tracemalloc
from typing import NamedTuple

import msgspec
from rich.console import Console
from rich.table import Table
from tests.unit.cluster.graphs import JOB, SOURCE, TOTALS, orders_graph
from tests.unit.cluster.world import acknowledgement

from moorage.cluster.coordinator import CoordinatorCore
from moorage.cluster.protocol import (
    CallFinished,
    CheckpointRequested,
    ClusterConfig,
    CoreEvent,
    Received,
    SubmitJob,
    Tick,
)
from moorage.coordinator_process.calls import run_call
from moorage.effects import Call, Reply
from moorage.graph.job_graph import CheckpointConfig, JobGraph
from moorage.ids import Attempt, CheckpointId, Epoch, SubtaskId, VertexId, WorkerId
from moorage.messages.events import RunningSubtask, SubtaskState, WorkerHeartbeat
from moorage.serde import control
from moorage.testing.clocks import ManualClock
from moorage.testing.memory_log import MemoryCluster, MemoryLog
from moorage.testing.memory_registry import MemoryRegistry
from moorage.testing.memory_storage import MemoryStorage

WORKER = WorkerId("w1/1")


class Round(NamedTuple):
    acknowledgements_s: float
    """All but the last."""
    completion_s: float
    """From the last one to completed."""


class Cluster:
    """A leader with one worker that runs everything."""

    def __init__(self, graph: JobGraph) -> None:
        clock = ManualClock()
        self.graph = graph
        self.replies: list[object] = []
        self._registry = MemoryRegistry(clock)
        self._storage = MemoryStorage(clock)
        self._log = MemoryLog(MemoryCluster(clock), "bench")
        self._core = CoordinatorCore("bench", ClusterConfig(), lambda: 0.0)
        self._now_ms = 0
        for _ in range(3):
            self.tick(1_000)
        self.hear(())
        self.tick(2_000)
        self.handle(SubmitJob(1, graph))
        self.tick(2_000)
        subtasks = [
            RunningSubtask(job=JOB, attempt=Attempt(1), vertex=vertex.vertex, subtask=index, state=SubtaskState.RUNNING)
            for vertex in graph.vertices
            for index in range(vertex.parallelism)
        ]
        self.hear(tuple(subtasks))

    def tick(self, ms: int) -> None:
        self._now_ms += ms
        self.handle(Tick(self._now_ms, self._now_ms))

    def hear(self, subtasks: tuple[RunningSubtask, ...]) -> None:
        heartbeat = WorkerHeartbeat(
            worker=WORKER, epoch=Epoch(1), slots=self.graph.slots, subtasks=subtasks, sent_ms=self._now_ms
        )
        self.handle(Received(heartbeat))

    def handle(self, event: CoreEvent) -> None:
        for action in self._core.handle(event):
            match action:
                case Call(number, operation):
                    result = run_call(operation, registry=self._registry, storage=self._storage, log=self._log)
                    self.handle(CallFinished(number, result))
                case Reply(result=result):
                    self.replies.append(result)
                case _:
                    pass

    def completed(self) -> list[CheckpointId]:
        return [record.checkpoint for record in self._registry.checkpoints(JOB)]


def graph_of(subtasks: int) -> JobGraph:
    """Half of them sources, half keyed; each has two key groups, so acknowledgements are of one size."""
    graph = orders_graph(
        subtasks // 2, with_sink=False, checkpoint=CheckpointConfig(interval_ms=0, timeout_ms=3_600_000)
    )
    exchanges = tuple(msgspec.structs.replace(e, partitions=subtasks) for e in graph.exchanges)
    return msgspec.structs.replace(graph, max_parallelism=subtasks, exchanges=exchanges)


def acknowledgements(graph: JobGraph, checkpoint: CheckpointId) -> list[bytes]:
    subtasks = [SubtaskId(vertex, n) for vertex in (SOURCE, TOTALS) for n in range(parallelism(graph, vertex))]
    return [control.encode(acknowledgement(graph, WORKER, Attempt(1), s, checkpoint)) for s in subtasks]


def parallelism(graph: JobGraph, vertex: VertexId) -> int:
    return graph.vertex(vertex).parallelism


def measure(cluster: Cluster, checkpoint: CheckpointId) -> Round:
    *most, last = acknowledgements(cluster.graph, checkpoint)
    cluster.tick(1)
    cluster.handle(CheckpointRequested(100 + checkpoint, JOB))
    started_s = time.process_time()
    for data in most:
        cluster.handle(Received(control.decode(data, control.EVENTS)))
    acknowledged_s = time.process_time()
    cluster.handle(Received(control.decode(last, control.EVENTS)))
    completed_s = time.process_time()
    if checkpoint not in cluster.completed():
        raise SystemExit(f"checkpoint {checkpoint} is not complete: {cluster.replies[-1]}")
    return Round(acknowledged_s - started_s, completed_s - acknowledged_s)


def memory_bytes(subtasks: int) -> int:
    """What one pending checkpoint holds, all but its last acknowledgement in."""
    cluster = Cluster(graph_of(subtasks))
    measure(cluster, CheckpointId(1))
    *most, _ = acknowledgements(cluster.graph, CheckpointId(2))
    cluster.handle(CheckpointRequested(7, JOB))
    gc.collect()
    tracemalloc.start()
    for data in most:
        cluster.handle(Received(control.decode(data, control.EVENTS)))
    gc.collect()
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return held


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subtasks", default="100,1000,10000")
    parser.add_argument("--checkpoints", type=int, default=5)
    arguments = parser.parse_args()
    table = Table("subtasks", "acknowledgements/s", "us each", "last to completed", "pending checkpoint holds")
    for subtasks in map(int, arguments.subtasks.split(",")):
        cluster = Cluster(graph_of(subtasks))
        # Small jobs get more rounds, so that each figure rests on as many acknowledgements.
        count = max(arguments.checkpoints, 10_000 // subtasks)
        rounds = [measure(cluster, CheckpointId(n)) for n in range(1, count + 1)]
        each_s = min(r.acknowledgements_s for r in rounds) / (subtasks - 1)
        completion_ms = min(r.completion_s for r in rounds) * 1_000
        table.add_row(
            f"{subtasks:,}",
            f"{1 / each_s:,.0f}",
            f"{each_s * 1e6:.1f}",
            f"{completion_ms:,.1f} ms",
            f"{memory_bytes(subtasks) / 1e6:,.1f} MB",
        )
    load = os.getloadavg()
    Console().print(table, f"load average {load[0]:.1f} {load[1]:.1f} {load[2]:.1f} on {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
