"""The memory backend: typed rows in a dict per key group, with incremental checkpoints on a rolling base.

Theory of operation
-------------------
Of each key group a checkpoint holds a *chain*: one base segment with all rows, then deltas with the rows that changed
since. A checkpoint adds a delta for every key group that changed, and rewrites a few key groups in full (those with
the longest chains, an eighth of all per checkpoint), so that both the cost of a checkpoint and the length of the chain
that a restore must read stay bounded.

Segments of one checkpoint lie in one file. A chain may refer to files of earlier checkpoints, but only to those that
the *base* checkpoint referred to: the newest completed one when this one was triggered, whose files are kept until this
one is decided (``Registry.add_checkpoint``). Rows that changed since the base are therefore remembered for every
checkpoint that is still undecided, and are written again by the next.

Rows are changed in place by user code, so what a checkpoint writes is encoded in the synchronous phase; uploading it is
not the backend's business.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, MutableMapping, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec

from moorage.api.keyed_state import KeyedContext
from moorage.backends.keyed import SnapshotForm
from moorage.backends.pieces import StatePiece
from moorage.errors import CorruptDataError
from moorage.ids import CheckpointId
from moorage.serde.keyed_segments import BASE, KeyedSegmentCodec
from moorage.state.handles import NO_OFFSET, ByteStreamHandle, KeyedHandle, KeyGroupsHandle, StreamHandle
from moorage.state.key_groups import KeyGroupRange

K = TypeVar("K")
R = TypeVar("R", bound=msgspec.Struct)

_ROLLING_CHECKPOINTS = 8
"""Every key group with deltas gets a new base about once in so many checkpoints."""


class _Segment(NamedTuple):
    file: int
    offset: int


_Chain = tuple[_Segment, ...]


class MemorySnapshot:
    """What the synchronous phase leaves: bytes to upload, and the handles once it is known where they lie."""

    def __init__(
        self,
        name: str,
        key_groups: KeyGroupRange,
        checkpoint: CheckpointId,
        data: bytes,
        file: int,
        chains: dict[int, _Chain],
        files: dict[int, StreamHandle],
        changed: dict[int, set[Any]],
    ) -> None:
        self._name = name
        self._key_groups = key_groups
        self.checkpoint = checkpoint
        self.data = data
        """The new file; empty when nothing changed since the base."""
        self.file = file
        self.chains = chains
        self.files = files
        """Every file of the chains; the new one is added when it is uploaded."""
        self.changed = changed

    def encode(self) -> Sequence[StatePiece]:
        return [StatePiece(self._name, True, self.data)] if self.data else []

    def finish(self, streams: Sequence[StreamHandle]) -> tuple[KeyGroupsHandle, ...]:
        """The chain as handles, oldest file first."""
        if streams:
            self.files[self.file] = streams[0]
        offsets: dict[int, dict[int, int]] = {}
        for group, chain in self.chains.items():
            for segment in chain:
                offsets.setdefault(segment.file, {})[group] = segment.offset
        return tuple(
            KeyGroupsHandle(
                self._key_groups,
                tuple(by_group.get(group, NO_OFFSET) for group in self._key_groups.groups()),
                self.files[file],
            )
            for file, by_group in sorted(offsets.items())
        )


class RestoredState(Generic[K, R], NamedTuple):
    """Loaded in a thread, adopted by the loop."""

    rows: dict[int, dict[K, R]]
    chains: dict[int, _Chain]
    files: dict[int, StreamHandle]


class MemoryKeyedBackend(Generic[K, R]):
    """Keyed state of one operator in one subtask. ``rows`` is live: key group -> key -> row."""

    def __init__(self, operator: str, key_groups: KeyGroupRange, key_type: Any, row_type: type[R]) -> None:
        self._operator = operator
        self._codec: KeyedSegmentCodec[K, R] = KeyedSegmentCodec(operator, key_type, row_type)
        self._row_type = row_type
        self.context = KeyedContext()
        self._key_groups = key_groups
        self.rows: dict[int, dict[K, R]] = {group: {} for group in key_groups.groups()}
        self.changed: dict[int, set[K]] = {group: set() for group in key_groups.groups()}
        """Keys whose row was touched since the last snapshot."""
        self._base = CheckpointId(0)
        self._chains: dict[int, _Chain] = dict.fromkeys(key_groups.groups(), ())
        """Chains of the base."""
        self._files: dict[int, StreamHandle] = {}
        self._next_file = 0
        self._undecided: list[MemorySnapshot] = []

    # --- rows --------------------------------------------------------------------------------------------------------

    def rows_for(self, group: int, keys: Sequence[K]) -> MutableMapping[K, R]:
        self.changed[group].update(keys)
        return self.rows[group]

    def new_row(self, group: int, key: K) -> R:
        return self._row_type()

    # --- snapshot ----------------------------------------------------------------------------------------------------

    def snapshot(
        self, checkpoint: CheckpointId, base: CheckpointId, form: SnapshotForm = SnapshotForm.INCREMENTAL
    ) -> MemorySnapshot:
        """Everything is over when it returns."""
        self._adopt(base)
        full = form is not SnapshotForm.INCREMENTAL
        changed, self.changed = self.changed, {group: set() for group in self._key_groups.groups()}
        since_base = {group: set(keys) for group, keys in changed.items()} if self._undecided else changed
        for earlier in self._undecided:
            for group, keys in earlier.changed.items():
                since_base[group] |= keys
        file = self._next_file
        self._next_file += 1
        rolled = set(self._key_groups.groups()) if full else self._groups_to_roll()
        parts: list[bytes] = []
        size = 0
        chains: dict[int, _Chain] = {}
        for group, keys in since_base.items():
            rows, chain = self.rows[group], () if full else self._chains[group]
            if full and not rows:
                chains[group] = ()
                continue
            if group not in rolled and not keys and (chain or not rows):
                chains[group] = chain
                continue
            if group in rolled or not chain or 2 * len(keys) >= len(rows):
                segment = self._codec.encode_base(rows)
                chain = ()
            else:
                segment = self._codec.encode_delta(rows, keys)
            chains[group] = (*chain, _Segment(file, size))
            parts.append(segment)
            size += len(segment)
        used = {segment.file for chain in chains.values() for segment in chain}
        files = {number: stream for number, stream in self._files.items() if number in used}
        snapshot = MemorySnapshot(
            self._operator, self._key_groups, checkpoint, b"".join(parts), file, chains, files, changed
        )
        self._undecided.append(snapshot)
        return snapshot

    def _groups_to_roll(self) -> set[int]:
        chained = sorted(
            (g for g, chain in self._chains.items() if len(chain) > 1), key=lambda g: -len(self._chains[g])
        )
        return set(chained[: -(-len(self._key_groups) // _ROLLING_CHECKPOINTS)])

    def _adopt(self, base: CheckpointId) -> None:
        """``base`` is complete: later checkpoints build on it."""
        if base == self._base:
            return
        snapshot = next((s for s in self._undecided if s.checkpoint == base), None)
        if snapshot is None:
            # A base that this subtask never took part in: build on nothing.
            self._chains = dict.fromkeys(self._key_groups.groups(), ())
            self._files = {}
        else:
            self._chains = snapshot.chains
            self._files = snapshot.files
        self._base = base
        self._undecided = [s for s in self._undecided if s.checkpoint > base]

    def aborted(self, checkpoint: CheckpointId) -> None:
        """The checkpoint will not be completed, so nothing will build on it: what changed for it counts as changed for
        the one after it. Without this call nothing is wrong, but everything is remembered until a checkpoint completes.
        """
        snapshot = next((s for s in self._undecided if s.checkpoint == checkpoint), None)
        if snapshot is None:
            return
        self._undecided.remove(snapshot)
        later = next((s.changed for s in self._undecided if s.checkpoint > checkpoint), self.changed)
        for group, keys in snapshot.changed.items():
            later[group] |= keys

    # --- restore -----------------------------------------------------------------------------------------------------

    def load(self, handles: Sequence[KeyedHandle], read: Callable[[StreamHandle], bytes]) -> RestoredState[K, R]:
        """*Blocking*, touches nothing of the backend: read and decode this subtask's key groups out of the chains of
        any number of earlier subtasks."""
        rows: dict[int, dict[K, R]] = {group: {} for group in self._key_groups.groups()}
        chains: dict[int, list[_Segment]] = {group: [] for group in self._key_groups.groups()}
        files: dict[int, StreamHandle] = {}
        for number, handle in enumerate(handles):
            if not isinstance(handle, KeyGroupsHandle):
                raise TypeError(f"the memory backend can't restore from a {type(handle).__name__}")
            wanted = handle.key_groups.intersection(self._key_groups)
            segments = [(g, handle.offsets[g - handle.key_groups.start]) for g in wanted.groups()]
            segments = [(g, offset) for g, offset in segments if offset != NO_OFFSET]
            if not segments:
                continue
            data = read(handle.stream)
            files[number] = handle.stream
            for group, offset in segments:
                try:
                    kind = self._codec.apply(data, offset, rows[group])
                except CorruptDataError as error:
                    raise CorruptDataError(f"{_identity(handle.stream)}: {error}") from error
                if kind == BASE:
                    chains[group] = []
                chains[group].append(_Segment(number, offset))
        return RestoredState(rows, {g: tuple(chain) for g, chain in chains.items()}, files)

    def adopt(self, restored: RestoredState[K, R], checkpoint: CheckpointId) -> None:
        """Take over what ``load`` read from ``checkpoint``. ``rows`` keeps its identity."""
        for group, rows in restored.rows.items():
            self.rows[group] = rows
        self._chains = restored.chains
        self._files = restored.files
        self._next_file = max(restored.files, default=-1) + 1
        self._base = checkpoint

    # --- sizes -------------------------------------------------------------------------------------------------------

    def row_count(self) -> int:
        return sum(map(len, self.rows.values()))

    def close(self) -> None:
        """Nothing lies outside of Python's memory."""


def handles_bytes(handles: Iterable[KeyGroupsHandle]) -> int:
    """Bytes that a chain refers to, each file once."""
    return sum({_identity(h.stream): h.stream.size_bytes for h in handles}.values())


def _identity(stream: StreamHandle) -> str:
    return stream.name if isinstance(stream, ByteStreamHandle) else stream.path
