"""The local folder of a worker: scratch space of its RocksDB instances, nothing that outlives the process.

Checkpoints are durable elsewhere, so what a former process left behind is only in the way. Whether a process still
uses its folder is told by a lock on a file beside it, which the kernel lets go of however the process ends. A process
id would not do: in containers every worker has the same one.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from moorage.errors import SettingError

_PREFIX = "rocksdb-"
_LOCK_SUFFIX = ".lock"


class WorkerDirectory:
    """A folder of this process below ``parent``, which several workers of a machine may share.

    SettingError when ``parent`` can't be used.
    """

    def __init__(self, parent: Path) -> None:
        try:
            parent.mkdir(parents=True, exist_ok=True)
            _remove_abandoned(parent)
            self._lock_path, self._lock = _create_locked(parent)
            self.path = _folder_of(self._lock_path)
            self.path.mkdir()
        except OSError as error:
            raise SettingError(
                f"MOORAGE_WORKER_STATE_DIR={parent}: the folder can't be used ({error.strerror});"
                " name one that the worker may write to"
            ) from error

    def close(self) -> None:
        """Delete the folder with everything in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock_path.unlink(missing_ok=True)
        os.close(self._lock)


def _folder_of(lock_path: Path) -> Path:
    return lock_path.with_suffix("")


def _create_locked(parent: Path) -> tuple[Path, int]:
    while True:
        path = parent / f"{_PREFIX}{secrets.token_hex(4)}{_LOCK_SUFFIX}"
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        # Between the two calls another process may have taken the file for an abandoned one.
        if path.exists():
            return path, descriptor
        os.close(descriptor)


def _remove_abandoned(parent: Path) -> None:
    for path in parent.glob(f"{_PREFIX}*{_LOCK_SUFFIX}"):
        with _try_lock(path) as locked:
            if locked:
                shutil.rmtree(_folder_of(path), ignore_errors=True)
                path.unlink(missing_ok=True)


@contextmanager
def _try_lock(path: Path) -> Iterator[bool]:
    """Whether nobody held the lock; it is ours meanwhile."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        yield False
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield False
    else:
        yield True
    finally:
        os.close(descriptor)
