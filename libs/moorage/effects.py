"""What the coordinator's cores see and do: the time they were told, and actions as data.

A core never does I/O. It asks for it through ``Effects``, which collects the actions of one step and keeps the calls
that are under way; ``moorage.coordination`` carries the actions out on the ports and brings each call's outcome back.
So the same cores run in production and in the simulation, and a test reads what a core wants instead of mocking it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any, Generic, TypeVar

import msgspec

from moorage.ids import Attempt, CheckpointId, Epoch, JobId, OperatorId, VertexId
from moorage.messages.cleanup import CleanupRequest
from moorage.messages.commands import Command
from moorage.messages.registry import CheckpointRecord, JobRecord, Lease
from moorage.ports import TopicSpec
from moorage.state.operator_state import CheckpointMetadata, CheckpointOrigin, MasterState

T = TypeVar("T")

# --- calls: what takes long and comes back ---------------------------------------------------------------------------


class Operation(msgspec.Struct, Generic[T], frozen=True):
    """Something that blocks; ``T`` is what it returns."""


class AcquireLease(Operation[Lease | None], frozen=True, kw_only=True):
    """Take the lease if that is possible; returns who holds it then, be it somebody else."""

    holder: str
    ttl_ms: int
    above: Epoch


class RenewLease(Operation[bool], frozen=True, kw_only=True):
    holder: str
    epoch: Epoch
    ttl_ms: int


class ReleaseLease(Operation[None], frozen=True, kw_only=True):
    holder: str
    epoch: Epoch


class FollowEvents(Operation[None], frozen=True):
    """Read the events topic from its present end on."""


class JobHistory(msgspec.Struct, frozen=True, kw_only=True):
    """What the registry knows of a job name."""

    record: JobRecord | None
    checkpoints: tuple[CheckpointRecord, ...] = ()
    """Retained ones, oldest first."""
    completed_ids: tuple[CheckpointId, ...] = ()
    last_checkpoint_id: CheckpointId = CheckpointId(0)
    last_attempt: Attempt = Attempt(0)


class ReadRegistry(Operation[tuple[JobHistory, ...]], frozen=True):
    """Every job that is stored."""


class ReadJobNames(Operation[frozenset[JobId]], frozen=True):
    """Of the jobs that are stored."""


class ReadJob(Operation[JobHistory], frozen=True, kw_only=True):
    job: JobId


class SaveJob(Operation[None], frozen=True, kw_only=True):
    epoch: Epoch
    record: JobRecord


class StartAttempt(Operation[None], frozen=True, kw_only=True):
    epoch: Epoch
    record: JobRecord
    latest: CheckpointId


class RebuildJob(Operation[JobHistory | None], frozen=True, kw_only=True):
    """Bring back a job that the registry has lost, from the checkpoints in the storage; returns what the registry holds
    then. None: there is no checkpoint to bring it back from. STALE: the registry knows the job."""

    epoch: Epoch
    job: JobId
    running: Attempt
    """The highest attempt of the job that workers run; 0: none is known. The job goes on with it if the newest
    checkpoint is its own, else it is RESTARTING with a number that no attempt ever had."""
    parallelism: Mapping[VertexId, frozenset[int]] = {}
    """What workers run, of each vertex: the checkpoints in the storage may be older than the last rescale, and sinks
    must fence the transactions of every parallelism that there was."""


class NextCheckpointId(Operation[CheckpointId], frozen=True, kw_only=True):
    epoch: Epoch
    job: JobId


class AddCheckpoint(Operation[Sequence[CheckpointRecord]], frozen=True, kw_only=True):
    """The commit point; returns what was subsumed."""

    epoch: Epoch
    job: JobId
    attempt: Attempt
    record: CheckpointRecord
    retain: int
    keep_from: CheckpointId | None


class WrittenMetadata(msgspec.Struct, frozen=True, kw_only=True):
    size_bytes: int
    checksum: int


class WriteMetadata(Operation[WrittenMetadata], frozen=True, kw_only=True):
    """Encode and write a ``_metadata`` file; ``origin`` goes into it as the master state ``moorage.origin``."""

    path: str
    metadata: CheckpointMetadata
    origin: CheckpointOrigin


class DiscardSavepoint(Operation[None], frozen=True, kw_only=True):
    """Delete every file of a savepoint that was not completed; tolerates what is gone."""

    folder: str
    """As a URL or relative to the checkpoint storage."""


class VerifiedMetadata(msgspec.Struct, frozen=True, kw_only=True):
    master_states: tuple[MasterState, ...]
    """Of master hooks."""
    partly_finished: frozenset[OperatorId]
    """Some of the operator's subtasks had finished, others not."""


