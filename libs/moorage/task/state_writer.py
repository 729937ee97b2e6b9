"""Where the pieces of snapshots go: into the metadata, a file shared with other subtasks, or a file of their own.

Theory of operation
-------------------
One per worker. What is tiny goes inline, as long as the metadata carries little of the subtask besides; a local file or
a big piece becomes a file of its own. What is in between is merged: all subtasks of the worker write into one file per
checkpoint, and a second one for what later checkpoints may refer to, since that lives longer (Flink:
FileMergingSnapshotManager). So what a checkpoint costs the storage depends on the number of workers, not of subtasks.

A merged file is closed when all subtasks of the attempt have handed in their pieces: the last one waits for nothing,
and the checkpoint can't complete before the last one. It is closed earlier when it is full, or when nothing was added
for a while, since some subtask may have nothing to hand in any more.

Nobody but the loop touches the writer; storing is done by calls in threads, of which only so many run at a time. A name
ends in the checksum of the content: what exists under it already is what a try wrote whose answer was lost.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple, cast

import xxhash

from moorage.backends.pieces import StatePiece
from moorage.errors import ObjectExistsError
from moorage.ids import Attempt, CheckpointId, JobId, SubtaskId, WorkerId
from moorage.naming import (
    exclusive_state_path,
    merged_state_path,
    savepoint_state_path,
    shared_state_path,
    with_checksum,
)
from moorage.ports import CheckpointStorage, Clock, Executor, Upload
from moorage.serde.state_files import segment_id
from moorage.state.handles import ByteStreamHandle, FileHandle, SegmentHandle, StreamHandle
from moorage.task.local_recovery import LocalCopies
from moorage.task.merged_space import MergedSpace

_CHUNK_BYTES = 1 << 20
_UNDECIDED_MAX = 1_000
"""Checkpoints of all jobs of which it is remembered how many subtasks have handed in their pieces."""

Done = Callable[[Sequence[StreamHandle] | None, Exception | None], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class StateFileLimits:
    """See docs/settings.md."""

    inline_max_bytes: int = 20 << 10
    merged_piece_max_bytes: int = 1 << 20
    """A bigger piece gets a file of its own; 0: all of them."""
    merged_file_max_bytes: int = 32 << 20
    space_amplification: int = 2
    """What is left of a merged file is written anew when it is less than one part in so many."""
    linger_ms: int = 100
    """A merged file that nothing was added to for so long is closed."""
    uploads: int = 2
    """At the same time."""


class SnapshotId(NamedTuple):
    job: JobId
    attempt: Attempt
    checkpoint: CheckpointId


@dataclass(slots=True, kw_only=True)
class _Request:
    """Pieces of one subtask on their way."""

    done: Done
    handles: list[StreamHandle | None]
    missing: int
    """0: ``done`` was called."""

    def stored(self, index: int, handle: StreamHandle) -> None:
        self.handles[index] = handle
        self.one_less()

    def one_less(self) -> None:
        self.missing -= 1
        if self.missing == 0:
            self.done(cast("list[StreamHandle]", self.handles), None)

    def failed(self, error: Exception) -> None:
        if self.missing > 0:
            self.missing = 0
            self.done(None, error)


class _Segment(NamedTuple):
    request: _Request
    position: int
    subtask: SubtaskId
    piece: StatePiece


@dataclass(slots=True, kw_only=True)
class _MergedFile:
    """Gathered, not yet closed."""

    segments: list[_Segment] = field(default_factory=list)
    size_bytes: int = 0
    changed_ms: int = 0


class _Waiting(NamedTuple):
    snapshot: SnapshotId
    store: Callable[[], Sequence[StreamHandle]]
    segments: Sequence[_Segment]


class StateWriter:
    """See the module. ``poll`` must be called now and then."""

    def __init__(
        self,
        *,
        worker: WorkerId,
        storage: CheckpointStorage,
        executor: Executor,
        clock: Clock,
        limits: StateFileLimits,
        copies: LocalCopies | None = None,
    ) -> None:
        self.limits = limits
        self.space = MergedSpace(limits.space_amplification)
        self._worker = worker
        self._storage = storage
        self._executor = executor
        self._clock = clock
        self._copies = copies
        self._members: Counter[tuple[JobId, Attempt]] = Counter()
        self._handed_in: dict[SnapshotId, int] = {}
        self._merged: dict[tuple[SnapshotId, bool], _MergedFile] = {}
        """By snapshot, and whether later checkpoints may refer to it."""
        self._waiting: deque[_Waiting] = deque()
        self._running = 0
        self._numbers = 0
        self._at_once = threading.BoundedSemaphore(limits.uploads)

    # --- who takes part ----------------------------------------------------------------------------------------------

    def join(self, job: JobId, attempt: Attempt) -> None:
        """A subtask of the attempt will hand in its pieces of every checkpoint, be there none."""
        self._members[job, attempt] += 1

    def leave(self, job: JobId, attempt: Attempt) -> None:
        self._members[job, attempt] -= 1
        for snapshot in [s for s in self._handed_in if (s.job, s.attempt) == (job, attempt)]:
            if self._members[job, attempt] == 0:
                self.abort(snapshot)
            else:
                self._close_if_complete(snapshot)
        if self._members[job, attempt] == 0:
            del self._members[job, attempt]
            self.space.left(job, attempt)

    # --- pieces ------------------------------------------------------------------------------------------------------

    def store(
        self,
        snapshot: SnapshotId,
        subtask: SubtaskId,
        pieces: Sequence[StatePiece],
        done: Done,
        location: str | None = None,
    ) -> None:
        """Make ``pieces`` durable, then call ``done`` with a handle for each; at once, if nothing must be written.

        ``location``: the folder of a savepoint, which has files of its own and refers to them relative to it.
        """
        request = _Request(done=done, handles=[None] * len(pieces), missing=len(pieces) + 1)
        inline_left = self.limits.inline_max_bytes - sum(piece.carried_bytes for piece in pieces)
        for index, piece in enumerate(pieces):
            data = piece.data
            if isinstance(data, FileHandle):
                request.stored(index, data)
                continue
            if isinstance(data, bytes) and piece.inline and len(data) <= inline_left:
                inline_left -= len(data)
                name = f"{subtask.vertex}-{subtask.subtask}-{piece.name}-{snapshot.checkpoint}"
                request.stored(index, ByteStreamHandle(name, data))
                continue
            segment = _Segment(request, index, subtask, piece)
            if location is None and isinstance(data, bytes) and len(data) <= self.limits.merged_piece_max_bytes:
                self._merge(snapshot, segment)
            else:
                self._submit(snapshot, partial(self._store_segment, snapshot, location, segment), [segment])
        self._handed_in[snapshot] = self._handed_in.get(snapshot, 0) + 1
        self._close_if_complete(snapshot)
        while len(self._handed_in) > _UNDECIDED_MAX:
            del self._handed_in[next(iter(self._handed_in))]
        request.one_less()

    def stored(
        self, snapshot: SnapshotId, subtask: SubtaskId, piece: StatePiece, location: str | None = None
    ) -> StatePiece:
        """*Blocking*, for any thread: the piece as a file of its own, for ``store``, so that its bytes can be
        forgotten. As many at a time as there are ``uploads``, besides those. StorageError."""
        with self._at_once:
            return replace(piece, data=self._store_alone(snapshot, location, subtask, piece))

    def abort(self, snapshot: SnapshotId) -> None:
        """Forget what was not written yet: nobody waits for it any more."""
        self._handed_in.pop(snapshot, None)
        for shared in (False, True):
            self._merged.pop((snapshot, shared), None)
        self._waiting = deque(waiting for waiting in self._waiting if waiting.snapshot != snapshot)

    def poll(self) -> None:
        """Close the merged files that nobody adds to any more."""
        if not self._merged:
            return
        now_ms = self._clock.monotonic_ms()
        for key, file in list(self._merged.items()):
            if now_ms - file.changed_ms >= self.limits.linger_ms:
                self._close(key)

    # --- merging -----------------------------------------------------------------------------------------------------

    def _merge(self, snapshot: SnapshotId, segment: _Segment) -> None:
        key = (snapshot, segment.piece.shared)
        file = self._merged.setdefault(key, _MergedFile())
        file.segments.append(segment)
        file.size_bytes += segment.piece.size_bytes
        file.changed_ms = self._clock.monotonic_ms()
        if file.size_bytes >= self.limits.merged_file_max_bytes:
            self._close(key)

    def _close_if_complete(self, snapshot: SnapshotId) -> None:
        if self._handed_in[snapshot] < self._members[snapshot.job, snapshot.attempt]:
            return
        del self._handed_in[snapshot]
        for shared in (False, True):
            if (snapshot, shared) in self._merged:
                self._close((snapshot, shared))

    def _close(self, key: tuple[SnapshotId, bool]) -> None:
        snapshot, shared = key
        segments = self._merged.pop(key).segments
        if len(segments) == 1:
            self._submit(snapshot, partial(self._store_segment, snapshot, None, segments[0]), segments)
            return
        self._numbers += 1
        self._submit(snapshot, partial(self._store_merged, snapshot, shared, self._numbers, segments), segments)

    # --- storing -----------------------------------------------------------------------------------------------------

    def _submit(
        self, snapshot: SnapshotId, store: Callable[[], Sequence[StreamHandle]], segments: Sequence[_Segment]
    ) -> None:
        self._waiting.append(_Waiting(snapshot, store, segments))
        self._store_next()

    def _store_next(self) -> None:
        while self._waiting and self._running < self.limits.uploads:
            waiting = self._waiting.popleft()
            self._running += 1
            self._executor.submit(waiting.store, partial(self._stored, waiting.segments))

    def _stored(
        self, segments: Sequence[_Segment], handles: Sequence[StreamHandle] | None, error: Exception | None
    ) -> None:
        self._running -= 1
        self._store_next()
        if handles is None:
            for segment in segments:
                segment.request.failed(error or AssertionError("neither a result nor an error"))
            return
        last = handles[-1]
        if isinstance(last, SegmentHandle):
            self.space.written(last.path, last.offset + last.size_bytes)
        for segment, handle in zip(segments, handles, strict=True):
            segment.request.stored(segment.position, handle)

    def _store_segment(self, snapshot: SnapshotId, location: str | None, segment: _Segment) -> Sequence[StreamHandle]:
        return [self._store_alone(snapshot, location, segment.subtask, segment.piece)]

    def _store_alone(
        self, snapshot: SnapshotId, location: str | None, owner: SubtaskId, piece: StatePiece
    ) -> FileHandle:
        """*Blocking.* A file of its own."""
        job, attempt, checkpoint = snapshot
        vertex, subtask = owner
        data, size_bytes = _unstored(piece), piece.size_bytes
        name = with_checksum(piece.name, _checksum(data))
        if location is not None:
            relative_path = savepoint_state_path(attempt, vertex, subtask, name)
            path = f"{location}/{relative_path}"
            with suppress(ObjectExistsError):
                self._storage.write(path, _content(data))
            return FileHandle(path, size_bytes, relative_path)
        path_of = shared_state_path if piece.shared else exclusive_state_path
        path = path_of(job, checkpoint, attempt, vertex, subtask, name)
        self._write(path, data)
        return FileHandle(path, size_bytes)

    def _store_merged(
        self, snapshot: SnapshotId, shared: bool, number: int, segments: Sequence[_Segment]
    ) -> Sequence[StreamHandle]:
        """*Blocking.* One file for all of them."""
        contents = [cast("bytes", segment.piece.data) for segment in segments]
        data = b"".join(contents)
        path = merged_state_path(
            snapshot.job, snapshot.checkpoint, snapshot.attempt, self._worker, number, _checksum(data), shared=shared
        )
        self._write(path, data)
        handles: list[StreamHandle] = []
        offset = 0
        for content in contents:
            handles.append(SegmentHandle(path, offset, len(content), shared, segment_id(content)))
            offset += len(content)
        return handles

    def _write(self, path: str, data: bytes | Path) -> None:
        with suppress(ObjectExistsError):
            self._storage.write(path, _content(data))
        if self._copies is not None:
            self._copies.keep(path, _content(data))


def _unstored(piece: StatePiece) -> bytes | Path:
    assert not isinstance(piece.data, FileHandle), "it was stored before"
    return piece.data


def _content(data: bytes | Path) -> bytes | Upload:
    return data if isinstance(data, bytes) else Upload(data.stat().st_size, _chunks(data))


def _checksum(data: bytes | Path) -> int:
    if isinstance(data, bytes):
        return xxhash.xxh3_64_intdigest(data)
    digest = xxhash.xxh3_64()
    for chunk in _chunks(data):
        digest.update(chunk)
    return digest.intdigest()


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk
