"""How a subtask comes to its end (Flink: FLIP-147, final checkpoint).

==============  ===================================================  ==============================================
phase           means                                                left by
==============  ===================================================  ==============================================
RUNNING         records come, or barriers after the end of data      a *final* checkpoint is completed -> LEAVING:
                                                                     one that said of this subtask that it had
                                                                     finished, or the savepoint that the job stops with
LEAVING         END_OF_PARTITION is sent: nothing follows, nothing   all of it is stored -> OVER
                is read
OVER            the subtask is FINISHED
==============  ===================================================  ==============================================

So the last records are in a completed checkpoint, hence committed by the sinks, before anybody believes that the
subtask is done. Without checkpointing a subtask leaves as soon as its sinks are flushed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from moorage.graph.job_graph import OperatorNode
from moorage.ids import CheckpointId
from moorage.messages.barriers import SnapshotKind, SnapshotOptions
from moorage.messages.commands import CheckpointFate
from moorage.state.assignment import is_finished
from moorage.state.operator_state import OperatorSubtaskState
from moorage.task.context import TaskContext
from moorage.task.fates import Fates
from moorage.task.outputs import Outputs
from moorage.task.snapshots import StatePart


class Ending:
    """Of one subtask."""

    def __init__(self, fates: Fates) -> None:
        self.is_over = False
        self._fates = fates
        self._final: list[CheckpointId] = []
        """Checkpoints with which the subtask ends if one of them is completed."""
        self._leaving: Mapping[int, int] | None = None
        """Epochs that END_OF_PARTITION closed, by output."""
        self._had_last = False
        """A snapshot has said that the subtask has finished."""

    @property
    def is_leaving(self) -> bool:
        return self._leaving is not None

    def snapshot_taken(self, checkpoint: CheckpointId, options: SnapshotOptions, *, data_ended: bool) -> bool:
        """Whether the snapshot says that the subtask has finished. ``data_ended``: no record comes behind it.

        A job that is drained goes on where it was when its savepoint is restored, so that savepoint holds the state of
        whoever would have gone on. Not that of a subtask whose input had ended by itself: those behind it may have
        finished by now, and none that has finished comes behind one that has not.
        """
        if options.kind.stops or (data_ended and options.kind is not SnapshotKind.SAVEPOINT):
            self._final.append(checkpoint)
        is_last = data_ended and (options.kind is not SnapshotKind.TERMINATE or self._had_last)
        self._had_last = is_last
        return is_last

    def advance(self, outputs: Outputs) -> bool:
        """True when the subtask must not read any more."""
        if self._leaving is None:
            if not self._final:
                return False
            fates = {checkpoint: self._fates.fate(checkpoint) for checkpoint in self._final}
            self._final = [checkpoint for checkpoint in self._final if fates[checkpoint] is not CheckpointFate.ABORTED]
            if CheckpointFate.COMPLETED not in fates.values():
                return False
            self.begin(outputs)
        if self._leaving is not None and outputs.are_confirmed(self._leaving):
            self.is_over = True
        return True

    def begin(self, outputs: Outputs) -> None:
        """Leave now."""
        self._leaving = outputs.end_of_partition()


def finished_parts(operators: Sequence[OperatorNode]) -> list[StatePart]:
    """What a subtask without further input has to say: nothing but that."""
    state = OperatorSubtaskState(finished=True)
    return [StatePart(operator=node.operator_id, encode=tuple, finish=lambda _: state) for node in operators]


def has_finished(context: TaskContext) -> bool:
    """Whether the subtask has nothing to do in this attempt."""
    if context.deploy.finishing:
        return True
    operator = context.vertex.operators[0].operator_id
    return context.metadata is not None and is_finished(
        context.metadata, operator, context.parallelism, context.subtask
    )
