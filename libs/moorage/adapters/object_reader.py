"""Reading only, of files that others may have written: a folder or an object store, which nothing here ever changes."""

from __future__ import annotations

import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

import obstore
from obstore import exceptions
from obstore.store import ObjectStore, from_url

from moorage.adapters.object_storage.bucket import reason_of
from moorage.errors import ObjectMissingError, SettingError, StorageError

_RETRIES: Mapping[str, Any] = {"max_retries": 3, "retry_timeout": timedelta(seconds=15)}
"""Somebody waits for the answer."""


class ObjectReader(Protocol):
    """Objects below a root, by relative paths. All calls are *blocking*; StorageError names object and root."""

    def size_bytes(self, path: str) -> int:
        """ObjectMissingError when it does not exist."""
        ...

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        """At most ``length`` bytes from ``offset`` on; fewer where the object ends earlier."""
        ...


def open_reader(root: str, options: Mapping[str, Any] | None = None) -> ObjectReader:
    """What lies below ``root``: a local folder (without a scheme), ``s3://bucket/prefix``, ``gs://``, ``az://``.

    ``options`` are obstore's for that kind of store; the usual environment variables count, too. SettingError when the
    URL or an option is not understood.
    """
    if "://" not in root:
        return FolderReader(Path(root))
    try:
        return StoreReader(from_url(root, **{"retry_config": _RETRIES, **(options or {})}), root)
    except (exceptions.BaseError, ValueError, TypeError) as error:
        raise SettingError(f"{root} can't be read: {reason_of(error)}") from None


class FolderReader:
    """Regular files below a folder; a link that leads out of it is refused."""

    def __init__(self, root: Path) -> None:
        self._root = root.resolve()

    def size_bytes(self, path: str) -> int:
        with self._errors(path):
            status = self._file(path).stat()
            if not stat.S_ISREG(status.st_mode):
                raise StorageError(f"{path} in {self._root} is no file")
            return status.st_size

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        with self._errors(path), self._file(path).open("rb") as file:
            file.seek(offset)
            return file.read(length)

    def _file(self, path: str) -> Path:
        file = (self._root / path).resolve(strict=True)
        if not file.is_relative_to(self._root):
            raise StorageError(f"{path} leads out of {self._root}")
        return file

    @contextmanager
    def _errors(self, path: str) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, NotADirectoryError):
            raise ObjectMissingError(f"{path} in {self._root} does not exist") from None
        except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: links in a circle
            reason = getattr(error, "strerror", None) or error
            raise StorageError(f"can't read {path} in {self._root}: {reason}") from error


class StoreReader:
    """Objects below the prefix of a store."""

    def __init__(self, store: ObjectStore, url: str) -> None:
        self._store = store
        self._url = url

    def size_bytes(self, path: str) -> int:
        with self._errors(path):
            return obstore.head(self._store, path)["size"]

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        if not length:
            return b""
        with self._errors(path):
            return obstore.get_range(self._store, path, start=offset, length=length).to_bytes()

    @contextmanager
    def _errors(self, path: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise ObjectMissingError(f"{path} in {self._url} does not exist") from None
        except (OSError, exceptions.BaseError, ValueError) as error:
            raise StorageError(f"can't read {path} in {self._url}: {reason_of(error)}") from error
