"""What a worker knows of the outcome of a job's checkpoints.

Notifications may be lost or doubled; the coordinator's heartbeat repeats everything that matters (JobFates), so every
loss heals. What is known never changes: a completed checkpoint stays completed.
"""

from __future__ import annotations

from moorage.ids import CheckpointId
from moorage.messages.commands import CheckpointFate, JobFates

_REMEMBERED = 4_096


class Fates:
    def __init__(self) -> None:
        self._known: dict[CheckpointId, CheckpointFate] = {}
        self._heartbeat: JobFates | None = None
        self._newest_completed = CheckpointId(0)

    def completed(self, checkpoint: CheckpointId) -> None:
        self._note(checkpoint, CheckpointFate.COMPLETED)

    def aborted(self, checkpoint: CheckpointId) -> None:
        self._note(checkpoint, CheckpointFate.ABORTED)

    def heard(self, fates: JobFates) -> None:
        self._heartbeat = fates
        for checkpoint in fates.completed:
            self._note(checkpoint, CheckpointFate.COMPLETED)

    @property
    def newest_completed(self) -> CheckpointId:
        """0: none is known."""
        return self._newest_completed

    def _note(self, checkpoint: CheckpointId, fate: CheckpointFate) -> None:
        self._known.setdefault(checkpoint, fate)
        if fate is CheckpointFate.COMPLETED:
            self._newest_completed = max(self._newest_completed, checkpoint)
        if len(self._known) > _REMEMBERED:
            del self._known[min(self._known)]

    def fate(self, checkpoint: CheckpointId) -> CheckpointFate:
        known = self._known.get(checkpoint)
        if known is not None:
            return known
        heard = self._heartbeat
        if heard is None or checkpoint > heard.last_id or checkpoint in heard.pending:
            return CheckpointFate.UNKNOWN
        if checkpoint >= heard.complete_from:
            self._note(checkpoint, CheckpointFate.ABORTED)
            return CheckpointFate.ABORTED
        return CheckpointFate.UNKNOWN
