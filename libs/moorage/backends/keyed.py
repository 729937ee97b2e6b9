"""Keyed state of one operator in one subtask: what a state backend owes the task, whatever it keeps rows in.

A backend is used by the subtask's loop, by batches: ``rows_for`` before user code sees the records of a frame, and
``snapshot`` at a barrier. Only ``load`` and ``KeyedSnapshot.encode`` are called in threads, while the loop goes on.

Increments (docs/decisions/0001): a snapshot may refer only to files that its *base* refers to, the newest checkpoint
that was complete when this one was triggered. Whatever changed since the base is written again, also if it was written
for a checkpoint whose fate is not known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, MutableMapping, Sequence
from enum import Enum
from typing import Any, Protocol, TypeVar

from moorage.api.keyed_state import KeyedContext
from moorage.backends.pieces import StatePiece
from moorage.ids import CheckpointId
from moorage.state.handles import KeyedHandle, StreamHandle

K = TypeVar("K")
R = TypeVar("R")

IsSparse = Callable[[StreamHandle, int], bool]
"""Whether a subtask should write anew what it still uses of an earlier file, so many bytes, so that the file can go."""


def never_sparse(stream: StreamHandle, used_bytes: int) -> bool:
    """Files may stay."""
    return False


class SnapshotForm(Enum):
    """What a snapshot may look like."""

    INCREMENTAL = "incremental"
    """Refers to files of its base."""
    FULL = "full"
    """Refers to no other checkpoint: its files are its own."""
    CANONICAL = "canonical"
    """FULL, in the segments of ``serde.keyed_segments``, which every backend restores (Flink: canonical savepoint)."""


class KeyedSnapshot(Protocol):
    """A snapshot between its synchronous phase and its end. Exactly one of ``finish`` and the backend's ``aborted``
    comes last, and aborting may come at any time."""

    def encode(self) -> Iterable[StatePiece]:
        """*Blocking*, in a thread: the pieces to be stored, none if nothing is new. What it shares with the loop, it
        guards. An iterator makes each piece when it is asked for, so that those before it can be stored, and forgotten,
        first. StateError when a row can't be stored."""

    def finish(self, streams: Sequence[StreamHandle]) -> tuple[KeyedHandle, ...]:
        """In the loop: the handles of the snapshot; ``streams`` says where each of the pieces lies."""


class KeyedBackend(Protocol[K, R]):
    """Rows of one operator in the key groups of one subtask. ``R`` is its KeyedState class.

    ``context`` is handed to user code; its time is the time of the states' ttl.
    """

    context: KeyedContext

    def rows_for(self, group: int, keys: Sequence[K]) -> MutableMapping[K, R]:
        """The rows of a batch, those that there are. Until the next call of the backend the caller may change, add and
        remove rows of exactly these keys, in place; all of them count as changed. StateError: they can't be read."""

    def new_row(self, group: int, key: K) -> R:
        """A row with the defaults, its states bound to ``key``. The caller puts it into ``rows_for``'s mapping."""

    def snapshot(
        self, checkpoint: CheckpointId, base: CheckpointId, form: SnapshotForm = SnapshotForm.INCREMENTAL
    ) -> KeyedSnapshot:
        """The synchronous phase: what rows are now is what will be stored. It costs time by what changed, never by how
        much state there is."""

    def aborted(self, checkpoint: CheckpointId) -> None:
        """Nothing will build on this checkpoint; unknown ones are fine. Without this call nothing is wrong, but more is
        remembered until a later checkpoint completes."""

    def load(self, handles: Sequence[KeyedHandle], read: Callable[[StreamHandle], bytes]) -> Any:
        """*Blocking*, in a thread, touches nothing of the loop's: read this subtask's key groups out of the handles of
        any number of earlier subtasks, for ``adopt``. CorruptDataError, StateError."""

    def adopt(self, restored: Any, checkpoint: CheckpointId) -> None:
        """In the loop: take over what ``load`` read from ``checkpoint``, before any other call."""

    def row_count(self) -> int:
        """Rows there are, or an estimate where counting is not cheap."""

    def close(self) -> None:
        """Give back what the backend holds outside of Python's memory; the snapshots under way may fail after it."""
