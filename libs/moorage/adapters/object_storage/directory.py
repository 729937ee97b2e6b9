"""A folder as storage."""

from __future__ import annotations

import os
import re
import time
import uuid
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from obstore.store import LocalStore

from moorage.adapters.object_storage.bucket import ObjectStorage
from moorage.errors import ObjectMissingError, StorageError
from moorage.naming import check_storage_path
from moorage.ports import UnfinishedUpload, Upload

_TEMPORARY = re.compile(r".+\.[0-9a-f]{32}")
"""What a file in ``.tmp`` is called: the first name of the object's path, and a UUID."""


class DirectoryStorage(ObjectStorage):
    """Objects as files.

    obstore's LocalStore creates atomically but never syncs, so after a power cut a checkpoint that was registered could
    be an empty file. Hence our own way to create: the data goes to a file in ``.tmp`` and is synced, a hard link
    gives it its name (or fails, where there is one), and the folders are synced, before anybody hears of it.
    """

    _TMP = ".tmp"
    _ABANDONED_S = 3_600.0
    _LINK_ATTEMPTS = 100

    def __init__(self, root: Path, *, create: bool = True, durable: bool = True) -> None:
        """``create``: make the folder if it is not there; else ObjectMissingError. ``durable``: objects outlive a power
        cut."""
        self._durable = durable
        self._root = root.absolute()
        self._tmp = self._root / self._TMP
        if not create and not root.is_dir():
            raise ObjectMissingError(f"there is no folder {root}")
        try:
            if create:
                self._root.mkdir(parents=True, exist_ok=True)
            self._remove_abandoned()
        except OSError as error:
            raise StorageError(f"checkpoint storage {root} can't be used: {error.strerror}") from error
        super().__init__(LocalStore(self._root, automatic_cleanup=True), str(self._root))

    def unfinished_uploads(self, prefix: str) -> Sequence[UnfinishedUpload]:
        check_storage_path(prefix.removesuffix("/"))
        top = prefix.partition("/")[0]
        found = []
        with self._errors("list", prefix):
            for file in self._tmp.glob(f"{top}.*"):
                with suppress(FileNotFoundError):
                    if _is_temporary(file):
                        found.append(UnfinishedUpload(prefix, file.name, int(file.stat().st_mtime * 1_000)))
        return found

    def abort_uploads(self, uploads: Sequence[UnfinishedUpload]) -> None:
        for upload in uploads:
            with self._errors("abort the upload of", upload.path):
                (self._tmp / Path(upload.upload).name).unlink(missing_ok=True)

    def _create(self, path: str, data: bytes | Upload) -> None:
        temporary = self._tmp / f"{path.partition('/')[0]}.{uuid.uuid4().hex}"
        chunks: Iterable[bytes] = data.chunks if isinstance(data, Upload) else (data,)
        self._tmp.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("xb") as file:
                for chunk in chunks:
                    file.write(chunk)
                file.flush()
                if self._durable:
                    os.fsync(file.fileno())
            folder = self._root / path
            self._link(temporary, folder)
        finally:
            temporary.unlink(missing_ok=True)
        while self._durable and folder != self._root:
            folder = folder.parent
            _sync_folder(folder)

    def _link(self, temporary: Path, target: Path) -> None:
        for attempts_left in reversed(range(self._LINK_ATTEMPTS)):
            # A delete that empties a folder takes it away, perhaps right now: between our two steps, or between the two
            # of mkdir, which then says that the folder exists and is none, or that the one above it doesn't.
            with suppress(FileExistsError, FileNotFoundError):
                target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(temporary, target)
                return
            except FileNotFoundError:
                if attempts_left == 0:
                    raise

    def _remove_abandoned(self) -> None:
        """What a crash in the middle of a write left behind."""
        for file in self._tmp.glob("*"):
            with suppress(FileNotFoundError):
                if _is_temporary(file) and time.time() - file.stat().st_mtime > self._ABANDONED_S:
                    file.unlink()


def _is_temporary(file: Path) -> bool:
    """One of ours: a user's folder may hold a ``.tmp`` with other things in it."""
    return _TEMPORARY.fullmatch(file.name) is not None and file.is_file()


def _sync_folder(folder: Path) -> None:
    """Make the names in it durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
