"""A folder as storage."""

from __future__ import annotations

import os
import re
import stat
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from obstore.store import LocalStore

from moorage.adapters.object_storage.bucket import ObjectStorage
from moorage.errors import ObjectMissingError, StorageError
from moorage.naming import check_storage_path
from moorage.ports import ObjectInfo, UnfinishedUpload, Upload

_TEMPORARY = re.compile(r".+\.[0-9a-f]{32}")
"""What a file in ``.tmp`` is called: the first name of the object's path, and a UUID."""


class DirectoryStorage(ObjectStorage):
    """Objects as files.

    obstore's LocalStore creates atomically but never syncs, so after a power cut a checkpoint that was registered could
    be an empty file. Hence our own way to create: the data goes to a file in ``.tmp`` and is synced, a hard link
    gives it its name (or fails, where there is one), and the folders are synced, before anybody hears of it.

    LocalStore follows symbolic links wherever they lead. Those that lead out of the folder are refused here: somebody
    may have unpacked a savepoint that others made. The folder itself may be one.
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

    def read(self, path: str) -> bytes:
        self._refuse_way_out("read", path, self._root / check_storage_path(path))
        return super().read(path)

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        self._refuse_way_out("read", path, self._root / check_storage_path(path))
        return super().read_range(path, offset, length)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Links are neither found nor followed: LocalStore would walk into them, and fail where they form a circle."""

        def failed(error: OSError) -> None:
            if not isinstance(error, FileNotFoundError | NotADirectoryError):
                raise error

        with self._errors("list", prefix):
            top = self._root / prefix
            self._refuse_way_out("list", prefix, top)
            for folder, _, names in os.walk(top, onerror=failed):
                below = Path(folder).relative_to(self._root).as_posix()
                for name in names:
                    with suppress(FileNotFoundError):
                        status = os.lstat(f"{folder}/{name}")
                        if stat.S_ISREG(status.st_mode):
                            yield ObjectInfo(f"{below}/{name}", status.st_size, status.st_mtime_ns // 1_000_000)

    def delete(self, paths: Sequence[str]) -> None:
        # Of a link the link goes, and not where it leads.
        for folder, path in {str((self._root / check_storage_path(path)).parent): path for path in paths}.items():
            self._refuse_way_out("delete", path, Path(folder))
        super().delete(paths)

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

    def _refuse_way_out(self, operation: str, path: str, place: Path) -> None:
        if not self._is_inside(place):
            raise StorageError(f"can't {operation} {path} in {self._root}: a symbolic link leads out of that folder")

    def _is_inside(self, place: Path) -> bool:
        return Path(os.path.realpath(place)).is_relative_to(os.path.realpath(self._root))

    def _create(self, path: str, data: bytes | Upload) -> None:
        self._refuse_way_out("write", path, (self._root / path).parent)
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
