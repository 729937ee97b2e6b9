"""Local recovery: a worker keeps copies of the state files that its last checkpoints refer to.

A subtask that comes back to the same worker then reads its state from there and not from the storage. Copies are a
cache and no more: what is missing, or is not what the handle says, is read from the storage (Flink:
TaskLocalStateStore, but with one copy of a file for all subtasks).
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress

import msgspec

from moorage.errors import CorruptDataError, StorageError
from moorage.ids import CheckpointId, JobId
from moorage.naming import is_url, job_prefix, parse_storage_path
from moorage.ports import CheckpointStorage, Executor, Upload
from moorage.serde.state_files import read_stream
from moorage.state.handles import FileHandle, SegmentHandle

_COPIES = "copies/"


class LocalRecovery:
    """What the loop tells: which checkpoints refer to which files, and what became of them."""

    def __init__(self, copies: LocalCopies, executor: Executor) -> None:
        self.copies = copies
        self._executor = executor
        self._paths: dict[JobId, dict[CheckpointId, set[str]]] = {}
        """What undecided checkpoints and the newest completed one refer to."""

    def acknowledged(self, job: JobId, checkpoint: CheckpointId, paths: Iterable[str]) -> None:
        """A subtask's part of the checkpoint refers to these files."""
        self._paths.setdefault(job, {}).setdefault(checkpoint, set()).update(paths)

    def completed(self, job: JobId, checkpoint: CheckpointId) -> None:
        """Whoever restores from now on needs this checkpoint or a later one."""
        known = self._paths.get(job, {})
        if checkpoint not in known:
            return
        for older in [n for n in known if n < checkpoint]:
            del known[older]
        kept = frozenset[str]().union(*known.values())
        self._executor.submit(lambda: self.copies.sweep(job, checkpoint, kept), lambda *_: None)

    def aborted(self, job: JobId, checkpoint: CheckpointId) -> None:
        """Its copies go with the next checkpoint that completes."""
        self._paths.get(job, {}).pop(checkpoint, None)


class LocalCopies:
    """The copies, at most ``max_bytes`` of them: the oldest make room. All calls are *blocking* and may come from many
    threads at once; a disk that fails is no error, for no copy is ever needed."""

    def __init__(self, storage: CheckpointStorage, max_bytes: int) -> None:
        self._storage = storage
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._size_bytes: int | None = None
        """Of all copies; None: to be counted."""

    def keep(self, path: str, data: bytes | Upload) -> None:
        """Copy what was stored under ``path``."""
        size_bytes = data.size_bytes if isinstance(data, Upload) else len(data)
        with self._lock, suppress(StorageError):
            if self._make_room(size_bytes):
                self._storage.write(_COPIES + path, data)

    def read(self, stream: FileHandle | SegmentHandle) -> bytes | None:
        """What the handle refers to; None: there is no good copy."""
        if is_url(stream.path):
            return None
        try:
            return read_stream(self._storage, msgspec.structs.replace(stream, path=_COPIES + stream.path))
        except CorruptDataError:
            self._delete([stream.path])
            return None
        except StorageError:
            return None

    def sweep(self, job: JobId, until: CheckpointId, keep: AbstractSet[str]) -> None:
        """Delete what was written for checkpoints up to ``until``, but for ``keep``."""
        with suppress(StorageError):
            copies = [info.path.removeprefix(_COPIES) for info in self._storage.list(_COPIES + job_prefix(job))]
            self._delete([path for path in copies if path not in keep and _is_written_for(path, until)])

    def _delete(self, paths: Sequence[str]) -> None:
        with self._lock, suppress(StorageError):
            self._size_bytes = None
            self._storage.delete([_COPIES + path for path in paths])

    def _make_room(self, size_bytes: int) -> bool:
        if size_bytes > self._max_bytes:
            return False
        if self._size_bytes is None or self._size_bytes + size_bytes > self._max_bytes:
            copies = sorted(self._storage.list(_COPIES), key=lambda copy: copy.modified_ms)
            total = sum(copy.size_bytes for copy in copies)
            gone: list[str] = []
            while total + size_bytes > self._max_bytes:
                oldest = copies[len(gone)]
                gone.append(oldest.path)
                total -= oldest.size_bytes
            self._storage.delete(gone)
            self._size_bytes = total
        self._size_bytes += size_bytes
        return True


def _is_written_for(path: str, until: CheckpointId) -> bool:
    parsed = parse_storage_path(path)
    return parsed is None or parsed.checkpoint <= until
