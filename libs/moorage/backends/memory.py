"""The memory backend: typed rows in a dict per key group, with incremental checkpoints on a rolling base.

Theory of operation
-------------------
Of each key group a checkpoint holds a *chain*: one base segment with all rows, then deltas with the rows and entries
that changed since. A checkpoint adds a delta for every key group that changed, and writes a few key groups in full
(those with the longest chains, at most a sixteenth of all), so that both the cost of a checkpoint and the length of the
chain that a restore must read stay bounded.

Segments of one checkpoint lie in one file. A chain may refer to files of earlier checkpoints, but only to those that
the *base* checkpoint referred to: the newest completed one when this one was triggered, whose files are kept until this
one is decided (``Registry.add_checkpoint``). What changed since the base is therefore remembered for every checkpoint
that is still undecided, and is written again by the next. Where that comes to as much as the key group itself, it is
not remembered any more, and the key group is written in full: so what is remembered never outgrows the state, though no
checkpoint completes for hours.

The synchronous phase only notes down what changed. Rows are encoded afterwards (``memory_encoding``).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping, MutableMapping, Sequence
from typing import Any, Generic, TypeVar

import msgspec

from moorage.api.keyed_state import KeyedContext
from moorage.api.state import StateTable
from moorage.backends.keyed import IsSparse, SnapshotForm, never_sparse
from moorage.backends.memory_changes import Changes, logged_delta
from moorage.backends.memory_encoding import BlankRow, Expired, GroupEncoding
from moorage.backends.memory_restore import RestoredRows, load_rows
from moorage.backends.memory_snapshot import Chain, Encoding, MemoryCanonicalSnapshot, MemorySnapshot
from moorage.ids import CheckpointId
from moorage.serde.keyed_segments import KeyedSegmentCodec
from moorage.state.handles import ByteStreamHandle, KeyedHandle, StreamHandle
from moorage.state.key_groups import KeyGroupRange

K = TypeVar("K")
R = TypeVar("R", bound=msgspec.Struct)

_ROLLING_CHECKPOINTS = 16
"""A checkpoint writes at most this fraction of the key groups in full, besides those of which most has changed."""
_CHAIN_MIN = 8
"""Chains that are not longer are not worth a new base; so chains have at most about 24 segments."""
_RESTING_CHECKPOINTS = 100
"""A key group whose entries may be over gets a new base after so many checkpoints, although it does not change."""
_EXPIRED_MAX = 10_000
"""So many entries of a key group whose time is over are removed at the end of a snapshot."""
_EXPIRED_BATCH = 1_000
"""So many of the rest are removed before each batch: about a millisecond."""
_NOTED_MIN = 1_000
"""Changed rows and entries of a key group that are remembered in any case."""
_UNDECIDED_MAX = 20
"""Undecided snapshots that are remembered. An older one whose fate is unknown may still complete; then the next
checkpoint, which finds that it does not know its base, is full."""


class _Unnoted:
    """In place of the entries that changed, where nothing is noted any more."""

    def add(self, change: tuple[Any, Any]) -> None:
        """Nobody asks."""


_UNNOTED = _Unnoted()


_Snapshot = MemorySnapshot[K, R] | MemoryCanonicalSnapshot[K, R]


class MemoryKeyedBackend(Generic[K, R]):
    """Keyed state of one operator in one subtask. ``rows`` is live: key group -> key -> row."""

    def __init__(
        self,
        operator: str,
        key_groups: KeyGroupRange,
        key_type: Any,
        row_type: type[R],
        *,
        restore_threads: int = 1,
        is_sparse: IsSparse = never_sparse,
    ) -> None:
        """``restore_threads``: files that ``load`` reads, and key groups that it decodes, at the same time."""
        self._operator = operator
        self._restore_threads = restore_threads
        self._is_sparse = is_sparse
        self._codec: KeyedSegmentCodec[K, R] = KeyedSegmentCodec(operator, key_type, row_type)
        self._row_type = row_type
        self._blank = BlankRow(row_type, self._codec.states)
        self._has_ttl = any(state.ttl is not None for state in self._codec.states)
        self._key_groups = key_groups
        self.context = KeyedContext()
        self.rows: dict[int, dict[K, R]] = {group: {} for group in key_groups.groups()}
        self._changes = self._no_changes()
        """Since the last snapshot."""
        self._tables: dict[int, tuple[StateTable, ...]] = {
            group: tuple(
                state.table(self.context, changed)
                for state, changed in zip(self._codec.states, self._changes[group].entries, strict=True)
            )
            for group in key_groups.groups()
        }
        self._turn = threading.Event()
        self._turn.set()
        self._touched: tuple[int, set[K]] | None = None
        """Key group and keys of the batch that user code has, or had."""
        self._over: dict[int, list[Expired]] = {}
        """Entries whose time is over that are still to be removed."""
        self._under_way: dict[int, list[GroupEncoding[K, R]]] = {}
        self._base = CheckpointId(0)
        self._chains: dict[int, Chain] = dict.fromkeys(key_groups.groups(), ())
        """Chains of the base."""
        self._files: dict[int, StreamHandle] = {}
        self._used_bytes: dict[int, int] = {}
        """Of each file."""
        self._next_file = 0
        self._undecided: list[_Snapshot[K, R]] = []
        self._forgotten: list[object] = []
        """What is not needed any more: the next snapshot's thread frees it."""

    def _no_changes(self) -> dict[int, Changes[K, R]]:
        return {group: Changes(self._codec) for group in self._key_groups.groups()}

    # --- rows --------------------------------------------------------------------------------------------------------

    def rows_for(self, group: int, keys: Sequence[K]) -> MutableMapping[K, R]:
        self._log_touched()
        self._remove_some_expired()
        touched = set(keys)
        if group in self._under_way:
            self._preserve(group, touched)
        changes = self._changes[group]
        if not changes.whole:
            changes.keys |= touched
        self._touched = (group, touched)
        return self.rows[group]

    def _log_touched(self) -> None:
        """The batch before is over."""
        if self._touched is None:
            return
        group, touched = self._touched
        self._touched = None
        changes = self._changes[group]
        if self._delta_is_worth_it(self._chains[group], len(changes)):
            changes.write_log(self.rows[group], touched)
        else:
            changes.log = None
            self._bound(group, self._changes)

    def _bound(self, group: int, noted: dict[int, Changes[K, R]]) -> None:
        """Note nothing any more where the key group will be written in full anyway."""
        chain = self._chains[group]
        worth = chain[0].size // 2 if chain else len(self.rows[group])
        if len(noted[group]) > max(worth, _NOTED_MIN):
            self._outgrow(group, noted)

    def _outgrow(self, group: int, noted: dict[int, Changes[K, R]]) -> None:
        self._forgotten.append(noted[group])
        noted[group] = Changes(self._codec, whole=True)  # another one: a snapshot may still have to encode the former
        if noted is self._changes:
            for table in self._tables[group]:
                table.changed = _UNNOTED

    @staticmethod
    def _delta_is_worth_it(chain: Chain, changed: int) -> bool:
        return bool(chain) and 2 * changed < chain[0].size

    def new_row(self, group: int, key: K) -> R:
        row = self._row_type()
        if self._codec.states:
            changes = self._changes[group]
            if not changes.whole:
                changes.renewed.add(key)
            self._bind(group, key, row)
        return row

    def _bind(self, group: int, key: K, row: R) -> None:
        for state, table in zip(self._codec.states, self._tables[group], strict=True):
            bound = getattr(row, state.name)
            entries = bound._entries  # noqa: SLF001 - what backends keep
            # Deltas tell the entries of a list in any order.
            bound.bind(key, dict(sorted(entries.items())) if state.kind == "list" else entries, table)

    def _preserve(self, group: int, keys: Collection[K]) -> None:
        encodings = self._unfinished(group)
        for encoding in encodings:
            encoding.preserve(keys)
        if encodings:
            self._under_way[group] = encodings
        else:
            del self._under_way[group]

    def _found_expired(self, group: int, expired: Sequence[Expired]) -> None:
        """All of a key group that there are, so the rest of what was found before is among them."""
        if expired:
            self._over[group] = list(expired)
            self._remove_expired(group, _EXPIRED_MAX)

    def _remove_some_expired(self) -> None:
        if self._over:
            self._remove_expired(next(iter(self._over)), _EXPIRED_BATCH)

    def _remove_expired(self, group: int, count: int) -> None:
        """Such entries are in no segment any more. Removing them is no change: whoever still has them stored knows that
        their time is over. A row that has nothing left goes, too: its key meets the defaults again."""
        over, rows = self._over[group], self.rows[group]
        some = over[-count:]
        del over[-count:]
        if not over:
            del self._over[group]
        if group in self._under_way:
            self._preserve(group, {entry.key for entry in some})
        for state, key, entry, stored in some:
            row = rows.get(key)
            if row is None:
                continue
            if state is not None:
                entries = getattr(row, state)._entries  # noqa: SLF001 - what backends keep
                if entries.get(entry) is not stored:
                    continue
                del entries[entry]
            if self._blank.is_like(row):
                del rows[key]
                if not self._changes[group].whole:
                    self._changes[group].keys.add(key)

    # --- snapshot ----------------------------------------------------------------------------------------------------

    def snapshot(
        self, checkpoint: CheckpointId, base: CheckpointId, form: SnapshotForm = SnapshotForm.INCREMENTAL
    ) -> _Snapshot[K, R]:
        self._log_touched()
        self._remove_some_expired()
        self._adopt(base)
        while len(self._undecided) >= _UNDECIDED_MAX:
            self._forget(self._undecided[0])
        changes = self._take_changes()
        if form is SnapshotForm.CANONICAL:
            return self._canonical(checkpoint, changes)
        since_base = [*(snapshot.changes for snapshot in self._undecided), changes]
        full = form is not SnapshotForm.INCREMENTAL
        rolled = set(self._key_groups.groups()) if full else self._groups_to_roll(since_base)
        chains: dict[int, Chain] = {}
        encodings: list[tuple[int, int, Encoding[K, R]]] = []
        for group in self._key_groups.groups():
            rows, chain = self.rows[group], () if full else self._chains[group]
            since = [earlier[group] for earlier in since_base]
            changed = sum(map(len, since))
            too_much = any(earlier.whole for earlier in since)
            if not (chain or rows) or not (changed or too_much or group in rolled or not chain):
                chains[group] = chain
                continue
            in_full = too_much or group in rolled or not self._delta_is_worth_it(chain, changed)
            chains[group] = () if in_full else chain
            encodings.append(
                (len(rows) if in_full else changed, group, self._encoding(group, None if in_full else since))
            )
        # The small ones first: what is encoded need not be preserved.
        by_size = {group: encoding for _, group, encoding in sorted(encodings, key=lambda e: e[:2])}
        file, self._next_file = self._next_file, self._next_file + 1
        snapshot = MemorySnapshot(
            self._operator,
            self._key_groups,
            checkpoint,
            file,
            chains,
            by_size,
            self._files,
            changes,
            self._found_expired,
            self._forgotten,
        )
        self._forgotten = []
        self._undecided.append(snapshot)
        return snapshot

    def _canonical(self, checkpoint: CheckpointId, changes: dict[int, Changes[K, R]]) -> _Snapshot[K, R]:
        # The small ones first: what is encoded need not be preserved.
        groups = sorted((group for group, rows in self.rows.items() if rows), key=lambda group: len(self.rows[group]))
        encodings = {group: self._group_encoding(group, None) for group in groups}
        snapshot = MemoryCanonicalSnapshot(
            self._codec, self._key_groups, checkpoint, encodings, changes, self._found_expired, self._forgotten
        )
        self._forgotten = []
        self._undecided.append(snapshot)
        return snapshot

    def _encoding(self, group: int, since: Sequence[Changes[K, R]] | None) -> Encoding[K, R]:
        """Of the changes since, or of all rows."""
        logged = None if since is None else logged_delta(self._codec, since)
        if logged is not None:
            return logged
        return self._group_encoding(group, since)

    def _group_encoding(self, group: int, since: Sequence[Changes[K, R]] | None) -> GroupEncoding[K, R]:
        encoding = GroupEncoding(self._codec, self.rows[group], self._tables[group], since, self._turn)
        self._under_way[group] = [*self._unfinished(group), encoding]
        return encoding

    def _unfinished(self, group: int) -> list[GroupEncoding[K, R]]:
        return [encoding for encoding in self._under_way.get(group, ()) if not encoding.finished]

    def _take_changes(self) -> dict[int, Changes[K, R]]:
        taken, self._changes = self._changes, self._no_changes()
        if self._codec.states:
            for group, tables in self._tables.items():
                for table, changed in zip(tables, self._changes[group].entries, strict=True):
                    table.changed = changed
        return taken

    def _groups_to_roll(self, since_base: Sequence[Mapping[int, Changes[K, R]]]) -> set[int]:
        if self._files and all(isinstance(stream, ByteStreamHandle) for stream in self._files.values()):
            # All of it lies in the metadata, which carries it with every checkpoint anyway: a chain would only be more.
            changed = any(changes.any for earlier in since_base for changes in earlier.values())
            return set(self._key_groups.groups()) if changed else set()
        sparse = {file for file, stream in self._files.items() if self._is_sparse(stream, self._used_bytes[file])}
        chains = self._chains
        worth_it = [group for group, chain in chains.items() if chain and self._is_worth_a_base(chain, sparse)]
        # The oldest base first: whoever is written becomes the youngest, so nobody waits for more than one round.
        worth_it.sort(key=lambda group: chains[group][0].file)
        return set(worth_it[: -(-len(self._key_groups) // _ROLLING_CHECKPOINTS)])

    def _is_worth_a_base(self, chain: Chain, sparse: Collection[int]) -> bool:
        if len(chain) > _CHAIN_MIN or any(segment.file in sparse for segment in chain):
            return True
        # Entries whose time is over are found when a base is written, so a key group that rests needs one, too.
        return self._has_ttl and self._next_file - chain[0].file > _RESTING_CHECKPOINTS

    def _adopt(self, base: CheckpointId) -> None:
        """``base`` is complete: later checkpoints build on it."""
        if base == self._base:
            return
        snapshot = next((s for s in self._undecided if s.checkpoint == base), None)
        if not isinstance(snapshot, MemorySnapshot):
            # A base that this subtask never took part in: build on nothing.
            self._chains = dict.fromkeys(self._key_groups.groups(), ())
            self._files, self._used_bytes = {}, {}
        else:
            self._chains = snapshot.chains
            self._files, self._used_bytes = snapshot.files, snapshot.used_bytes
        self._base = base
        self._forgotten += [changes for s in self._undecided if s.checkpoint <= base for changes in s.changes.values()]
        self._undecided = [s for s in self._undecided if s.checkpoint > base]

    def aborted(self, checkpoint: CheckpointId) -> None:
        snapshot = next((s for s in self._undecided if s.checkpoint == checkpoint), None)
        if snapshot is None:
            return
        snapshot.cancel()
        for group in list(self._under_way):
            self._under_way[group] = self._unfinished(group)
        self._forget(snapshot)

    def _forget(self, snapshot: _Snapshot[K, R]) -> None:
        """Nothing builds on it: what it has written, later ones write again."""
        self._undecided.remove(snapshot)
        later = next((s.changes for s in self._undecided if s.checkpoint > snapshot.checkpoint), self._changes)
        for group, earlier in snapshot.changes.items():
            if later[group].whole:
                continue
            if earlier.whole:
                self._outgrow(group, later)
            else:
                later[group].absorb(earlier)
                self._bound(group, later)

    # --- restore -----------------------------------------------------------------------------------------------------

    def load(self, handles: Sequence[KeyedHandle], read: Callable[[StreamHandle], bytes]) -> RestoredRows[K, R]:
        restored = load_rows(self._codec, self._key_groups, handles, read, self._restore_threads)
        for group, rows in restored.rows.items() if self._codec.states else ():
            for key, row in rows.items():
                self._bind(group, key, row)
        return restored

    def adopt(self, restored: RestoredRows[K, R], checkpoint: CheckpointId) -> None:
        self.rows.update(restored.rows)
        self._chains = restored.chains
        self._files, self._used_bytes = restored.files, restored.used_bytes
        self._next_file = max(restored.files, default=-1) + 1
        self._base = checkpoint

    # --- sizes, the end ----------------------------------------------------------------------------------------------

    def row_count(self) -> int:
        return sum(map(len, self.rows.values()))

    def close(self) -> None:
        """Nothing lies outside of Python's memory."""
        for snapshot in self._undecided:
            snapshot.cancel()
