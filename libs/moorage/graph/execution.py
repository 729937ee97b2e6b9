"""One attempt of a job: which subtasks there are, where they run, and the state of each.

States (Flink's ExecutionState as far as a coordinator here can tell them apart):

============  ==========================================  ===========================================
state         means                                       left to
============  ==========================================  ===========================================
DEPLOYING     DeployJob was sent, nothing heard           everything below
RECONCILING   another leader deployed it, nothing heard   everything below
INITIALIZING  restores its state                          RUNNING, FINISHED, FAILED, CANCELED
RUNNING       processes                                   FINISHED, FAILED, CANCELED
FINISHED      processed its last record                   (ended)
FAILED        the attempt must end                        (ended)
CANCELED      stopped when told to                        (ended)
============  ==========================================  ===========================================

A subtask that has processed its last record stays RUNNING: it says ``data_ended`` and is FINISHED once a completed
checkpoint covers its end.

An attempt of the job need not start all vertices: those of a region that goes on while others restart are what they
were in the attempt before, and what their subtasks say carries the older attempt in which they were started.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from enum import Enum

from moorage.graph.job_graph import JobGraph
from moorage.ids import Attempt, SubtaskId, VertexId, WorkerId
from moorage.messages.events import SubtaskState


class ExecutionState(Enum):
    DEPLOYING = "DEPLOYING"
    RECONCILING = "RECONCILING"
    INITIALIZING = "INITIALIZING"
    RUNNING = "RUNNING"
    FINISHED = "FINISHED"
    FAILED = "FAILED"
    CANCELED = "CANCELED"

    @property
    def has_ended(self) -> bool:
        return self in _ENDED

    @property
    def is_running(self) -> bool:
        return self is ExecutionState.RUNNING

    @property
    def is_unreported(self) -> bool:
        return self in _UNREPORTED


_ENDED = frozenset({ExecutionState.FINISHED, ExecutionState.FAILED, ExecutionState.CANCELED})
_UNREPORTED = frozenset({ExecutionState.DEPLOYING, ExecutionState.RECONCILING})

TRANSITIONS: Mapping[ExecutionState, frozenset[ExecutionState]] = {
    ExecutionState.DEPLOYING: _ENDED | {ExecutionState.INITIALIZING, ExecutionState.RUNNING},
    ExecutionState.RECONCILING: _ENDED | {ExecutionState.INITIALIZING, ExecutionState.RUNNING},
    ExecutionState.INITIALIZING: _ENDED | {ExecutionState.RUNNING},
    ExecutionState.RUNNING: _ENDED,
    ExecutionState.FINISHED: frozenset(),
    ExecutionState.FAILED: frozenset(),
    ExecutionState.CANCELED: frozenset(),
}


class UpdateOutcome(Enum):
    """What a report about a subtask changed."""

    APPLIED = "applied"
    UNCHANGED = "unchanged"
    LATE = "late"
    """The subtask has gone on since."""
    UNKNOWN = "unknown"
    """There is no such subtask."""


class Execution:
    """See the module. Slot i runs subtask i of every vertex; ``slots[i]`` names its worker."""

    def __init__(
        self,
        graph: JobGraph,
        attempt: Attempt,
        slots: Sequence[WorkerId],
        initial: ExecutionState = ExecutionState.DEPLOYING,
        attempts: Mapping[VertexId, Attempt] | None = None,
        former: Execution | None = None,
    ) -> None:
        """``attempts``: in which each vertex was started (default: in this one). ``former``: the attempt before; what
        was not started since goes on."""
        self.graph = graph
        self.attempt = attempt
        self.slots = tuple(slots)
        self._attempts = {} if attempts is None else attempts
        self._states = {
            SubtaskId(vertex.vertex, index): initial for vertex in graph.vertices for index in range(vertex.parallelism)
        }
        self.goes_on: frozenset[VertexId] = frozenset()
        """Vertices that were not started anew."""
        if former is not None:
            self.goes_on = frozenset(v.vertex for v in graph.vertices if self.attempt_of(v.vertex) < attempt)
            self._states.update((s, state) for s, state in former.states() if s.vertex in self.goes_on)
        self._counts = Counter(self._states.values())
        self._finished_before = self._counts[ExecutionState.FINISHED]
        """Subtasks that this attempt never saw running."""
        self.version = 0
        """Grows with every change of a state."""
        self._committers = frozenset(vertex.vertex for vertex in graph.vertices if vertex.is_committer)
        self._required = Counter(state for s, state in self._states.items() if s.vertex not in self._committers)
        """States of the subtasks that take part in checkpoints."""
        self._data_ended: set[SubtaskId] = set()
        """Of these, the ones that run without input."""
        if former is not None:
            self._data_ended.update(s for s in former.data_ended if s.vertex in self.goes_on)

    def update(self, subtask: SubtaskId, reported: SubtaskState, *, data_ended: bool = False) -> UpdateOutcome:
        present = self._states.get(subtask)
        if present is None:
            return UpdateOutcome.UNKNOWN
        state = ExecutionState(reported.value)
        if state is not present and state not in TRANSITIONS[present]:
            return UpdateOutcome.LATE
        is_required = subtask.vertex not in self._committers
        if state is ExecutionState.RUNNING and data_ended and is_required:
            self._data_ended.add(subtask)
        if state is present:
            return UpdateOutcome.UNCHANGED
        self._states[subtask] = state
        self.version += 1
        self._counts[present] -= 1
        self._counts[state] += 1
        if is_required:
            self._required[present] -= 1
            self._required[state] += 1
        if state is not ExecutionState.RUNNING:
            self._data_ended.discard(subtask)
        return UpdateOutcome.APPLIED

    def cancel(self, vertices: Collection[VertexId]) -> None:
        """They are stopped: whatever still comes from their subtasks is of no interest."""
        for subtask in [s for s in self._states if s.vertex in vertices]:
            self.update(subtask, SubtaskState.CANCELED)

    def attempt_of(self, vertex: VertexId) -> Attempt:
        """In which the vertex was started, and what its subtasks call theirs."""
        return self._attempts.get(vertex, self.attempt)

    def state(self, subtask: SubtaskId) -> ExecutionState | None:
        return self._states.get(subtask)

    def worker(self, subtask: SubtaskId) -> WorkerId:
        return self.slots[subtask.subtask]

    def on_worker(self, worker: WorkerId) -> Iterator[tuple[SubtaskId, ExecutionState]]:
        """The subtasks that a worker runs."""
        for index, owner in enumerate(self.slots):
            if owner == worker:
                for vertex in self.graph.vertices:
                    if index < vertex.parallelism:
                        subtask = SubtaskId(vertex.vertex, index)
                        yield subtask, self._states[subtask]

    def states(self) -> Iterator[tuple[SubtaskId, ExecutionState]]:
        yield from self._states.items()

    def unreported(self) -> Sequence[SubtaskId]:
        """Subtasks of which nothing was heard yet."""
        if not self.has_unreported:
            return ()
        return [subtask for subtask, state in self._states.items() if state.is_unreported]

    @property
    def data_ended(self) -> Collection[SubtaskId]:
        """Those that take part in checkpoints and run without input."""
        return self._data_ended

    def count(self, state: ExecutionState) -> int:
        return self._counts[state]

    @property
    def has_unreported(self) -> bool:
        return any(self._counts[state] for state in _UNREPORTED)

    @property
    def all_running(self) -> bool:
        return self._counts[ExecutionState.RUNNING] + self._finished_before == len(self._states)

    @property
    def can_checkpoint(self) -> bool:
        """Every subtask that takes part in checkpoints is RUNNING, or FINISHED where the job allows that; an
        exactly-once sink only follows their fate.

        Once all input has ended it must be allowed: what has processed its last record waits for the final one."""
        running = self._required[ExecutionState.RUNNING]
        finished = self._required[ExecutionState.FINISHED]
        return (
            running > 0
            and running + finished == self._required.total()
            and (finished == 0 or self.graph.checkpoint.after_finish or self.input_has_ended)
        )

    @property
    def has_finished(self) -> bool:
        """A subtask that takes part in checkpoints has finished."""
        return self._required[ExecutionState.FINISHED] > 0

    @property
    def input_has_ended(self) -> bool:
        """Everything is processed: what still runs waits for the final checkpoint."""
        running = self._required[ExecutionState.RUNNING]
        return 0 < running == len(self._data_ended) == self._required.total() - self._required[ExecutionState.FINISHED]

    def input_of_has_ended(self, vertex: VertexId) -> bool:
        """All subtasks of one that takes part in checkpoints have processed everything."""
        return all(
            state is ExecutionState.FINISHED or subtask in self._data_ended
            for subtask, state in self._states.items()
            if subtask.vertex == vertex
        )

    @property
    def all_finished(self) -> bool:
        return self._counts[ExecutionState.FINISHED] == len(self._states)

    @property
    def all_ended(self) -> bool:
        return sum(self._counts[state] for state in _ENDED) == len(self._states)

    def validate(self) -> None:
        assert len(self.slots) >= self.graph.slots
        assert +self._counts == Counter(self._states.values())
        assert all(count >= 0 for count in self._counts.values())
        assert +self._required == Counter(
            state for subtask, state in self._states.items() if subtask.vertex not in self._committers
        )
        assert all(self._states[subtask] is ExecutionState.RUNNING for subtask in self._data_ended)
