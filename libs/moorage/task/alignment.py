"""When barriers came: how long to align, and what to say about it."""

from __future__ import annotations

from collections.abc import Sequence

from moorage.ids import CheckpointId
from moorage.messages.barriers import Alignment, Barrier
from moorage.messages.events import CheckpointMetrics


class _Times:
    __slots__ = ("barrier_ms", "heard_ms", "processed_bytes")

    def __init__(self, heard_ms: int) -> None:
        self.heard_ms = heard_ms
        self.barrier_ms: int | None = None
        """Of the first barrier."""
        self.processed_bytes = 0
        """Processed before it."""


class AlignmentTimes:
    """Of the checkpoints that a gate has pending. Times are monotonic."""

    def __init__(self) -> None:
        self._times: dict[CheckpointId, _Times] = {}

    def heard(self, checkpoint: CheckpointId, now_ms: int) -> None:
        """By the trigger."""
        self._times.setdefault(checkpoint, _Times(now_ms))

    def arrived(self, checkpoint: CheckpointId, now_ms: int, processed_bytes: int) -> None:
        """A barrier; ``processed_bytes``: of frames with records, so far."""
        times = self._times.setdefault(checkpoint, _Times(now_ms))
        if times.barrier_ms is None:
            times.barrier_ms, times.processed_bytes = now_ms, processed_bytes

    def overdue(self, pending: Sequence[Barrier], now_ms: int) -> list[CheckpointId]:
        """Those whose time to align is over. It begins when the checkpoint is heard of."""
        return [
            barrier.checkpoint
            for barrier in pending
            if barrier.options.alignment is Alignment.TIMEOUT
            and (times := self._times.get(barrier.checkpoint)) is not None
            and now_ms - times.heard_ms >= barrier.options.aligned_timeout_ms
        ]

    def settle(
        self, barrier: Barrier, now_ms: int, wall_ms: int, processed_bytes: int, *, unaligned: bool
    ) -> CheckpointMetrics:
        """The snapshot is taken now."""
        times = self._times.get(barrier.checkpoint) or _Times(now_ms)
        self._times = {n: times for n, times in self._times.items() if n > barrier.checkpoint}
        alignment_ms = 0 if times.barrier_ms is None else now_ms - times.barrier_ms
        return CheckpointMetrics(
            start_delay_ms=max(0, wall_ms - barrier.triggered_ms - alignment_ms),
            alignment_ms=alignment_ms,
            processed_bytes=0 if times.barrier_ms is None else processed_bytes - times.processed_bytes,
            unaligned=unaligned,
        )
