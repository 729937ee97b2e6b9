"""The part of an operator that runs in the coordinator (Flink: OperatorCoordinator, OperatorCoordinatorHolder).

It decides what concerns all subtasks of its operator (which partitions a topic has), and its state is part of every
checkpoint. Commands have one order, so what it sends before TriggerCheckpoint reaches a subtask before that: neither
side needs a gateway that is closed meanwhile.

Life: ``reset`` begins an attempt, with the state that the attempt starts from; a new leader resets it to the newest
completed checkpoint while the subtasks go on. What it sent after that checkpoint it sends again then, so an event must
mean the same when it comes twice. Between two attempts it hears nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ParamSpec, Protocol, TypeVar

from moorage.effects import CallError, Effects, Operation
from moorage.graph.job_graph import OperatorNode
from moorage.ids import CheckpointId

T = TypeVar("T")
P = ParamSpec("P")


class OperatorCoordinator(Protocol):
    """What a kind of operator has to offer. Its methods are called one after another and never block: what blocks is
    asked for by ``OperatorContext.call``.

    Making one reads its configuration and does nothing else: one is made when a job is submitted, only to see whether
    it can be."""

    def reset(self, checkpoint: CheckpointId | None, state: bytes | None) -> None:
        """Begin an attempt that starts from ``checkpoint``, where the operator's coordinator had ``state``; None: from
        nothing, or there was none."""
        ...

    def tick(self, now_ms: int) -> None:
        """Time goes by (monotonic)."""
        ...

    def subtask_ready(self, subtask: int) -> None:
        """It runs and can be sent to; said again by every new leader."""
        ...

    def subtask_failed(self, subtask: int, cause: str) -> None:
        """The attempt ends with it: ``reset`` follows."""
        ...

    def handle_event(self, subtask: int, payload: bytes) -> None:
        """A subtask speaks. Events of a subtask come in order; they may get lost with a leader."""
        ...

    def checkpoint(self, checkpoint: CheckpointId, done: Callable[[bytes], None]) -> None:
        """Take a snapshot of the state as it is now, and hand it to ``done``, now or later. An error aborts the
        checkpoint; an error of any other method fails the attempt."""
        ...

    def completed(self, checkpoint: CheckpointId) -> None:
        """A checkpoint is completed; may be missed when the leader changes."""
        ...

    def aborted(self, checkpoint: CheckpointId) -> None: ...

    def close(self) -> None:
        """The attempt has ended."""
        ...


class OperatorContext:
    """What a coordinator of an operator may do. After the attempt nothing has an effect."""

    def __init__(
        self,
        effects: Effects,
        node: OperatorNode,
        send: Callable[[int | None, bytes], None],
        backlog: Callable[[bool], None],
        fail_job: Callable[[str], None],
    ) -> None:
        assert node.coordinator is not None
        self.operator = node.uid
        self.config = node.coordinator.config
        self._effects = effects
        self._send = send
        self._backlog = backlog
        self._fail_job = fail_job
        self._attempt = 0

    def send(self, subtask: int | None, payload: bytes) -> None:
        """To one subtask, or to all."""
        if not isinstance(payload, bytes) or not (subtask is None or isinstance(subtask, int)):
            raise TypeError(f"bytes can be sent to a subtask's number or to None, not {payload!r} to {subtask!r}")
        self._send(subtask, payload)

    def call(self, operation: Operation[T], done: Callable[[T], None], failed: Callable[[CallError], None]) -> None:
        """What blocks. Nothing comes back when the attempt has ended meanwhile."""
        if not isinstance(operation, Operation):
            raise TypeError(f"{operation!r} is no operation")
        attempt = self._attempt
        self._effects.call(
            operation,
            lambda result: self.guard(done, result) if self._attempt == attempt else None,
            lambda error: self.guard(failed, error) if self._attempt == attempt else None,
        )

    def backlog(self, has_backlog: bool) -> None:
        """The operator works off a backlog: checkpoints are taken at ``interval_during_backlog_ms``."""
        self._backlog(has_backlog)

    def fail_job(self, cause: str) -> None:
        self._fail_job(f"operator {self.operator}: {cause}")

    def guard(self, call: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
        """An error in code of others fails the attempt, not the coordinator of all jobs."""
        try:
            call(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - code of others
            self._fail_job(f"the coordinator of operator {self.operator} failed: {error!r}")

    def forget_calls(self) -> None:
        self._attempt += 1


OperatorCoordinatorFactory = Callable[[OperatorContext], OperatorCoordinator]
Kinds = Mapping[str, OperatorCoordinatorFactory]
NO_KINDS: Kinds = {}
