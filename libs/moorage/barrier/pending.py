"""The checkpoints that an input gate has heard of and not settled: which one is due, which will never be.

Snapshots are taken in the order of their ids, so barriers are sent on in ascending order, so each channel delivers them
in ascending order. Hence a channel that delivers barrier n has passed over whatever older one it did not deliver: that
one will never be complete and is given up (Flink: SingleCheckpointBarrierHandler).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from moorage.barrier.channels import NONE
from moorage.ids import CheckpointId
from moorage.messages.barriers import Alignment, Barrier
from moorage.messages.events import DeclineReason


class Declined(NamedTuple):
    checkpoint: CheckpointId
    reason: DeclineReason
    detail: str


class _Pending:
    __slots__ = ("alignment", "arrived", "barrier")

    def __init__(self, barrier: Barrier, alignment: Alignment) -> None:
        self.barrier = barrier
        self.alignment = alignment
        self.arrived = 0
        """Live channels that have delivered the barrier."""


class PendingCheckpoints:
    """``given_up`` is called with each pending checkpoint that is."""

    def __init__(self, given_up: Callable[[CheckpointId], None]) -> None:
        self.declined: list[Declined] = []
        self._on_given_up = given_up
        self._pending: dict[CheckpointId, _Pending] = {}
        self._floor = NONE
        """Every checkpoint up to this one is settled or of no interest."""
        self._given_up: set[CheckpointId] = set()
        """Above the floor."""
        self._newest = NONE
        """The newest barrier that any channel delivered."""

    def __contains__(self, checkpoint: CheckpointId) -> bool:
        return checkpoint in self._pending

    def announce(self, barrier: Barrier, alignment: Alignment) -> None:
        """Somebody has said that this checkpoint was triggered."""
        checkpoint = barrier.checkpoint
        if checkpoint in self._pending or self._is_over(checkpoint):
            return
        if checkpoint < self._newest:
            self.give_up(checkpoint, DeclineReason.ALIGNMENT_ABANDONED, f"barrier {self._newest} came first")
        else:
            self._pending[checkpoint] = _Pending(barrier, alignment)

    def delivered(self, former: CheckpointId, barrier: Barrier, alignment: Alignment) -> bool:
        """A live channel delivered this barrier, and ``former`` before it. True: it must deliver nothing more before
        the checkpoint is settled."""
        checkpoint = barrier.checkpoint
        self._newest = max(self._newest, checkpoint)
        for passed in [n for n in self._pending if former < n < checkpoint]:
            self.give_up(passed, DeclineReason.ALIGNMENT_ABANDONED, f"barrier {checkpoint} came first")
        self.announce(barrier, alignment)
        pending = self._pending.get(checkpoint)
        if pending is None:
            return False
        pending.arrived += 1
        return pending.alignment in (Alignment.ALIGNED, Alignment.TIMEOUT)

    def left(self, delivered: CheckpointId) -> None:
        """A channel is not live any more; ``delivered``: its newest barrier."""
        for checkpoint, pending in self._pending.items():
            pending.arrived -= checkpoint <= delivered

    def overtake(self, checkpoint: CheckpointId) -> None:
        """It has waited for barriers long enough."""
        pending = self._pending.get(checkpoint)
        if pending is not None and pending.alignment is Alignment.TIMEOUT:
            pending.alignment = Alignment.UNALIGNED

    def give_up(self, checkpoint: CheckpointId, reason: DeclineReason | None = None, detail: str = "") -> None:
        """``reason``: the coordinator is to be told; None: it knows."""
        if self._is_over(checkpoint):
            return
        self._given_up.add(checkpoint)
        if reason is not None:
            self.declined.append(Declined(checkpoint, reason, detail))
        if self._pending.pop(checkpoint, None) is not None:
            self._on_given_up(checkpoint)

    def settle_due(self, live: int) -> Barrier | None:
        """The oldest pending checkpoint, when its snapshot is due; it is settled with that. ``live``: channels that are
        waited for."""
        if not self._pending:
            return None
        checkpoint = min(self._pending)
        pending = self._pending[checkpoint]
        if pending.alignment is not Alignment.UNALIGNED and pending.arrived < live:
            return None
        del self._pending[checkpoint]
        self._floor = checkpoint
        self._given_up = {n for n in self._given_up if n > checkpoint}
        return pending.barrier

    def _is_over(self, checkpoint: CheckpointId) -> bool:
        return checkpoint <= self._floor or checkpoint in self._given_up

    @property
    def barriers(self) -> Sequence[Barrier]:
        return [pending.barrier for pending in self._pending.values()]

    @property
    def aligning(self) -> CheckpointId | None:
        """The oldest of which there are barriers."""
        return min((n for n, pending in self._pending.items() if pending.arrived), default=None)

    def arrived(self, checkpoint: CheckpointId) -> int:
        return self._pending[checkpoint].arrived

    def validate(self) -> None:
        assert all(checkpoint > self._floor for checkpoint in self._pending), "pending although settled"
        assert not self._given_up & self._pending.keys(), "pending although given up"
