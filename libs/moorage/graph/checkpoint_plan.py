"""Which subtasks take part in a checkpoint, and how (Flink: CheckpointPlan, DefaultCheckpointPlanCalculator).

An exactly-once sink is not waited for: a checkpoint is complete when the frames up to its barrier are durable in the
sink's exchange, and the sink follows the fate of the checkpoint (design, section 7).

A subtask that has finished is in the checkpoint as finished. Whoever has no producer left that could send a barrier
acts on TriggerCheckpoint, as sources do.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from moorage.graph.execution import Execution, ExecutionState
from moorage.graph.job_graph import Exchange, ExchangeKind, JobGraph, JobVertex
from moorage.ids import SubtaskId
from moorage.state.key_groups import key_group_range, owner_of


class CheckpointPlan(NamedTuple):
    """Holds until a subtask's state changes."""

    trigger: tuple[SubtaskId, ...]
    """They act on TriggerCheckpoint: sources that run, and what runs behind finished ones only."""
    wait_for: frozenset[SubtaskId]
    """Every one must acknowledge, or finish."""
    commit_to: tuple[SubtaskId, ...]
    """Exactly-once sinks that run: they commit when they hear that it is complete."""
    vertices: tuple[JobVertex, ...]
    """Those whose operators the checkpoint holds."""
    finished: frozenset[SubtaskId] = frozenset()
    """They have no state and need none: recorded as finished."""

    def is_fully_finished(self, vertex: JobVertex) -> bool:
        """Its operators will get no input ever again."""
        return all(SubtaskId(vertex.vertex, index) in self.finished for index in range(vertex.parallelism))


class NotRunning(NamedTuple):
    """The reason why a checkpoint can't be taken now."""

    subtask: SubtaskId
    state: ExecutionState

    def __str__(self) -> str:
        why = ", and checkpoint.after_finish is off" if self.state is ExecutionState.FINISHED else ""
        return f"subtask {self.subtask} is {self.state.value}{why}"


def checkpoint_plan(execution: Execution) -> CheckpointPlan:
    graph = execution.graph
    required = tuple(v for v in graph.vertices if not v.is_committer)
    subtasks = _subtasks(required)
    finished = (
        frozenset(s for s in subtasks if execution.state(s) is ExecutionState.FINISHED)
        if execution.has_finished
        else frozenset()
    )
    return CheckpointPlan(
        trigger=tuple(_triggered(graph, required, finished)),
        wait_for=frozenset(subtasks).difference(finished),
        commit_to=tuple(
            s
            for s in _subtasks([v for v in graph.vertices if v.is_committer])
            if execution.state(s) is not ExecutionState.FINISHED
        ),
        vertices=required,
        finished=finished,
    )


def find_not_running(execution: Execution) -> NotRunning | None:
    """None when a checkpoint can be taken; else a subtask that is in its way."""
    if execution.can_checkpoint:
        return None
    committers = frozenset(v.vertex for v in execution.graph.vertices if v.is_committer)
    required = [(s, state) for s, state in execution.states() if s.vertex not in committers]
    in_the_way = [NotRunning(*r) for r in required if r[1] not in (ExecutionState.RUNNING, ExecutionState.FINISHED)]
    ended = [NotRunning(*r) for r in required if r[1] is ExecutionState.FINISHED]
    return (in_the_way or ended)[0]


def _triggered(graph: JobGraph, vertices: Sequence[JobVertex], finished: frozenset[SubtaskId]) -> Iterable[SubtaskId]:
    for vertex in vertices:
        inputs = [graph.exchange(exchange) for exchange in vertex.inputs]
        is_open = any(not _all_finished(graph.vertex(e.producer), finished) for e in inputs)
        is_forward = any(e.kind is ExchangeKind.FORWARD for e in inputs)
        if is_open and not is_forward:
            continue
        for index in range(vertex.parallelism):
            subtask = SubtaskId(vertex.vertex, index)
            if subtask not in finished and (
                not is_open or finished.issuperset(_producers(graph, inputs, vertex, index))
            ):
                yield subtask


def _all_finished(vertex: JobVertex, finished: frozenset[SubtaskId]) -> bool:
    return bool(finished) and finished.issuperset(_subtasks([vertex]))


def _producers(graph: JobGraph, inputs: Iterable[Exchange], vertex: JobVertex, index: int) -> Iterable[SubtaskId]:
    """Those that write to a partition that the subtask reads."""
    for exchange in inputs:
        producer = graph.vertex(exchange.producer)
        if exchange.kind is ExchangeKind.FORWARD:
            read = key_group_range(exchange.partitions, vertex.parallelism, index).groups()
            owners = {owner_of(partition, exchange.partitions, producer.parallelism) for partition in read}
            yield from (SubtaskId(producer.vertex, owner) for owner in owners)
        else:
            yield from _subtasks([producer])


def _subtasks(vertices: Sequence[JobVertex]) -> tuple[SubtaskId, ...]:
    return tuple(SubtaskId(v.vertex, index) for v in vertices for index in range(v.parallelism))
