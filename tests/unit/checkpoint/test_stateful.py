"""Coordinator, decider and store against everything that can happen, in any order.

The registry is the twin, which keeps to the real one's rules. What the coordinator asks for stays open until a rule
answers it: well, badly, or not before another leader has taken over. Files are names only; each acknowledgement brings
one of the checkpoint's own and one that later checkpoints share, and refers to the shared ones of its base. The source
has a coordinator, which answers at once, late, twice or never, and fails in any of its methods. Some jobs are stopped
with a savepoint, and go on when that fails.

Held against the whole history: an id is completed at most once, and never both completed and aborted; ids only rise; no
file that a retained checkpoint refers to is handed to the cleaner; what nothing refers to is handed to it in the end,
but for what died with a leader, which the cleaner's sweep finds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.unit.checkpoint.test_operator_coordinators import KIND, with_coordinators
from tests.unit.cluster.graphs import JOB, SOURCE, TOTALS, orders_graph, subtasks

from moorage.checkpoint.coordinator import CheckpointCoordinator
from moorage.checkpoint.decider import CheckpointRequest
from moorage.checkpoint.notices import CheckpointDone, CheckpointFailed
from moorage.checkpoint.reasons import CheckpointFailureReason
from moorage.coordinator_process.calls import call_error
from moorage.effects import (
    Action,
    AddCheckpoint,
    Broadcast,
    Call,
    CallError,
    CallFailure,
    DiscardSavepoint,
    Effects,
    JobHistory,
    NextCheckpointId,
    ReadOperatorStates,
    SendCleanup,
    TriggerHooks,
    WriteMetadata,
    WrittenMetadata,
)
from moorage.errors import FencedError, MoorageError, RegistryUnavailableError
from moorage.graph.execution import Execution
from moorage.graph.job_graph import CheckpointConfig
from moorage.ids import Attempt, CheckpointId, Epoch, OperatorId, SubtaskId, WorkerId
from moorage.messages.barriers import SnapshotKind
from moorage.messages.cleanup import DiscardCheckpoint, DiscardState
from moorage.messages.commands import NotifyCheckpointAborted, NotifyCheckpointComplete, TriggerCheckpoint
from moorage.messages.events import (
    AcknowledgeCheckpoint,
    CheckpointMetrics,
    DeclineCheckpoint,
    DeclineReason,
    OperatorSnapshot,
    SubtaskState,
)
from moorage.messages.registry import CheckpointRecord, JobRecord, JobStatus, LineageSegment
from moorage.naming import exclusive_state_path, parse_storage_path, savepoint_state_path, shared_state_path
from moorage.state.handles import FileHandle, HandleAndLocalPath, IncrementalKeyedHandle
from moorage.state.key_groups import KeyGroupRange
from moorage.state.operator_state import OperatorSubtaskState
from moorage.testing.clocks import ManualClock
from moorage.testing.memory_registry import MemoryRegistry

WORKER = WorkerId("w1/1")
TIMEOUT_MS = 1_000
HOOK_TIMEOUT_MS = 300
LEASE_MS = 1_000_000


METHODS = ("reset", "tick", "subtask_ready", "checkpoint", "completed", "aborted", "close")


class Scribe:
    """The coordinator of the source: its state is the number of the checkpoint. What it hears at the wrong time goes to
    ``violations``, as its errors are the attempt's."""

    def __init__(self) -> None:
        self.is_open = False
        self.answers_at_once = True
        self.fails_next_in: str | None = None
        self.later: list[tuple[CheckpointId, Callable[[bytes], None]]] = []
        self.violations: list[str] = []

    def reset(self, checkpoint: CheckpointId | None, state: bytes | None) -> None:
        if self.is_open:
            self.violations.append("reset twice")
        if state is not None and state != _scribed(checkpoint):
            self.violations.append(f"reset to {checkpoint} with {state!r}")
        self.is_open = True
        self._hear("reset")

    def tick(self, now_ms: int) -> None:
        self._hear("tick")

    def subtask_ready(self, subtask: int) -> None:
        self._hear("subtask_ready")

    def subtask_failed(self, subtask: int, cause: str) -> None:
        self._hear("subtask_failed")

    def handle_event(self, subtask: int, payload: bytes) -> None:
        self._hear("handle_event")

    def checkpoint(self, checkpoint: CheckpointId, done: Callable[[bytes], None]) -> None:
        self._hear("checkpoint")
        self.later.append((checkpoint, done))
        if self.answers_at_once:
            done(_scribed(checkpoint))

    def completed(self, checkpoint: CheckpointId) -> None:
        self._hear("completed")

    def aborted(self, checkpoint: CheckpointId) -> None:
        self._hear("aborted")

    def close(self) -> None:
        self.is_open = False
        self.later = self.later[-3:]  # Some answers come after the attempt.
        if self.fails_next_in == "close":
            self.fails_next_in = None
            raise RuntimeError("close failed")

    def _hear(self, method: str) -> None:
        if not self.is_open:
            self.violations.append(f"{method} while no attempt runs")
        if method == self.fails_next_in:
            self.fails_next_in = None
            raise RuntimeError(f"{method} failed")


