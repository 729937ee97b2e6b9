"""A storage on an object store with conditional puts."""

from __future__ import annotations

import builtins
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress

import obstore
from obstore import exceptions
from obstore.store import ObjectStore, S3Store

from moorage.adapters.object_storage.unfinished import S3Uploads
from moorage.errors import CorruptDataError, ObjectExistsError, ObjectMissingError, StorageError
from moorage.naming import check_storage_path
from moorage.ports import ObjectInfo, UnfinishedUpload, Upload

MULTIPART_FROM_BYTES = 16 << 20
"""Objects from this size on are sent in parts."""
_PART_BYTES = 8 << 20
_PARTS_MAX = 9_000
"""S3 takes 10,000 of them."""

_PROBLEM = re.compile(r"<Code>(.*?)</Code>.*?<Message>(.*?)</Message>", re.DOTALL)
_NO_BUCKET = ("<Code>NoSuchBucket</Code>", "<Code>ContainerNotFound</Code>", "The specified container does not exist")
"""The last: of Azure's answer to many deletions at once, where obstore leaves the code out."""


class ObjectStorage:
    """``ports.CheckpointStorage`` on an object store with conditional puts.

    A store commits the parts of a big object without a condition. So for those, create-if-absent is a look before the
    upload: of two that create the same one at the same time, both may succeed. Big are state files, whose paths have
    one writer each.
    """

    def __init__(self, store: ObjectStore, url: str, *, parts_at_once: int = 4) -> None:
        self._store = store
        self._url = url
        self._parts_at_once = parts_at_once
        self._uploads = S3Uploads(store, url) if isinstance(store, S3Store) else None

    def write(self, path: str, data: bytes | Upload) -> None:
        with self._errors("write", path):
            try:
                self._create(path, data)
            except (exceptions.AlreadyExistsError, FileExistsError):
                raise ObjectExistsError(f"{path} in {self._url} exists already") from None

    def read(self, path: str) -> bytes:
        with self._errors("read", path), self._missing(path):
            return obstore.get(self._store, path).bytes().to_bytes()

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        with self._errors("read", path), self._missing(path):
            try:
                data = obstore.get_range(self._store, path, start=offset, length=length).to_bytes()
            except FileNotFoundError:
                raise
            except (exceptions.BaseError, ValueError, OSError):
                # Stores tell in ways of their own that an object ends before the range begins.
                size_bytes = obstore.head(self._store, path)["size"]
                if size_bytes >= offset + length:
                    raise
            else:
                if len(data) == length:
                    return data
                size_bytes = offset + len(data)
            raise CorruptDataError(
                f"{path} in {self._url} has {size_bytes} bytes, {length} from {offset} on were asked for"
            )

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
            except FileNotFoundError as error:
                _refuse_missing_bucket(error)
                # Some stores stop at the first one that is gone.
                for path in paths:
                    with suppress(FileNotFoundError):
                        obstore.delete(self._store, path)

    def unfinished_uploads(self, prefix: str) -> Sequence[UnfinishedUpload]:
        check_storage_path(prefix.removesuffix("/"))
        return () if self._uploads is None else self._uploads.list(prefix)

    def abort_uploads(self, uploads: Sequence[UnfinishedUpload]) -> None:
        if self._uploads is not None:
            self._uploads.abort(uploads)

    def _create(self, path: str, data: bytes | Upload) -> None:
        if isinstance(data, Upload):
            if data.size_bytes < MULTIPART_FROM_BYTES:
                obstore.put(self._store, path, b"".join(data.chunks), mode="create")
                return
            content: bytes | Iterable[bytes] = data.chunks
            size_bytes = data.size_bytes
        elif len(data) < MULTIPART_FROM_BYTES:
            obstore.put(self._store, path, data, mode="create")
            return
        else:
            content, size_bytes = data, len(data)
        with suppress(FileNotFoundError):
            obstore.head(self._store, path)
            raise FileExistsError(path)
        obstore.put(
            self._store,
            path,
            content,
            use_multipart=True,
            chunk_size=max(_PART_BYTES, size_bytes // _PARTS_MAX),
            max_concurrency=self._parts_at_once,
        )

    @contextmanager
    def _missing(self, path: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            _refuse_missing_bucket(error)
            raise ObjectMissingError(f"{path} in {self._url} does not exist") from None

    @contextmanager
    def _errors(self, operation: str, path: str) -> Iterator[None]:
        check_storage_path(path.removesuffix("/"))
        try:
            yield
        except OSError as error:
            reason = error.strerror or reason_of(error)
            raise StorageError(f"can't {operation} {path} in {self._url}: {reason}") from error
        except (exceptions.BaseError, ValueError) as error:
            raise StorageError(f"can't {operation} {path} in {self._url}: {reason_of(error)}") from error


def _refuse_missing_bucket(error: FileNotFoundError) -> None:
    """obstore says the same when the bucket is gone, but that says nothing of the object."""
    if any(code in str(error) for code in _NO_BUCKET):
        raise StorageError(reason_of(error)) from error


def reason_of(error: Exception) -> str:
    """One line: what the store answered, without obstore's debug output, and without the ids that Azure adds."""
    if problem := _PROBLEM.search(str(error)):
        return f"{problem[2].strip().partition(chr(10))[0]} ({problem[1].strip()})"
    return str(error).partition("\n")[0]
