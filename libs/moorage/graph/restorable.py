"""May a job start from that checkpoint? Found out before anything is deployed.

Flink: Checkpoints.loadAndValidateCheckpoint, StateAssignmentOperation's checks, VertexFinishedStateChecker.
"""

from __future__ import annotations

from collections.abc import Collection
from enum import IntEnum

from moorage.errors import StateError
from moorage.graph.job_graph import ExchangeKind, JobGraph, JobVertex
from moorage.ids import OperatorId
from moorage.state.operator_state import CheckpointMetadata, OperatorState


def check_restorable(metadata: CheckpointMetadata, graph: JobGraph, *, allow_non_restored: bool) -> None:
    """StateError that names the operator and what to do.

    - Every operator with state has a home in the job, unless ``allow_non_restored``.
    - The number of key groups is the same: keys would be looked for in the wrong place.
    - What had finished comes before what had not, as it did when the checkpoint was taken: a changed job may neither
      put an operator that still runs before one that has finished, nor chain the two to one another.
    """
    states = {state.operator: state for state in metadata.operators}
    _check_homes(states, graph, allow_non_restored=allow_non_restored)
    for vertex in graph.vertices:
        for operator in vertex.operators:
            state = states.get(operator.operator_id)
            if state is not None and state.max_parallelism != graph.max_parallelism and _has_state(state):
                raise StateError(
                    f"operator {operator.uid!r}: the checkpoint was written with max_parallelism"
                    f" {state.max_parallelism}, the job has {graph.max_parallelism}; it can't change while there is"
                    " state"
                )
    _check_finished(states, graph)


def bound_vertex(present: JobGraph, wanted: JobGraph, partly_finished: Collection[OperatorId]) -> JobVertex | None:
    """A vertex of the job that can't have the parallelism of ``wanted`` when the job goes on from a checkpoint in which
    some subtasks of these operators had finished; None: all can.

    A subtask that has finished left no positions: whoever took over its partitions could not tell what of them is done,
    and would process it once more. Sources don't mind, they read nothing of a partition that no checkpoint knows.
    """
    parallelism = wanted.parallelism()
    for vertex in present.vertices:
        finishes = vertex.inputs and any(node.operator_id in partly_finished for node in vertex.operators)
        if finishes and parallelism[vertex.vertex] != vertex.parallelism:
            return vertex
    return None


def _check_homes(states: dict[OperatorId, OperatorState], graph: JobGraph, *, allow_non_restored: bool) -> None:
    known = {operator.operator_id for vertex in graph.vertices for operator in vertex.operators}
    homeless = [state for operator, state in states.items() if operator not in known and _has_state(state)]
    if homeless and not allow_non_restored:
        names = ", ".join(sorted(state.uid or state.operator for state in homeless))
        raise StateError(
            f"the job has no operator for the state of {names}: give the operator its old uid back, or leave the state"
            " behind with --allow-non-restored"
        )


def _has_state(state: OperatorState) -> bool:
    return (
        state.fully_finished
        or state.coordinator is not None
        or any(subtask.finished or any(subtask.handles()) for subtask in state.subtasks.values())
    )


class _Finished(IntEnum):
    NONE = 0
    SOME = 1
    ALL = 2


def _check_finished(states: dict[OperatorId, OperatorState], graph: JobGraph) -> None:
    finished = {vertex.vertex: _finished(vertex, states) for vertex in graph.vertices}
    for exchange in graph.exchanges:
        before, after = finished[exchange.producer], finished[exchange.consumer]
        # Some subtasks of a consumer can have finished only if everybody who writes to them had.
        needed = _Finished.SOME if after is _Finished.SOME and exchange.kind is ExchangeKind.FORWARD else _Finished.ALL
        if after is not _Finished.NONE and before < needed:
            raise StateError(
                f"vertex {exchange.consumer} had finished {_words(after)} when the checkpoint was taken, but"
                f" {exchange.producer}, which would now feed it, had finished {_words(before)}: undo that change of"
                " the pipeline"
            )


def _finished(vertex: JobVertex, states: dict[OperatorId, OperatorState]) -> _Finished:
    """What a checkpoint does not know has not finished: an operator that is new, which would get no input where it is
    chained to one that has finished, or a sink that follows the fate of checkpoints and is in none of them."""
    found = {node.uid: _finished_operator(states.get(node.operator_id)) for node in vertex.operators}
    if len(set(found.values())) > 1:
        named = ", ".join(f"{uid} {_words(finished)}" for uid, finished in sorted(found.items()))
        raise StateError(
            f"vertex {vertex.vertex} chains operators of which some had finished and some had not when the checkpoint"
            f" was taken ({named}): undo that change of the pipeline"
        )
    return next(iter(found.values()))


def _finished_operator(state: OperatorState | None) -> _Finished:
    if state is None:
        return _Finished.NONE
    if state.fully_finished:
        return _Finished.ALL
    count = sum(subtask.finished for subtask in state.subtasks.values())
    if count == 0:
        return _Finished.NONE
    return _Finished.ALL if count >= state.parallelism else _Finished.SOME


def _words(finished: _Finished) -> str:
    return {_Finished.NONE: "nowhere", _Finished.SOME: "in some subtasks", _Finished.ALL: "in all subtasks"}[finished]