class VerifyMetadata(Operation[VerifiedMetadata], frozen=True, kw_only=True):
    """Read a ``_metadata`` file and hold it against its record: CORRUPT when it is missing or not what was written."""

    record: CheckpointRecord


class FoundSavepoint(msgspec.Struct, frozen=True, kw_only=True):
    path: str
    """Its ``_metadata``."""
    checksum: int
    metadata: CheckpointMetadata


class ReadSavepoint(Operation[FoundSavepoint], frozen=True, kw_only=True):
    """Read the ``_metadata`` of a savepoint or retained checkpoint, of whatever job: CORRUPT when it is none."""

    path: str
    """Its folder or the file itself, as a URL or relative to the checkpoint storage."""


class DeleteSavepoint(Operation[None], frozen=True, kw_only=True):
    """Delete a savepoint's folder, its ``_metadata`` first. CORRUPT when there is none, REFUSED when it is no
    savepoint."""

    path: str
    """Its ``_metadata``."""


class RemoveCheckpoint(Operation[None], frozen=True, kw_only=True):
    """The registry forgets it."""

    epoch: Epoch
    job: JobId
    checkpoint: CheckpointId


class ReadOperatorStates(Operation[dict[OperatorId, bytes]], frozen=True, kw_only=True):
    """The states of operator coordinators in a checkpoint: CORRUPT when it is missing or not what was written."""

    path: str
    """``_metadata``, as a URL or relative to the checkpoint storage."""
    checksum: int


class HookOperation(Operation[T], Generic[T], frozen=True, kw_only=True):
    """Something that the master hooks of a job do. One that is overtaken by another leader or attempt before its turn
    is UNAVAILABLE."""

    epoch: Epoch
    job: JobId
    attempt: Attempt


class TriggerHooks(HookOperation[tuple[MasterState, ...]], frozen=True, kw_only=True):
    """Ask the master hooks of a job: UNAVAILABLE with the hook's name when one of them fails."""

    checkpoint: CheckpointId
    triggered_ms: int


class RestoreHooks(HookOperation[None], frozen=True, kw_only=True):
    """Tell the master hooks where an attempt starts. REFUSED: a state belongs to a hook that is not there. UNAVAILABLE:
    a hook failed."""

    checkpoint: CheckpointId | None
    """None: from nothing."""
    states: tuple[MasterState, ...]
    allow_non_restored: bool


class CloseHooks(HookOperation[None], frozen=True, kw_only=True):
    """The job has ended, or is another leader's."""


class ListPartitions(Operation[dict[str, int]], frozen=True, kw_only=True):
    """How many partitions each of these topics has; those that do not exist are left out."""

    topics: tuple[str, ...]


class CreateTopics(Operation[None], frozen=True, kw_only=True):
    """Create the topics of a job. ``fresh``: the registry knows no earlier job of that name, so REFUSED when one of
    them holds anything: its frames could be taken for the new job's."""

    specs: tuple[TopicSpec, ...]
    fresh: bool = False


class CallFailure(Enum):
    """How a call can fail."""

    UNAVAILABLE = "unavailable"
    """No answer: the outcome is unknown, the call may be repeated."""
    FENCED = "fenced"
    """A newer leader exists."""
    STALE = "stale"
    """The job has moved on."""
    BASE_SUBSUMED = "base_subsumed"
    CORRUPT = "corrupt"
    """What was read is missing or not what was written."""
    REFUSED = "refused"
    """Will never work."""


class CallError(msgspec.Struct, frozen=True):
    failure: CallFailure
    detail: str


# --- actions ---------------------------------------------------------------------------------------------------------


