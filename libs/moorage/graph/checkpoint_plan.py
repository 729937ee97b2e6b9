"""Which subtasks take part in a checkpoint, and how (Flink: CheckpointPlan, DefaultCheckpointPlanCalculator).

An exactly-once sink is not waited for: a checkpoint is complete when the frames up to its barrier are durable in the
sink's exchange, and the sink follows the fate of the checkpoint (design, section 7).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from moorage.graph.execution import Execution, ExecutionState
from moorage.graph.job_graph import JobVertex
from moorage.ids import SubtaskId


class CheckpointPlan(NamedTuple):
    """Made once per attempt; membership does not change while it runs."""

    trigger: tuple[SubtaskId, ...]
    """Sources: they act on TriggerCheckpoint."""
    wait_for: frozenset[SubtaskId]
    """Every one must acknowledge."""
    commit_to: tuple[SubtaskId, ...]
    """Exactly-once sinks: they commit when they hear that it is complete."""
    vertices: tuple[JobVertex, ...]
    """Those whose operators the checkpoint holds."""


class NotRunning(NamedTuple):
    """The reason why a checkpoint can't be taken now."""

    subtask: SubtaskId
    state: ExecutionState

    def __str__(self) -> str:
        return f"subtask {self.subtask} is {self.state.value}"


def checkpoint_plan(execution: Execution) -> CheckpointPlan:
    vertices = execution.graph.vertices
    return CheckpointPlan(
        trigger=_subtasks([v for v in vertices if v.is_source]),
        wait_for=frozenset(_subtasks([v for v in vertices if not v.is_committer])),
        commit_to=_subtasks([v for v in vertices if v.is_committer]),
        vertices=tuple(v for v in vertices if not v.is_committer),
    )


def find_not_running(execution: Execution, plan: CheckpointPlan) -> NotRunning | None:
    """None when a checkpoint can be taken; else a subtask that is in its way."""
    if execution.can_checkpoint:
        return None
    return next(
        (
            NotRunning(subtask, state)
            for subtask, state in execution.states()
            if state is not ExecutionState.RUNNING and subtask in plan.wait_for
        ),
        None,
    )


def _subtasks(vertices: Sequence[JobVertex]) -> tuple[SubtaskId, ...]:
    return tuple(SubtaskId(v.vertex, index) for v in vertices for index in range(v.parallelism))
