"""From a request to the id of a checkpoint.

A request that can't be executed is refused at once, the others wait in the decider, which says when each is due (see
``decider``). One that is due takes an id from the registry, one at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from moorage.checkpoint.asking import Asking
from moorage.checkpoint.completed import CompletedCheckpoints
from moorage.checkpoint.completion import Completion
from moorage.checkpoint.decider import CheckpointRequest, CheckpointRequestDecider
from moorage.checkpoint.pending import PendingCheckpoint
from moorage.checkpoint.reasons import CheckpointFailureReason as Reason
from moorage.effects import CallError, Effects, NextCheckpointId
from moorage.graph.checkpoint_plan import find_not_running
from moorage.graph.execution import Execution
from moorage.graph.job_graph import CheckpointConfig
from moorage.ids import Attempt, CheckpointId, JobId


class Triggering:
    """``pending``: every checkpoint that is not decided. ``begin`` is called with the id, ``refused`` with the
    reason."""

    def __init__(
        self,
        effects: Effects,
        job: JobId,
        config: CheckpointConfig,
        pending: Mapping[CheckpointId, PendingCheckpoint],
        completed: CompletedCheckpoints,
        completion: Completion,
        asking: Asking,
        *,
        begin: Callable[[CheckpointRequest, Execution, CheckpointId], None],
        refused: Callable[[CheckpointRequest, Reason, str], None],
    ) -> None:
        self._effects = effects
        self._job = job
        self._config = config
        self._pending = pending
        self._completed = completed
        self._completion = completion
        self._asking = asking
        self._begin = begin
        self._refused = refused
        self._decider = CheckpointRequestDecider(config)
        self._execution: Execution | None = None
        """The running attempt; None: no checkpoints now."""
        self._input_has_ended = False
        self._stop: CheckpointRequest | None = None
        """The request to stop with a savepoint that is not decided."""
        self._triggering: CheckpointRequest | None = None
        """Waits for its id."""

    def start(self, execution: Execution, delay_ms: int) -> None:
        """``delay_ms``: the first periodic one comes so much later."""
        self._execution = execution
        self._input_has_ended = False
        self._decider.start(self._effects.now_ms, delay_ms)
        self._decider.stopping(self._was_stopped)

    def suspend(self, reason: Reason) -> None:
        """The attempt ends: what waits is refused."""
        self._execution = None
        for request in self._decider.stop():
            self._refused(request, reason, "")

    @property
    def is_stopping(self) -> bool:
        """The job is being stopped with a savepoint, or was: nothing else is triggered."""
        return self._stop is not None or self._was_stopped

    @property
    def _was_stopped(self) -> bool:
        return self._completed.stop is not None

    @property
    def waits_for_id(self) -> bool:
        return self._triggering is not None

    def request(self, request: CheckpointRequest) -> None:
        """A checkpoint or savepoint by hand."""
        if self.is_stopping:
            self._refused(request, Reason.STOPPING, "")
        elif self._execution is None:
            self._refused(request, Reason.JOB_NOT_RUNNING, "")
        elif blocker := find_not_running(self._execution):
            self._refused(request, Reason.NOT_ALL_REQUIRED_TASKS_RUNNING, str(blocker))
        elif not self._decider.request(request):
            self._refused(request, Reason.TOO_MANY_REQUESTS, "")
        else:
            if request.kind.stops:
                self._stop = request
                self._decider.stopping(True)
            self._trigger_next()

    def subtask_finished(self) -> None:
        """Where that forbids checkpoints, what waits is refused, as what comes later is; it would wait for the end of
        all input."""
        execution = self._execution
        if execution is None or self._config.after_finish or execution.can_checkpoint:
            return
        if waiting := self._decider.take_waiting():
            detail = str(find_not_running(execution))
            for request in waiting:
                self._refused(request, Reason.NOT_ALL_REQUIRED_TASKS_RUNNING, detail)

    def completed(self) -> None:
        self._decider.completed(self._effects.now_ms)

    def decided(self, request: CheckpointRequest) -> None:
        """It is executed or refused."""
        if request is self._stop:
            self._stop = None
            self._decider.stopping(self._was_stopped)

    def backlog(self, has_backlog: bool) -> None:
        self._decider.backlog(self._effects.now_ms, has_backlog)

    def tick(self) -> None:
        if self._execution is not None and self._execution.input_has_ended != self._input_has_ended:
            self._input_has_ended = self._execution.input_has_ended
            if self._input_has_ended:
                self._decider.input_ended(self._effects.now_ms)
        self._trigger_next()

    def _trigger_next(self) -> None:
        if self._execution is None or not self._execution.can_checkpoint:
            return
        if self._asking.hooks_hang:
            while request := self._decider.choose(
                self._effects.now_ms, in_progress=0, savepoints=0, is_triggering=False
            ):
                self._refused(request, Reason.HOOK_TIMEOUT, "they have not answered since")
            return
        # While the registry adds one it is not known what the next can build on.
        if not self._asking.is_possible or self._completion.has_unknown_outcome:
            return
        request = self._decider.choose(
            self._effects.now_ms,
            in_progress=len(self._pending),
            savepoints=sum(pending.is_savepoint for pending in self._pending.values()),
            is_triggering=self._triggering is not None,
        )
        if request is None:
            return
        self._triggering = request
        self._effects.call(
            NextCheckpointId(epoch=self._effects.epoch, job=self._job),
            partial(self._got_id, request, self._execution.attempt),
            partial(self._no_id, request),
        )

    def _no_id(self, request: CheckpointRequest, error: CallError) -> None:
        self._triggering = None
        self._refused(request, Reason.ID_NOT_AVAILABLE, error.detail)
        self._completion.register_next()

    def _got_id(self, request: CheckpointRequest, attempt: Attempt, checkpoint: CheckpointId) -> None:
        self._triggering = None
        execution = self._execution
        if execution is None or execution.attempt != attempt:
            self._refused(request, Reason.JOB_FAILOVER, "")
        elif blocker := find_not_running(execution):
            self._refused(request, Reason.NOT_ALL_REQUIRED_TASKS_RUNNING, str(blocker))
        else:
            self._begin(request, execution, checkpoint)
        self._completion.register_next()

    def validate(self) -> None:
        self._decider.validate()
        assert self._stop is None or self._stop.kind.stops
