"""The people of the simulation: they submit the job, rescale it, ask for savepoints, stop it and start it again.

Whatever they ask may be refused, forgotten by a coordinator that dies, or done without a word: they look at the
registry to see what came of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from moorage.cluster.protocol import (
    CheckpointRequested,
    ClientRequest,
    RescaleRequested,
    RestoreFrom,
    SavepointRequested,
    StopWithSavepointRequested,
    SubmitJob,
)
from moorage.graph.job_graph import JobGraph
from moorage.ids import VertexId
from moorage.messages.registry import JobRecord, RestoreMode
from moorage.testing.memory_registry import MemoryRegistry

PARALLELISM = (1, 2, 3)


class SimulatedClient:
    def __init__(self, rng: Random, graph: JobGraph, registry: MemoryRegistry) -> None:
        self._rng = rng
        self._graph = graph
        self._registry = registry
        self._requests = 0
        self._has_submitted = False
        self._rate = rng.choice([0.0, 0.005, 0.02])
        """Of a request per turn, while there are faults."""
        self._stop_at_ms = rng.randrange(3_500) if rng.random() < 0.25 else None
        """When the job is stopped with a savepoint, to go on from it; None: never, or it is done."""
        self._drains = rng.random() < 0.5

    @property
    def is_content(self) -> bool:
        """Nothing is left to be asked for."""
        return self._has_submitted and self._stop_at_ms is None

    def requests(self, now_ms: int, *, faults: bool) -> Iterator[ClientRequest]:
        """What is asked for now, of any coordinator."""
        if not self._registry.available or self._rng.random() > 0.2:
            return
        record = next((record for record in self._registry.jobs() if record.job == self._graph.job), None)
        self._has_submitted = self._has_submitted or record is not None
        if not self._has_submitted:
            yield SubmitJob(self._number(), self._graph)
        elif record is None or record.restore is not None:
            self._stop_at_ms = None  # it has ended by itself, or goes on already
        elif self._stop_at_ms is not None and now_ms >= self._stop_at_ms:
            yield from self._stop_and_restore(record, drain=self._drains and faults)
        elif faults and self._rng.random() < 5 * self._rate:
            yield self._something()

    def _stop_and_restore(self, record: JobRecord, *, drain: bool) -> Iterator[ClientRequest]:
        """A drain that takes too long costs what it had processed, so whoever repeats it for ever may never get there;
        a plain stop that fails costs nothing."""
        savepoint = next((c for c in self._registry.checkpoints(record.job) if c.ends_as is not None), None)
        if not record.status.is_terminal:
            if savepoint is None:
                yield StopWithSavepointRequested(request=self._number(), job=record.job, drain=drain)
        elif savepoint is None:
            self._stop_at_ms = None  # it has ended by itself
        else:
            mode = self._rng.choice(list(RestoreMode))
            yield SubmitJob(self._number(), self._graph, RestoreFrom(path=savepoint.metadata_path, mode=mode))

    def _something(self) -> ClientRequest:
        rng, job = self._rng, self._graph.job
        match rng.randrange(4):
            case 0:
                return RescaleRequested(request=self._number(), job=job, parallelism=rng.choice(PARALLELISM))
            case 1:
                vertex = VertexId(rng.choice([v.vertex for v in self._graph.vertices]))
                return RescaleRequested(request=self._number(), job=job, vertices={vertex: rng.choice(PARALLELISM)})
            case 2:
                return SavepointRequested(request=self._number(), job=job, native=rng.random() < 0.5)
            case _:
                return CheckpointRequested(self._number(), job, full=rng.random() < 0.5)

    def _number(self) -> int:
        self._requests += 1
        return self._requests
