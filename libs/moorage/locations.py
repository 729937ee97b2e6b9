"""Objects by relative path or by URL.

What a checkpoint refers to lies in the checkpoint storage and is named relative to its root. A savepoint may lie
anywhere: it is one folder, which a URL names where it is not in the checkpoint storage. Its ``_metadata`` names its
files relative to that folder, so it can be moved as a whole; whoever reads it puts the folder before them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from moorage.errors import ObjectMissingError, StorageError
from moorage.naming import is_url, split_url
from moorage.ports import CheckpointStorage, ObjectInfo, UnfinishedUpload, Upload


class OpenStorage(Protocol):
    """*Blocking.* The storage at a URL. ``create``: make a folder that is not there; else ObjectMissingError.
    StorageError, SettingError."""

    def __call__(self, url: str, /, *, create: bool) -> CheckpointStorage: ...


class _Place(NamedTuple):
    """Where a path lies: in ``storage``, whose paths begin behind ``root``."""

    storage: CheckpointStorage
    root: str
    path: str


class LocatedStorage:
    """``ports.CheckpointStorage`` whose paths may be URLs, too: then they name an object of another storage, which is
    opened when it is first needed; only a write makes a folder. May be used by many threads."""

    def __init__(self, storage: CheckpointStorage, open_storage: OpenStorage) -> None:
        self._storage = storage
        self._open_storage = open_storage
        self._opened: dict[str, CheckpointStorage] = {}

    def write(self, path: str, data: bytes | Upload) -> None:
        place = self._find(path, create=True)
        place.storage.write(place.path, data)

    def read(self, path: str) -> bytes:
        place = self._find(path)
        return place.storage.read(place.path)

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        place = self._find(path)
        return place.storage.read_range(place.path, offset, length)

    def list(self, prefix: str) -> Iterable[ObjectInfo]:
        if not prefix.endswith("/"):
            raise StorageError(f"{prefix!r} is not a prefix: it must end in '/'")
        # In the storage that finds an object of the folder.
        try:
            place = self._find(f"{prefix}_")
        except ObjectMissingError:
            return ()
        below = place.path.removesuffix("_")
        return (info._replace(path=place.root + info.path) for info in place.storage.list(below))

    def delete(self, paths: Sequence[str]) -> None:
        by_root: defaultdict[str, list[_Place]] = defaultdict(list)
        for path in paths:
            try:
                place = self._find(path)
            except ObjectMissingError:
                continue  # with its folder
            by_root[place.root].append(place)
        for places in by_root.values():
            places[0].storage.delete([place.path for place in places])

    def unfinished_uploads(self, prefix: str) -> Sequence[UnfinishedUpload]:
        """Of the checkpoint storage alone."""
        return self._storage.unfinished_uploads(prefix)

    def abort_uploads(self, uploads: Sequence[UnfinishedUpload]) -> None:
        self._storage.abort_uploads(uploads)

    def _find(self, path: str, *, create: bool = False) -> _Place:
        if not is_url(path):
            return _Place(self._storage, "", path)
        root, relative = split_url(path)
        storage = self._opened.get(root)
        if storage is None:
            storage = self._opened.setdefault(root, self._open_storage(root, create=create))
        return _Place(storage, f"{root}/", relative)