class Broadcast(msgspec.Struct, frozen=True):
    command: Command


class SendCleanup(msgspec.Struct, frozen=True):
    message: CleanupRequest


class Call(msgspec.Struct, frozen=True):
    """Carry out ``operation`` and report its outcome under the number ``call``, once."""

    call: int
    operation: Operation[Any]


class Reply(msgspec.Struct, frozen=True):
    """The answer to a client's request."""

    request: int
    result: object


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """Something that people want to see in logs and metrics; no core depends on it being seen."""


class Report(msgspec.Struct, frozen=True):
    notice: Notice


Action = Broadcast | SendCleanup | Call | Reply | Report


class CallRepeated(Notice, frozen=True, kw_only=True):
    """A call got no answer and is repeated until it does; said once per call."""

    operation: str
    detail: str


class _OpenCall(msgspec.Struct, kw_only=True):
    operation: Operation[Any]
    done: Callable[[Any], None]
    failed: Callable[[CallError], None]
    repeats: bool
    due_ms: int | None = None
    """When to repeat it; None: under way."""
    was_repeated: bool = False


class Effects:
    """One per coordinator, shared by its cores.

    ``now_ms`` (monotonic) and ``wall_ms`` are the time of the step, ``epoch`` is the leader's, ``storage_id`` tells the
    checkpoint storage from others (empty: not known).
    """

    def __init__(self, storage_id: str = "", *, repeat_delay_ms: int = 200) -> None:
        self.now_ms = 0
        self.wall_ms = 0
        self.epoch = Epoch(0)
        self.storage_id = storage_id
        self.step_down_reason: str | None = None
        self._repeat_delay_ms = repeat_delay_ms
        self._actions: list[Action] = []
        self._calls: dict[int, _OpenCall] = {}
        self._last_call = 0

    def broadcast(self, command: Command) -> None:
        self._actions.append(Broadcast(command))

    def cleanup(self, message: CleanupRequest) -> None:
        self._actions.append(SendCleanup(message))

    def reply(self, request: int, result: object) -> None:
        self._actions.append(Reply(request, result))

    def report(self, notice: Notice) -> None:
        self._actions.append(Report(notice))

    def call(
        self,
        operation: Operation[T],
        done: Callable[[T], None],
        failed: Callable[[CallError], None],
        *,
        repeats: bool = False,
    ) -> None:
        """Ask for ``operation``. Exactly one of ``done`` and ``failed`` follows, unless the leadership ends first.

        ``repeats``: while its outcome is unknown (UNAVAILABLE) the operation is repeated, so ``failed`` means that it
        did not happen.
        """
        self._last_call += 1
        self._calls[self._last_call] = _OpenCall(operation=operation, done=done, failed=failed, repeats=repeats)
        self._actions.append(Call(self._last_call, operation))

    def finish_call(self, number: int, result: object, error: CallError | None) -> None:
        """The outcome of a call. That of a call which was forgotten meanwhile is ignored."""
        call = self._calls.pop(number, None)
        if call is None:
            return
        if error is None:
            call.done(result)
        elif call.repeats and error.failure is CallFailure.UNAVAILABLE:
            if not call.was_repeated:
                call.was_repeated = True
                self.report(CallRepeated(operation=type(call.operation).__name__, detail=error.detail))
            call.due_ms = self.now_ms + self._repeat_delay_ms
            self._calls[number] = call
        else:
            call.failed(error)

    def repeat_calls(self) -> None:
        """Repeat what is due."""
        for number, call in self._calls.items():
            if call.due_ms is not None and call.due_ms <= self.now_ms:
                call.due_ms = None
                self._actions.append(Call(number, call.operation))

    def is_open(self, number: int) -> bool:
        return number in self._calls

    def forget_calls(self) -> None:
        """The leadership has ended: whatever comes back is ignored."""
        self._calls.clear()

    def step_down(self, reason: str) -> None:
        """The registry is not what this leader believes: give up the leadership and start again from what is stored."""
        self.step_down_reason = reason

    def drain(self) -> list[Action]:
        """The actions since the last time."""
        actions, self._actions = self._actions, []
        return actions