def _scribed(checkpoint: CheckpointId | None) -> bytes:
    return str(checkpoint).encode()


class CoordinatorMachine(RuleBasedStateMachine):
    effects: Effects
    coordinator: CheckpointCoordinator

    @initialize(
        retained=st.integers(1, 3),
        concurrent=st.integers(1, 3),
        hooks=st.booleans(),
        has_coordinator=st.booleans(),
        interval_ms=st.sampled_from([0, 200]),
        pauses=st.booleans(),
        stops=st.sampled_from([False, False, True]),
    )
    def begin(
        self,
        retained: int,
        concurrent: int,
        hooks: bool,
        has_coordinator: bool,
        interval_ms: int,
        pauses: bool,
        stops: bool,
    ) -> None:
        graph = orders_graph(
            2,
            checkpoint=CheckpointConfig(
                interval_ms=interval_ms,
                timeout_ms=TIMEOUT_MS,
                retained=retained,
                max_concurrent=concurrent,
                min_pause_ms=500 if pauses and concurrent == 1 and interval_ms > 0 else 0,
                tolerable_failures=2,
            ),
        )
        self.graph = with_coordinators(graph) if has_coordinator else graph
        self.required = subtasks(self.graph, SOURCE, TOTALS)
        self.hook_timeout_ms = HOOK_TIMEOUT_MS if hooks else None
        self.may_be_stopped = stops
        self.registry = MemoryRegistry(ManualClock())
        self.leaders = 0
        self.files: dict[str, CheckpointId] = {}
        """Every file of a checkpoint that was written -> the checkpoint that wrote it."""
        self.savepoint_folders: dict[CheckpointId, str] = {}
        self.references: dict[CheckpointId, set[str]] = {}
        """What the acknowledgements of a checkpoint refer to."""
        self.shared: dict[tuple[CheckpointId, SubtaskId], tuple[str, ...]] = {}
        self.handed: set[str] = set()
        self.discarded_folders: set[str] = set()
        self.excused: set[CheckpointId] = set()
        """Their leader or their attempt was gone before it could hand anything over."""
        self.ids: list[CheckpointId] = []
        self.completed: list[CheckpointId] = []
        self.aborted: set[CheckpointId] = set()
        self.outcomes: dict[int, list[CheckpointDone | CheckpointFailed]] = {}
        self.has_failed = False
        """The attempt, and the next one has not started."""
        self.coordinator_states: dict[str, dict[OperatorId, bytes]] = {}
        """By the path of the metadata."""
        self._elect()
        self.record = JobRecord(
            job=JOB,
            graph=self.graph,
            status=JobStatus.RUNNING,
            attempt=Attempt(1),
            submitted_ms=1,
            base_checkpoint_id=CheckpointId(0),
            slots=(WORKER, WORKER),
            lineage=(LineageSegment(Attempt(1), None, self.graph.parallelism()),),
        )
        self.registry.save_job(self.effects.epoch, self.record)
        self._lead()
        self._run_attempt()

    # --- leaders and attempts ----------------------------------------------------------------------------------------

    def _elect(self) -> None:
        self.leaders += 1
        if self.leaders > 1:
            self.registry.release_lease(f"leader-{self.leaders - 1}", self.effects.epoch)
        lease = self.registry.acquire_lease(f"leader-{self.leaders}", LEASE_MS)
        assert lease is not None
        now_ms = 0 if self.leaders == 1 else self.effects.now_ms
        self.effects = Effects(repeat_delay_ms=50)
        self.effects.epoch = Epoch(lease.epoch)
        self.effects.now_ms = self.effects.wall_ms = now_ms
        self.calls: list[Call] = []

    def _lead(self) -> None:
        (self.record,) = self.registry.jobs()
        history = JobHistory(
            record=self.record,
            checkpoints=tuple(self.registry.checkpoints(JOB)),
            completed_ids=tuple(self.registry.completed_ids(JOB)),
            last_checkpoint_id=self.registry.last_checkpoint_id(JOB),
        )
        self.scribe = Scribe()
        self.coordinator = CheckpointCoordinator(
            self.effects,
            self.graph,
            CheckpointId(0),
            history,
            self._fail,
            kinds={KIND: lambda _: self.scribe},
            hook_timeout_ms=self.hook_timeout_ms,
        )
        self.open: dict[CheckpointId, TriggerCheckpoint] = {}
        """Triggers of this leader in this attempt."""

    def _fail(self, _: str) -> None:
        """As the job does: at once, in the middle of whatever the coordinator is doing."""
        if not self.has_failed:
            self.has_failed = True
            self.coordinator.suspend(CheckpointFailureReason.JOB_FAILOVER)

    def _run_attempt(self, states: dict[SubtaskId, SubtaskState] | None = None) -> None:
        self.has_failed = False
        self.execution = Execution(self.graph, self.record.attempt, self.record.slots)
        self.coordinator.start(self.execution, self.record)
        self.open.clear()
        for subtask, _ in list(self.execution.states()):
            state = (states or {}).get(subtask, SubtaskState.RUNNING)
            self.execution.update(subtask, state)
            self.coordinator.subtask_changed(subtask, state)
        self._take_actions()

    @rule(data=st.data())
    def the_leader_crashes(self, data: st.DataObject) -> None:
        """What it had asked the registry for may still arrive, but not after the next one has begun."""
        for call in self.calls:
            if isinstance(call.operation, AddCheckpoint | NextCheckpointId) and data.draw(st.booleans()):
                self._ask_registry(call, loses_answer=True)
        epoch = self.effects.epoch
        known = {subtask: SubtaskState(state.value) for subtask, state in self.execution.states()}
        self.excused |= {n for n in self.ids if n not in self.completed and n not in self.aborted}
        self.excused |= {*self.open}
        self._elect()
        with pytest.raises(FencedError):
            self.registry.next_checkpoint_id(epoch, JOB)
        self.completed = sorted({*self.completed, *self.registry.completed_ids(JOB)})
        self._lead()
        self._run_attempt(known)

    @precondition(lambda self: not self.coordinator.has_unknown_outcome)
    @rule()
    def the_attempt_fails(self) -> None:
        self.coordinator.suspend(CheckpointFailureReason.JOB_FAILOVER)
        self._take_actions()
        if self.coordinator.has_unknown_outcome:
            return
        latest = self.coordinator.completed.restorable()
        attempt = Attempt(self.record.attempt + 1)
        restored = None if latest is None else latest.checkpoint
        self.record = msgspec.structs.replace(self.record, attempt=attempt, restored_checkpoint=restored)
        self.registry.start_attempt(self.effects.epoch, self.record, self.coordinator.completed.newest_id)
        self._run_attempt()

    @rule(index=st.integers(0, 3))
    def a_subtask_finishes(self, index: int) -> None:
        subtask = self.required[index]
        if self._running(subtask) and sum(map(self._running, self.required)) > 1:
            self.execution.update(subtask, SubtaskState.FINISHED)
            self.coordinator.subtask_changed(subtask, SubtaskState.FINISHED)
            self._take_actions()

    def _running(self, subtask: SubtaskId) -> bool:
        state = self.execution.state(subtask)
        return state is not None and state.is_running

    # --- requests and time -------------------------------------------------------------------------------------------

    @rule(kind=st.sampled_from([SnapshotKind.CHECKPOINT, SnapshotKind.FULL_CHECKPOINT, SnapshotKind.SAVEPOINT]))
    def somebody_asks(self, kind: SnapshotKind) -> None:
        number = len(self.outcomes)
        self.outcomes[number] = []
        self.coordinator.request(CheckpointRequest(kind=kind, on_done=self.outcomes[number].append))
        self._take_actions()

    @rule(kind=st.sampled_from([SnapshotKind.CHECKPOINT, SnapshotKind.CHECKPOINT, SnapshotKind.SAVEPOINT]))
    def all_goes_well(self, kind: SnapshotKind) -> None:
        """By single steps alone hardly any checkpoint would ever be completed."""
        self.somebody_asks(kind)
        self.all_calls_end_well()
        for trigger in list(self.open.values()):
            for subtask in self.required:
                self._acknowledge(trigger, subtask)
        for checkpoint, done in list(self.scribe.later):
            done(_scribed(checkpoint))
        self._take_actions()
        self.all_calls_end_well()

    @rule(kinds=st.lists(st.sampled_from([SnapshotKind.CHECKPOINT, SnapshotKind.SAVEPOINT]), min_size=2, max_size=4))
    def several_ask_at_once(self, kinds: list[SnapshotKind]) -> None:
        for kind in kinds:
            self.somebody_asks(kind)
        for _ in kinds:
            self.all_calls_end_well()
            self.time_goes_by(1)

    @precondition(lambda self: self.may_be_stopped)
    @rule(kind=st.sampled_from([SnapshotKind.SUSPEND, SnapshotKind.TERMINATE]))
    def somebody_stops_the_job(self, kind: SnapshotKind) -> None:
        number = len(self.outcomes)
        self.outcomes[number] = []
        self.coordinator.request(
            CheckpointRequest(kind=kind, ends_as=JobStatus.FINISHED, on_done=self.outcomes[number].append)
        )
        self._take_actions()

    @rule(ms=st.sampled_from([1, 60, 250, 400, TIMEOUT_MS]))
    def time_goes_by(self, ms: int) -> None:
        self.effects.now_ms += ms
        self.effects.wall_ms += ms
        self.effects.repeat_calls()
        self.coordinator.tick()
        self._take_actions()
        if self.has_failed and not self.coordinator.has_unknown_outcome:
            self.the_attempt_fails()

    # --- the source's coordinator ------------------------------------------------------------------------------------

    @rule(at_once=st.booleans())
    def the_coordinator_takes_its_time(self, at_once: bool) -> None:
        self.scribe.answers_at_once = at_once

    @rule(method=st.sampled_from(METHODS))
    def the_coordinator_is_going_to_fail(self, method: str) -> None:
        self.scribe.fails_next_in = method

    @precondition(lambda self: self.scribe.later)
    @rule(data=st.data(), is_state=st.sampled_from([True, True, True, False]))
    def the_coordinator_answers(self, data: st.DataObject, is_state: bool) -> None:
        """For the first time or again, in time or not."""
        checkpoint, done = data.draw(st.sampled_from(self.scribe.later))
        done(_scribed(checkpoint) if is_state else "no bytes")  # type: ignore[arg-type]
        self._take_actions()

    # --- subtasks ----------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def a_subtask_acknowledges(self, data: st.DataObject) -> None:
        """For the first time, again, or long after the checkpoint was decided."""
        trigger = self.open[data.draw(st.sampled_from(sorted(self.open)))]
        self._acknowledge(trigger, data.draw(st.sampled_from(self.required)))

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def all_acknowledge(self, data: st.DataObject) -> None:
        undecided = [n for n in self.open if n not in self.completed and n not in self.aborted]
        trigger = self.open[data.draw(st.sampled_from(sorted(undecided or self.open)))]
        for subtask in self.required:
            self._acknowledge(trigger, subtask)

    def _acknowledge(self, trigger: TriggerCheckpoint, subtask: SubtaskId) -> None:
        if not self._running(subtask):
            return
        own = (JOB, trigger.checkpoint, trigger.attempt, subtask.vertex, subtask.subtask)
        folder = trigger.options.location
        if folder is not None:
            path = f"{folder}/{savepoint_state_path(trigger.attempt, subtask.vertex, subtask.subtask, 'state')}"
            paths: tuple[str, ...] = (path,)
        else:
            inherited = self.shared.get((trigger.base, subtask), ())
            written = (exclusive_state_path(*own, "own"), shared_state_path(*own, "shared"))
            self.files.update(dict.fromkeys(written, trigger.checkpoint))
            # A rolling base: at most two shared files of earlier checkpoints are still referred to.
            self.shared[trigger.checkpoint, subtask] = (*inherited, written[1])[-3:]
            paths = (written[0], *self.shared[trigger.checkpoint, subtask])
        if trigger.checkpoint not in self.aborted:
            self.references.setdefault(trigger.checkpoint, set()).update(paths)
        self.coordinator.acknowledge(
            AcknowledgeCheckpoint(
                worker=WORKER,
                job=JOB,
                attempt=trigger.attempt,
                vertex=subtask.vertex,
                subtask=subtask.subtask,
                checkpoint=trigger.checkpoint,
                metrics=CheckpointMetrics(),
                operators=(OperatorSnapshot(operator=self._head(subtask), state=_state(paths)),),
            )
        )
        self._take_actions()

    @precondition(lambda self: self.open)
    @rule(data=st.data(), reason=st.sampled_from(DeclineReason))
    def a_subtask_declines(self, data: st.DataObject, reason: DeclineReason) -> None:
        checkpoint = data.draw(st.sampled_from(sorted(self.open)))
        subtask = data.draw(st.sampled_from(self.required))
        self.coordinator.decline(
            DeclineCheckpoint(
                worker=WORKER,
                job=JOB,
                attempt=self.record.attempt,
                vertex=subtask.vertex,
                subtask=subtask.subtask,
                checkpoint=checkpoint,
                reason=reason,
                detail="",
            )
        )
        self._take_actions()

    def _head(self, subtask: SubtaskId) -> OperatorId:
        return self.graph.vertex(subtask.vertex).operators[0].operator_id

    # --- calls -------------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.calls)
    @rule(data=st.data(), how=st.sampled_from(["well", "well", "well", "badly", "without an answer"]))
    def a_call_ends(self, data: st.DataObject, how: str) -> None:
        self._end_call(self.calls[data.draw(st.integers(0, len(self.calls) - 1))], how)

    @precondition(lambda self: self.calls)
    @rule()
    def all_calls_end_well(self) -> None:
        while self.calls:
            self._end_call(self.calls[0], "well")

    def _end_call(self, call: Call, how: str) -> None:
        operation = call.operation
        result: Any = None
        error: CallError | None = None
        match operation:
            case AddCheckpoint() | NextCheckpointId():
                if how == "badly":
                    error = CallError(CallFailure.UNAVAILABLE, "connection refused")
                else:
                    result, error = self._ask_registry(call, loses_answer=how == "without an answer")
            case _ if how != "well":
                error = CallError(CallFailure.UNAVAILABLE, "no space left on device")
            case ReadOperatorStates(path=path):
                result = self.coordinator_states[path]
            case WriteMetadata(path=path, metadata=metadata):
                states = {o.operator: o.coordinator.data for o in metadata.operators if o.coordinator is not None}
                assert set(states.values()) <= {_scribed(metadata.checkpoint)}
                has_one = any(o.coordinator is not None for o in self.graph.vertices[0].operators)
                assert bool(states) == (has_one and not metadata.operators[0].fully_finished)
                self.coordinator_states[path] = states
                result = WrittenMetadata(size_bytes=1, checksum=1)
            case TriggerHooks():
                result = ()
            case DiscardSavepoint(folder=folder):
                self.discarded_folders.add(folder)
            case _:
                raise TypeError(f"what is {operation}?")
        self.calls.remove(call)
        self.effects.finish_call(call.call, result, error)
        self._take_actions()

    def _ask_registry(self, call: Call, *, loses_answer: bool) -> tuple[Any, CallError | None]:
        operation = call.operation
        try:
            if isinstance(operation, NextCheckpointId):
                result: Any = self.registry.next_checkpoint_id(operation.epoch, operation.job)
                assert not self.ids or result > self.ids[-1]
                self.ids.append(result)
            else:
                assert isinstance(operation, AddCheckpoint)
                before = {record.checkpoint for record in self.registry.checkpoints(JOB)}
                result = self.registry.add_checkpoint(
                    operation.epoch,
                    operation.job,
                    operation.attempt,
                    operation.record,
                    operation.retain,
                    operation.keep_from,
                )
                self._check_subsumed(operation, result, before)
            if loses_answer:
                raise RegistryUnavailableError("connection lost")
        except MoorageError as failure:
            return None, call_error(failure)
        return result, None

    def _check_subsumed(
        self, operation: AddCheckpoint, subsumed: list[CheckpointRecord], before: set[CheckpointId]
    ) -> None:
        """The oldest go first, and never more than needed; savepoints stay."""
        gone = {record.checkpoint for record in subsumed}
        left = [r.checkpoint for r in self.registry.checkpoints(JOB) if r.kind == "checkpoint"]
        assert all(record.kind == "checkpoint" for record in subsumed)
        assert not gone or max(gone) < min(left)
        assert not gone or len(left) >= operation.retain
        assert gone <= before | {operation.record.checkpoint}

    # --- what the coordinator does -----------------------------------------------------------------------------------

    def _take_actions(self) -> None:
        while actions := self.effects.drain():
            for action in actions:
                self._take(action)
        self.coordinator.validate()

    def _take(self, action: Action) -> None:
        match action:
            case Call():
                self.calls.append(action)
            case Broadcast(TriggerCheckpoint() as trigger):
                assert trigger.checkpoint not in self.completed
                assert trigger.checkpoint not in self.aborted
                assert trigger.base == 0 or trigger.base in self._retained()
                assert not any(map(self._stops, self._retained())), "nothing comes behind a stop"
                self._check_concurrency(trigger)
                self.open[trigger.checkpoint] = trigger
                if trigger.options.location is not None:
                    self.savepoint_folders[trigger.checkpoint] = trigger.options.location
            case Broadcast(NotifyCheckpointComplete(checkpoint=checkpoint)):
                assert checkpoint not in self.completed
                assert checkpoint not in self.aborted
                assert checkpoint in self.registry.completed_ids(JOB)
                assert checkpoint not in self.savepoint_folders or self._stops(checkpoint)
                self.completed.append(checkpoint)
            case Broadcast(NotifyCheckpointAborted(checkpoint=checkpoint)):
                assert checkpoint not in self.registry.completed_ids(JOB)
                assert checkpoint not in self.aborted
                self.aborted.add(checkpoint)
                self.references.pop(checkpoint, None)
            case SendCleanup(DiscardCheckpoint(checkpoint=checkpoint)):
                assert checkpoint not in self._retained()
                assert checkpoint not in self.savepoint_folders
                self.handed |= {path for path, writer in self.files.items() if writer == checkpoint}
            case SendCleanup(DiscardState(paths=paths)):
                assert not self._referenced().intersection(paths)
                assert all((at := parse_storage_path(path)) is not None and at.job == JOB for path in paths)
                self.handed |= set(paths)
            case _:
                pass

    def _stops(self, checkpoint: CheckpointId) -> bool:
        """Was the job stopped with it?"""
        return any(r.checkpoint == checkpoint and r.ends_as is not None for r in self.registry.checkpoints(JOB))

    def _check_concurrency(self, trigger: TriggerCheckpoint) -> None:
        """A checkpoint counts everything in progress; a savepoint counts savepoints only."""
        in_progress = self.coordinator.stats.counts.in_progress
        assert trigger.options.kind.is_savepoint or in_progress <= self.graph.checkpoint.max_concurrent

    def _retained(self) -> set[CheckpointId]:
        return {record.checkpoint for record in self.registry.checkpoints(JOB)}

    def _referenced(self) -> set[str]:
        """By checkpoints that are retained, or can still be."""
        alive = self._retained() | {n for n in self.open if n not in self.aborted and n not in self.completed}
        return set().union(*(self.references.get(checkpoint, set()) for checkpoint in alive))

    # --- invariants --------------------------------------------------------------------------------------------------

    @invariant()
    def an_exclusive_file_of_a_retained_checkpoint_is_never_handed_over(self) -> None:
        for checkpoint in self._retained():
            for path in self.references.get(checkpoint, set()) & self.handed:
                at = parse_storage_path(path)
                # Shared files are handed over with the checkpoint that wrote them: whoever deletes looks who shares.
                assert at is not None
                assert at.shared
                assert at.checkpoint not in self._retained()

    @invariant()
    def the_newest_checkpoint_is_retained(self) -> None:
        completed = self.registry.completed_ids(JOB)
        assert not completed or completed[-1] in self._retained()

    @invariant()
    def fates_tell_what_the_registry_holds(self) -> None:
        fates = self.coordinator.fates(self.record.attempt)
        in_registry = set(self.registry.completed_ids(JOB))
        assert set(fates.completed) <= in_registry
        assert in_registry - set(fates.completed) <= set(fates.pending)

    @invariant()
    def the_coordinator_hears_nothing_outside_of_an_attempt(self) -> None:
        assert self.scribe.violations == []

    @invariant()
    def nobody_is_answered_twice(self) -> None:
        assert all(len(outcomes) <= 1 for outcomes in self.outcomes.values())

    def teardown(self) -> None:
        if not hasattr(self, "coordinator"):
            return
        self.coordinator.suspend(CheckpointFailureReason.JOB_STOPPED)
        self._take_actions()
        self.all_calls_end_well()
        referenced = self._referenced()
        for path, checkpoint in self.files.items():
            if checkpoint not in self.excused and path not in referenced and checkpoint not in self._retained():
                assert path in self.handed, path
        for checkpoint, folder in self.savepoint_folders.items():
            if checkpoint in self._retained():
                assert folder not in self.discarded_folders
            elif checkpoint not in self.excused:
                assert checkpoint in self.aborted


def _state(paths: tuple[str, ...]) -> OperatorSubtaskState:
    files = tuple(HandleAndLocalPath(str(n), FileHandle(path=path, size_bytes=1)) for n, path in enumerate(paths))
    handle = IncrementalKeyedHandle(
        backend_id="b",
        checkpoint=CheckpointId(1),
        key_groups=KeyGroupRange(0, 7),
        shared=files[1:],
        private=(),
        metadata=files[0].stream,
        written_bytes=1,
    )
    return OperatorSubtaskState(managed_keyed=(handle,))


CoordinatorMachine.TestCase.settings = settings(
    max_examples=150, stateful_step_count=60, deadline=None, suppress_health_check=list(HealthCheck)
)
TestCoordinator = CoordinatorMachine.TestCase
