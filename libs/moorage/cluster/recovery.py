"""Where the time of a recovery goes, from the death of a worker to the next committed output.

=============  =======================================================================================
phase          from ... to
=============  =======================================================================================
DETECTION      the last sign of life of a lost worker ... this coordinator knows; 0 for what was reported
DECISION       ... the registry has stored the next attempt (back-off, slots and the latest checkpoint included)
DEPLOY         ... every subtask has reported
RESTORE        ... every subtask runs
FIRST_COMMIT   ... every sink has committed something new: replay and one checkpoint; not without such sinks
=============  =======================================================================================
"""

from __future__ import annotations

from enum import Enum

from moorage.cluster.protocol import RecoveryPhaseEnded
from moorage.effects import Effects
from moorage.graph.execution import Execution
from moorage.ids import Attempt, CheckpointId, JobId


class Phase(Enum):
    DETECTION = "detection"
    DECISION = "decision"
    DEPLOY = "deploy"
    RESTORE = "restore"
    FIRST_COMMIT = "first_commit"


class Recovery:
    """The recovery of one job that is under way, if any. A failure meanwhile begins a new one."""

    def __init__(self, effects: Effects, job: JobId) -> None:
        self._effects = effects
        self._job = job
        self._phase: Phase | None = None
        """The one that is going on."""
        self._since_ms = 0
        self._failed_ms = 0
        self._attempt = Attempt(0)
        self._known = CheckpointId(0)

    def failed(self, detection_ms: int) -> None:
        """The attempt has failed; its last sign of life lies ``detection_ms`` back."""
        self._failed_ms = self._effects.now_ms
        self._report(Phase.DETECTION, detection_ms)
        self._enter(Phase.DECISION)

    def started(self, attempt: Attempt, newest: CheckpointId) -> None:
        """``attempt`` is stored; ``newest``: every checkpoint that sinks may have committed already."""
        self._attempt = attempt
        self._known = newest
        if self._phase is Phase.DECISION:
            self._end(Phase.DEPLOY)
        else:
            self._phase = None

    def progressed(self, execution: Execution) -> None:
        """A subtask has reported."""
        if self._phase is Phase.DEPLOY and not execution.has_unreported:
            self._end(Phase.RESTORE)
        if self._phase is Phase.RESTORE and execution.all_running:
            self._end(Phase.FIRST_COMMIT)

    def committed(self, floor: CheckpointId | None) -> None:
        """Every sink has committed up to ``floor``."""
        if self._phase is Phase.FIRST_COMMIT and floor is not None and floor > self._known:
            self._end(None)

    @property
    def since_failure_ms(self) -> int | None:
        """While there is a recovery: how long ago the attempt failed."""
        return None if self._phase is None else self._effects.now_ms - self._failed_ms

    def _end(self, following: Phase | None) -> None:
        assert self._phase is not None
        self._report(self._phase, self._effects.now_ms - self._since_ms)
        self._enter(following)

    def _enter(self, phase: Phase | None) -> None:
        self._phase = phase
        self._since_ms = self._effects.now_ms

    def _report(self, phase: Phase, duration_ms: int) -> None:
        self._effects.report(
            RecoveryPhaseEnded(job=self._job, attempt=self._attempt, phase=phase.value, duration_ms=duration_ms)
        )
