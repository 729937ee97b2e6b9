"""What a checkpoint that begins now looks like: who takes part, what it builds on, what it asks of the subtasks."""

from __future__ import annotations

from moorage.checkpoint.decider import CheckpointRequest
from moorage.checkpoint.options import snapshot_options
from moorage.checkpoint.pending import PendingCheckpoint
from moorage.effects import Effects
from moorage.graph.checkpoint_plan import CheckpointPlan, checkpoint_plan
from moorage.graph.execution import Execution
from moorage.graph.job_graph import CheckpointConfig
from moorage.ids import CheckpointId, JobId, OperatorUid
from moorage.messages.registry import CheckpointRecord, RestoreMode, RestoreSettings
from moorage.naming import savepoint_folder


class NewCheckpoints:
    """Of one job. ``operators``: those whose coordinators have a state."""

    def __init__(
        self, effects: Effects, job: JobId, config: CheckpointConfig, operators: frozenset[OperatorUid]
    ) -> None:
        self._effects = effects
        self._job = job
        self._config = config
        self._operators = operators
        self._plan: CheckpointPlan | None = None
        self._planned_version = 0
        """Of the execution."""
        self._base = CheckpointId(0)
        """What increments build on: the newest completed checkpoint in the running attempt's own history."""
        self._must_be_full = False
        """The next checkpoint may refer to no file of an earlier one: the job runs on files that are not its own."""

    def start(self, newest: CheckpointRecord | None, restore: RestoreSettings | None) -> None:
        """An attempt runs that started from ``newest`` or, where there is none, from what ``restore`` says."""
        self._plan = None
        # A savepoint's files are not the job's: increments build on none.
        self._base = newest.checkpoint if newest is not None and newest.kind == "checkpoint" else CheckpointId(0)
        self._must_be_full = newest is None and restore is not None and restore.mode is RestoreMode.NO_CLAIM

    def completed(self, checkpoint: CheckpointId) -> None:
        """One of the running attempt, not a savepoint: the next one builds on it."""
        self._base = checkpoint
        self._must_be_full = False

    def make(self, request: CheckpointRequest, execution: Execution, checkpoint: CheckpointId) -> PendingCheckpoint:
        effects = self._effects
        folder = (
            savepoint_folder(request.location, self._job, checkpoint, effects.wall_ms)
            if request.kind.is_savepoint
            else None
        )
        options = snapshot_options(self._config, request, folder, must_be_full=self._must_be_full)
        return PendingCheckpoint(
            checkpoint,
            execution.attempt,
            self._present_plan(execution),
            execution.graph.max_parallelism,
            base=CheckpointId(0) if options.is_full else self._base,
            triggered_ms=effects.wall_ms,
            deadline_ms=effects.now_ms + self._config.timeout_ms,
            request=request,
            options=options,
            operators=self._operators,
        )

    def _present_plan(self, execution: Execution) -> CheckpointPlan:
        if self._plan is None or self._planned_version != execution.version:
            self._plan, self._planned_version = checkpoint_plan(execution), execution.version
        return self._plan
