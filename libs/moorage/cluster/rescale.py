"""Another parallelism for a running job (Flink: AdaptiveScheduler, JobResourceRequirements).

A rescale moves ownership of key groups and never data (design, section 4): a checkpoint is taken, the attempt ends, the
next one goes on from it with other numbers of subtasks. When the attempt fails before that checkpoint is complete, the
next one has the new parallelism all the same.

A job with automatic parallelism takes what there is: more slots once the workers that joined have settled, fewer when
it waits for slots that don't come.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from moorage.checkpoint.coordinator import CheckpointCoordinator
from moorage.checkpoint.decider import CheckpointRequest
from moorage.checkpoint.notices import CheckpointDone, CheckpointFailed
from moorage.cluster.protocol import JobAccepted, Refusal, Refused, RescaleRequested
from moorage.cluster.scheduler import SlotPool
from moorage.effects import Effects
from moorage.graph.job_graph import JobGraph, JobVertex
from moorage.graph.restorable import bound_vertex
from moorage.ids import JobId, OperatorId, VertexId
from moorage.messages.registry import JobRecord, JobStatus


class Rescale(NamedTuple):
    """What the next attempt will have; ``request``: whom to tell, None: nobody asked."""

    graph: JobGraph
    request: int | None
    automatic: bool


class Scaling:
    """The rescale of one job that is under way, if any. ``restart(delay_ms, reason)`` ends the attempt."""

    def __init__(
        self,
        effects: Effects,
        pool: SlotPool,
        job: JobId,
        checkpoints: CheckpointCoordinator,
        restart: Callable[[int, str], None],
    ) -> None:
        self._effects = effects
        self._pool = pool
        self._job = job
        self._checkpoints = checkpoints
        self._restart = restart
        self._rescale: Rescale | None = None
        self._waits_for_checkpoint = False

    def request(self, request: RescaleRequested, graph: JobGraph, status: JobStatus) -> None:
        wanted = requested_parallelism(request, graph, self._pool.reachable(self._job))
        if isinstance(wanted, str):
            self._refuse(request.request, Refusal.INVALID, wanted)
        elif self._rescale is not None:
            self._refuse(request.request, Refusal.CONFLICT, f"job {self._job} is being rescaled already")
        elif status not in (JobStatus.CREATED, JobStatus.RUNNING, JobStatus.RESTARTING):
            self._refuse(request.request, Refusal.CONFLICT, f"job {self._job} is {status.value}")
        elif not graph.checkpoint.enabled:
            reason = f"job {self._job} takes no checkpoints that it could go on from: submit it anew"
            self._refuse(request.request, Refusal.CONFLICT, reason)
        elif self._checkpoints.is_stopping:
            self._refuse(request.request, Refusal.CONFLICT, f"job {self._job} is being stopped with a savepoint")
        else:
            rescale = Rescale(graph.with_parallelism(wanted), request.request, request.automatic)
            self._begin(rescale, status)

    def tick(self, record: JobRecord, status: JobStatus) -> None:
        """Automatic parallelism: is it time for another one?"""
        now_ms = self._effects.now_ms
        is_free = self._rescale is None and not self._checkpoints.is_stopping
        if not record.automatic_parallelism or not is_free or self._pool.is_settling(now_ms):
            return
        present = record.graph.slots
        parallelism = automatic_parallelism(record.graph, self._pool.reachable(self._job))
        if (status is JobStatus.RUNNING and parallelism > present) or (
            status is JobStatus.RESTARTING and parallelism < present
        ):
            graph = record.graph.with_parallelism(dict.fromkeys(record.graph.parallelism(), parallelism))
            self._begin(Rescale(graph, None, automatic=True), status)

    def _begin(self, rescale: Rescale, status: JobStatus) -> None:
        self._rescale = rescale
        if status is JobStatus.RUNNING:
            self._waits_for_checkpoint = True
            self._checkpoints.request(CheckpointRequest(on_done=self._checkpointed))

    def _checkpointed(self, outcome: CheckpointDone | CheckpointFailed) -> None:
        rescale = self._rescale
        if rescale is None or not self._waits_for_checkpoint:
            return
        self._waits_for_checkpoint = False
        if isinstance(outcome, CheckpointDone):
            parallelism = ", ".join(f"{vertex} {count}" for vertex, count in rescale.graph.parallelism().items())
            self._restart(0, f"goes on from checkpoint {outcome.checkpoint} with parallelism: {parallelism}")
        elif not outcome.reason.ends_attempt:
            self._rescale = None
            if rescale.request is not None:
                self._effects.reply(rescale.request, outcome)

    # --- the next attempt --------------------------------------------------------------------------------------------

    def restores(self, present: JobGraph, partly_finished: frozenset[OperatorId]) -> None:
        """The next attempt goes on from a checkpoint in which some subtasks of these operators had finished."""
        rescale = self._rescale
        vertex = None if rescale is None else bound_vertex(present, rescale.graph, partly_finished)
        if rescale is None or vertex is None:
            return
        self._rescale = None
        if rescale.request is not None:
            message = f"job {self._job} is about to finish: {what_binds(vertex)}"
            self._refuse(rescale.request, Refusal.CONFLICT, message)

    def next_graph(self, present: JobGraph) -> JobGraph:
        return present if self._rescale is None else self._rescale.graph

    def is_automatic(self, present: bool) -> bool:
        return present if self._rescale is None else self._rescale.automatic

    def started(self) -> None:
        """An attempt with ``next_graph`` is stored."""
        rescale, self._rescale = self._rescale, None
        if rescale is not None and rescale.request is not None:
            self._effects.reply(rescale.request, JobAccepted(self._job))

    def ended(self, status: JobStatus) -> None:
        """The job has ended before."""
        rescale, self._rescale = self._rescale, None
        if rescale is not None and rescale.request is not None:
            self._refuse(rescale.request, Refusal.CONFLICT, f"job {self._job} has ended: it is {status.value}")

    def _refuse(self, request: int, refusal: Refusal, message: str) -> None:
        self._effects.reply(request, Refused(refusal, message))


def requested_parallelism(request: RescaleRequested, graph: JobGraph, slots: int) -> dict[VertexId, int] | str:
    """The parallelism of every vertex, or what is wrong with the request. ``slots``: that the job could have."""
    known = {vertex.vertex for vertex in graph.vertices}
    if unknown := sorted(request.vertices.keys() - known):
        return f"job {graph.job} has no vertex {unknown[0]!r}; it has {', '.join(sorted(known))}"
    default = automatic_parallelism(graph, slots) if request.automatic else request.parallelism
    if default is None and not request.vertices:
        return "say which parallelism: of all vertices, of some by name, or automatic"
    wanted = {
        vertex.vertex: request.vertices.get(vertex.vertex, vertex.parallelism if default is None else default)
        for vertex in graph.vertices
    }
    for vertex, parallelism in wanted.items():
        if not 1 <= parallelism <= graph.max_parallelism:
            return (
                f"parallelism {parallelism} of vertex {vertex} must be between 1 and max_parallelism"
                f" {graph.max_parallelism}"
            )
    needed = max(wanted.values())
    if needed > slots:
        return f"{needed} slots are needed, and there are {slots} for job {graph.job}: add workers first"
    return wanted


def what_binds(vertex: JobVertex) -> str:
    """About a ``bound_vertex``."""
    return (
        f"some subtasks of {vertex.name} have done so already, and the others go on with parallelism"
        f" {vertex.parallelism}"
    )


def automatic_parallelism(graph: JobGraph, slots: int) -> int:
    """What a job that takes all it can get takes of ``slots``."""
    return max(1, min(slots, graph.max_parallelism))


def with_former(
    former: dict[VertexId, tuple[int, ...]], parallelism: dict[VertexId, int]
) -> dict[VertexId, tuple[int, ...]]:
    """``former`` with what an attempt has: transactional ids name the parallelism, and all of them must be fenced."""
    return {vertex: tuple(sorted({*former.get(vertex, ()), count})) for vertex, count in parallelism.items()}
