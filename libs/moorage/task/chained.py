"""What sources and keyed subtasks have in common: a chain of operators, outputs, and snapshots that depend on both."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

from moorage.ids import CheckpointId
from moorage.messages.barriers import Barrier
from moorage.messages.commands import TriggerCheckpoint
from moorage.messages.events import DeclineReason, ExchangeProgress, SubtaskState
from moorage.task.chain import Chain
from moorage.task.context import TaskContext
from moorage.task.ending import Ending, has_finished
from moorage.task.operator_states import OperatorStates
from moorage.task.outputs import Outputs
from moorage.task.snapshots import Snapshots, decline
from moorage.task.subtask import Subtask


class ChainedSubtask(Subtask):
    def __init__(self, context: TaskContext, new_chain: Callable[[TaskContext, Outputs], Chain]) -> None:
        super().__init__(context)
        self._outputs = Outputs(context)
        self._chain = new_chain(context, self._outputs)
        self._operator_states = OperatorStates(context, self._chain.functions)
        self._snapshots = Snapshots(context, self._outputs.partitions)
        self._ending = Ending(context.fates)

    def _starts_finished(self) -> bool:
        """Begin and end at once, when the subtask had finished before the restored checkpoint."""
        if not has_finished(self.context):
            return False
        self.running()
        self._outputs.end_of_data()
        self.tell_data_ended()
        self._ending.begin(self._outputs)
        return True

    def _end_data(self) -> None:
        """No record comes any more: those behind need not wait for one. Barriers go on until the final checkpoint; in a
        job without checkpointing all that is left to do is to flush."""
        self._outputs.end_of_data()
        self.tell_data_ended()
        if not self.context.deploy.graph.checkpoint.enabled:
            flushes = self._flushes()
            self.call(lambda: [flush() for flush in flushes], lambda _: self._ending.begin(self._outputs))

    def _flushes(self) -> list[Callable[[], None]]:
        """*Blocking* calls after which everything so far is stored outside of the exchanges."""
        return [writer.commit for writer in self._chain.writers]

    def step(self, now_ms: int) -> bool:
        if self.state is not SubtaskState.RUNNING:
            return False
        outputs = self._outputs
        outputs.check()
        worked = self._snapshots.poll()
        if self._ending.advance(outputs):
            if self._ending.is_over:
                self._snapshots.close()
                self.finish()
            return worked
        self._housekeeping(now_ms)
        if self._must_wait():
            self.context.counters.blocked_steps += 1
            outputs.flush_due(now_ms, idle=True)
            return worked
        read = self._read(now_ms)
        outputs.flush_due(now_ms, idle=not read)
        outputs.count()
        return worked or read

    def _must_wait(self) -> bool:
        """Whether no input may be read now: consumers or the broker are behind, or a flush is under way, which would
        never end if there was always more to flush."""
        if self._snapshots.flushing:
            return True
        self._chain.poll()
        return self._outputs.blocked or self._chain.pending_records > self.context.settings.max_unsent_records

    @abstractmethod
    def _read(self, now_ms: int) -> bool:
        """Read a bounded amount of input and push it into the chain; True when there was some."""

    def _housekeeping(self, now_ms: int) -> None:
        """What must be done while the subtask waits, too."""

    def aborted(self, checkpoint: CheckpointId) -> None:
        self._snapshots.abort(checkpoint)

    def progress(self, message: ExchangeProgress) -> None:
        self._outputs.progress(message)

    def close(self) -> None:
        super().close()
        self._snapshots.close()
        self._chain.close()


def barrier_of(command: TriggerCheckpoint) -> Barrier:
    """The barrier that a trigger asks for."""
    return Barrier(
        checkpoint=command.checkpoint, triggered_ms=command.triggered_ms, base=command.base, options=command.options
    )


def decline_not_running(subtask: Subtask, checkpoint: CheckpointId) -> None:
    detail = f"{subtask.context.name} is {subtask.state.value}"
    decline(subtask.context, checkpoint, DeclineReason.NOT_RUNNING, detail)
