"""What all subtasks have in common: a life, and a step of the loop."""

from __future__ import annotations

import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TypeVar, cast

from moorage.api.traces import user_trace
from moorage.errors import CommittedBeyondError, MoorageError, StateError, UserCodeError
from moorage.ids import CheckpointId, OperatorUid
from moorage.messages.commands import TriggerCheckpoint
from moorage.messages.events import ExchangeProgress, SubtaskState, SubtaskStateChanged
from moorage.task.context import TaskContext

T = TypeVar("T")

TERMINAL = frozenset({SubtaskState.FINISHED, SubtaskState.FAILED, SubtaskState.CANCELED})


class Subtask(ABC):
    """One subtask. Its methods are called by one loop; only ``step`` and ``start`` may fail it."""

    def __init__(self, context: TaskContext) -> None:
        self.context = context
        self.state = SubtaskState.INITIALIZING
        self.data_ended = False
        """It has processed its last record and waits for its final checkpoint."""
        self._closed = False

    @abstractmethod
    def start(self) -> None:
        """Begin to restore; ``running`` is called when that is done."""

    @abstractmethod
    def step(self, now_ms: int) -> bool:
        """Do a bounded amount of work; True when there was some. Called in every state but the terminal ones."""

    def close(self) -> None:
        """Let go of everything; no step follows."""
        self._closed = True

    def trigger(self, command: TriggerCheckpoint) -> None:  # noqa: B027 - only sources are triggered
        """The coordinator starts a checkpoint."""

    def completed(self, checkpoint: CheckpointId) -> None:  # noqa: B027 - not everybody is interested
        """A checkpoint of this attempt is completed; may come more than once or never."""

    def aborted(self, checkpoint: CheckpointId) -> None:  # noqa: B027 - not everybody is interested
        """A checkpoint of this attempt was given up; may come more than once or never."""

    def operator_event(self, operator: OperatorUid, payload: bytes) -> None:  # noqa: B027 - few have a coordinator
        """The coordinator of one of the operators speaks."""

    def progress(self, message: ExchangeProgress) -> None:  # noqa: B027 - only producers are interested
        """A consumer of one of this vertex's exchanges tells how far it is."""

    def call(self, call: Callable[[], T], done: Callable[[T], None]) -> None:
        """Run ``call`` in a thread, then ``done`` with its result, but not after ``close``. An error of either fails
        the subtask."""

        def handed_back(result: T | None, error: Exception | None) -> None:
            if self._closed:
                return
            try:
                if error is not None:
                    raise error
                done(cast("T", result))
            except Exception as failure:  # noqa: BLE001 - whatever it is: it must not end the worker
                self.fail(failure)

        self.context.executor.submit(call, handed_back)

    # --- life --------------------------------------------------------------------------------------------------------

    def running(self) -> None:
        if self.state is SubtaskState.INITIALIZING:
            self._change(SubtaskState.RUNNING)

    def fail(self, error: Exception) -> None:
        """The attempt is over for this subtask: tell why. The user's own error comes first in the trace."""
        if self.state in TERMINAL:
            return
        failure, trace = describe(error)
        self._change(SubtaskState.FAILED, failure=failure, trace=trace, permanent=is_permanent(error))

    def finish(self) -> None:
        """Everything is done, and stored."""
        if self.state not in TERMINAL:
            self._change(SubtaskState.FINISHED)

    def tell_data_ended(self) -> None:
        self.data_ended = True
        self._change(self.state)

    def _change(
        self, state: SubtaskState, failure: str | None = None, trace: str | None = None, *, permanent: bool = False
    ) -> None:
        self.state = state
        context = self.context
        context.report(
            SubtaskStateChanged(
                worker=context.worker,
                job=context.job,
                attempt=context.attempt,
                vertex=context.vertex.vertex,
                subtask=context.subtask,
                state=state,
                failure=failure,
                trace=trace,
                permanent=permanent,
                data_ended=self.data_ended,
            )
        )


def is_permanent(error: Exception) -> bool:
    """Another attempt would fail alike: the state doesn't fit the pipeline, or going on would double output."""
    return isinstance(error, StateError | CommittedBeyondError)


def describe(error: Exception) -> tuple[str, str]:
    """One line for people, and the trace: of the user's own error where there is one, from their first line on."""
    if not isinstance(error, MoorageError):
        return f"{type(error).__name__}: {error}", "".join(traceback.format_exception(error))
    if isinstance(error, UserCodeError) and error.__cause__ is not None:
        return str(error), user_trace(error.__cause__)
    return str(error), "".join(traceback.format_exception(error.__cause__ or error))
