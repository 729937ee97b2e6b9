"""The checkpoint storage in a dict."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from moorage.errors import CorruptDataError, ObjectExistsError, ObjectMissingError, StorageError
from moorage.naming import check_storage_path
from moorage.ports import Clock, ObjectInfo, UnfinishedUpload, Upload
from moorage.testing.faults import Faults


class MemoryStorage:
    """``ports.CheckpointStorage``.

    ``faults.fail_next("write" | "read" | "list" | "delete" | "uploads", error)`` fails one call, ``available = False``
    every call, ``corrupt`` damages an object in place.
    """

    def __init__(self, clock: Clock) -> None:
        self.available = True
        self.faults = Faults()
        self._clock = clock
        self._objects: dict[str, tuple[bytes, int]] = {}
        self._unfinished: list[UnfinishedUpload] = []

    def write(self, path: str, data: bytes | Upload) -> None:
        check_storage_path(path)
        self._check_available()
        with self.faults.around("write"):
            content = b"".join(data.chunks) if isinstance(data, Upload) else bytes(data)
            stored = (content, self._clock.wall_ms())
            # setdefault is one atomic step; a test of its identity tells who came first, even between threads.
            if self._objects.setdefault(path, stored) is not stored:
                raise ObjectExistsError(f"{path} exists already in the checkpoint storage")

    def read(self, path: str) -> bytes:
        check_storage_path(path)
        self._check_available()
        with self.faults.around("read"):
            try:
                return self._objects[path][0]
            except KeyError:
                raise ObjectMissingError(f"{path} is not in the checkpoint storage") from None

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        data = self.read(path)
        if offset + length > len(data):
            raise CorruptDataError(
                f"{path} in the checkpoint storage has {len(data)} bytes, {length} from {offset} on were asked for"
            )
        return data[offset : offset + length]

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        check_storage_path(prefix.removesuffix("/"))
        self._check_available()
        with self.faults.around("list"):
            found = [(path, stored) for path, stored in self._objects.items() if path.startswith(prefix)]
        return (ObjectInfo(path, len(data), modified_ms) for path, (data, modified_ms) in found)

    def delete(self, paths: Sequence[str]) -> None:
        for path in paths:
            check_storage_path(path)
        self._check_available()
        with self.faults.around("delete"):
            for path in paths:
                self._objects.pop(path, None)

    def unfinished_uploads(self, prefix: str) -> Sequence[UnfinishedUpload]:
        check_storage_path(prefix.removesuffix("/"))
        self._check_available()
        with self.faults.around("uploads"):
            return [upload for upload in self._unfinished if upload.path.startswith(prefix)]

    def abort_uploads(self, uploads: Sequence[UnfinishedUpload]) -> None:
        self._check_available()
        self._unfinished = [upload for upload in self._unfinished if upload not in uploads]

    # --- for tests ---------------------------------------------------------------------------------------------------

    def begin_upload(self, path: str) -> UnfinishedUpload:
        """As a writer that dies in the middle of it."""
        upload = UnfinishedUpload(path, f"upload-{len(self._unfinished)}", self._clock.wall_ms())
        self._unfinished.append(upload)
        return upload

    def paths(self) -> Sequence[str]:
        """Everything that is stored, sorted."""
        return sorted(self._objects)

    def corrupt(self, path: str) -> None:
        """Flip the bits of the middle byte; an empty object gets one byte too many."""
        data, modified_ms = self._objects[path]
        middle = len(data) // 2
        damaged = (
            data[:middle] + bytes(~byte & 0xFF for byte in data[middle : middle + 1] or b"\0") + data[middle + 1 :]
        )
        self._objects[path] = (damaged, modified_ms)

    def _check_available(self) -> None:
        if not self.available:
            raise StorageError("the checkpoint storage does not answer")
