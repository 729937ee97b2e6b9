"""The checkpoint storage: a directory, or a bucket of S3, Google or Azure, through obstore."""

from __future__ import annotations

import builtins
import os
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import obstore
from obstore import exceptions
from obstore.store import LocalStore, ObjectStore, from_url

from moorage.errors import ObjectExistsError, ObjectMissingError, SettingError, StorageError
from moorage.naming import check_storage_path
from moorage.ports import ObjectInfo

_RETRIES: Mapping[str, Any] = {"max_retries": 5, "retry_timeout": timedelta(seconds=30)}
"""A checkpoint should hear soon that the storage is gone; obstore's default is three minutes."""


def open_storage(url: str, options: Mapping[str, Any] | None = None) -> ObjectStorage:
    """The storage at ``url``: ``file:///path`` or a plain path, ``s3://bucket/prefix``, ``gs://``, ``az://``.

    ``options`` are obstore's for that kind of store (region, endpoint, credentials, ...; the usual environment
    variables count, too). SettingError when the URL or an option is not understood, StorageError when a directory
    can't be made.
    """
    parts = urlsplit(url)
    if not parts.scheme:
        return DirectoryStorage(Path(url))
    if parts.scheme == "file":
        if parts.netloc not in ("", "localhost") or not parts.path:
            raise SettingError(f"checkpoint storage {url}: use file:///path, with three slashes")
        return DirectoryStorage(Path(unquote(parts.path)))
    try:
        return ObjectStorage(from_url(url, **{"retry_config": _RETRIES, **(options or {})}), url)
    except (exceptions.BaseError, ValueError, TypeError) as error:
        raise SettingError(f"checkpoint storage {url}: {_first_line(error)}") from None


class ObjectStorage:
    """``ports.CheckpointStorage`` on an object store with conditional puts."""

    def __init__(self, store: ObjectStore, url: str) -> None:
        self._store = store
        self._url = url

    def write(self, path: str, data: bytes) -> None:
        with self._errors("write", path):
            try:
                self._create(path, data)
            except (exceptions.AlreadyExistsError, FileExistsError):
                raise ObjectExistsError(f"{path} in {self._url} exists already") from None

    def read(self, path: str) -> bytes:
        with self._errors("read", path):
            try:
                return obstore.get(self._store, path).bytes().to_bytes()
            except FileNotFoundError:
                raise ObjectMissingError(f"{path} in {self._url} does not exist") from None

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        with self._errors("list", prefix):
            for chunk in obstore.list(self._store, prefix.removesuffix("/")):
                for found in chunk:
                    modified_ms = int(found["last_modified"].timestamp() * 1000)
                    yield ObjectInfo(found["path"], found["size"], modified_ms)

    def delete(self, paths: Sequence[str]) -> None:
        for path in paths:
            check_storage_path(path)
        if not paths:
            return
        with self._errors("delete", paths[0]):
            try:
                obstore.delete(self._store, builtins.list(paths))
            except FileNotFoundError:
                # Some stores stop at the first one that is gone.
                for path in paths:
                    with suppress(FileNotFoundError):
                        obstore.delete(self._store, path)

    def _create(self, path: str, data: bytes) -> None:
        obstore.put(self._store, path, data, mode="create")

    @contextmanager
    def _errors(self, operation: str, path: str) -> Iterator[None]:
        check_storage_path(path.removesuffix("/"))
        try:
            yield
        except OSError as error:
            reason = error.strerror or _first_line(error)
            raise StorageError(f"can't {operation} {path} in {self._url}: {reason}") from error
        except (exceptions.BaseError, ValueError) as error:
            raise StorageError(f"can't {operation} {path} in {self._url}: {_first_line(error)}") from error


class DirectoryStorage(ObjectStorage):
    """Objects as files.

    obstore's LocalStore creates atomically but never syncs, so after a power cut a checkpoint that was registered could
    be an empty file. Hence our own way to create: the data goes to a file in ``.tmp`` and is synced, a hard link
    gives it its name (or fails, where there is one), and the folders are synced, before anybody hears of it.
    """

    _TMP = ".tmp"
    _ABANDONED_S = 3_600.0
    _LINK_ATTEMPTS = 100

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()
        self._tmp = self._root / self._TMP
        try:
            self._tmp.mkdir(parents=True, exist_ok=True)
            self._remove_abandoned()
        except OSError as error:
            raise StorageError(f"checkpoint storage {root} can't be used: {error.strerror}") from error
        super().__init__(LocalStore(self._root, automatic_cleanup=True), str(self._root))

    def _create(self, path: str, data: bytes) -> None:
        temporary = self._tmp / uuid.uuid4().hex
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            folder = self._root / path
            self._link(temporary, folder)
        finally:
            temporary.unlink(missing_ok=True)
        while folder != self._root:
            folder = folder.parent
            _sync_folder(folder)

    def _link(self, temporary: Path, target: Path) -> None:
        for attempts_left in reversed(range(self._LINK_ATTEMPTS)):
            # A delete that empties a folder takes it away, perhaps right now: between our two steps, or between the two
            # of mkdir, which then says that the folder exists and is none.
            with suppress(FileExistsError):
                target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(temporary, target)
                return
            except FileNotFoundError:
                if attempts_left == 0:
                    raise

    def _remove_abandoned(self) -> None:
        """What a crash in the middle of a write left behind."""
        for file in self._tmp.iterdir():
            with suppress(FileNotFoundError):
                if time.time() - file.stat().st_mtime > self._ABANDONED_S:
                    file.unlink()


def _sync_folder(folder: Path) -> None:
    """Make the names in it durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _first_line(error: Exception) -> str:
    """obstore appends its debug output."""
    return str(error).partition("\n")[0]
