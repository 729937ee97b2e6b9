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
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum

from moorage.graph.job_graph import JobGraph
from moorage.ids import Attempt, SubtaskId, WorkerId
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
    ) -> None:
        self.graph = graph
        self.attempt = attempt
        self.slots = tuple(slots)
        self._states = {
            SubtaskId(vertex.vertex, index): initial for vertex in graph.vertices for index in range(vertex.parallelism)
        }
        self._counts = Counter({initial: len(self._states)})
        self._committers = frozenset(vertex.vertex for vertex in graph.vertices if vertex.is_committer)
        self._required_not_running = sum(s.vertex not in self._committers for s in self._states)

    def update(self, subtask: SubtaskId, reported: SubtaskState) -> UpdateOutcome:
        present = self._states.get(subtask)
        if present is None:
            return UpdateOutcome.UNKNOWN
        state = ExecutionState(reported.value)
        if state is present:
            return UpdateOutcome.UNCHANGED
        if state not in TRANSITIONS[present]:
            return UpdateOutcome.LATE
        self._states[subtask] = state
        self._counts[present] -= 1
        self._counts[state] += 1
        if subtask.vertex not in self._committers:
            self._required_not_running += (present is ExecutionState.RUNNING) - (state is ExecutionState.RUNNING)
        return UpdateOutcome.APPLIED

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

    def count(self, state: ExecutionState) -> int:
        return self._counts[state]

    @property
    def has_unreported(self) -> bool:
        return any(self._counts[state] for state in _UNREPORTED)

    @property
    def all_running(self) -> bool:
        return self._counts[ExecutionState.RUNNING] == len(self._states)

    @property
    def can_checkpoint(self) -> bool:
        """Every subtask that takes part in checkpoints is RUNNING; an exactly-once sink only follows their fate."""
        return self._required_not_running == 0

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
        assert self._required_not_running == sum(
            state is not ExecutionState.RUNNING
            for subtask, state in self._states.items()
            if subtask.vertex not in self._committers
        )
