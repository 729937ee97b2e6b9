"""Where checkpoints and savepoints lie: relative to the checkpoint storage, or anywhere, named by a URL.

A checkpoint names its files relative to the root of its storage; a savepoint is one folder, whose files are named
relative to it, so it can be moved as a whole. Either way what is needed to read one is a storage and the path of its
``_metadata`` in it: the storage above ``<job>/chk-<n>``, or above the savepoint's folder.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from moorage.errors import StorageError
from moorage.naming import METADATA_FILE, metadata_of, split_checkpoint_location
from moorage.ports import CheckpointStorage

OpenStorage = Callable[[str], CheckpointStorage]
"""*Blocking.* The storage at a URL. StorageError, SettingError."""


def no_other_storage(url: str) -> CheckpointStorage:
    """For those who only know their own storage."""
    raise StorageError(f"{url} can't be opened here")


class Place(NamedTuple):
    """A folder of a storage."""

    storage: CheckpointStorage
    folder: str

    @property
    def metadata_path(self) -> str:
        return f"{self.folder}/{METADATA_FILE}"


class Locations:
    """Finds what a path in ``storage`` or a URL names. May be used by many threads."""

    def __init__(self, storage: CheckpointStorage, open_storage: OpenStorage = no_other_storage) -> None:
        self._storage = storage
        self._open_storage = open_storage
        self._opened: dict[str, CheckpointStorage] = {}

    def folder(self, location: str) -> Place:
        """*Blocking.* The folder of a checkpoint or savepoint; ``location`` may also name its ``_metadata``."""
        folder = metadata_of(location).removesuffix(f"/{METADATA_FILE}")
        if "://" not in folder:
            return Place(self._storage, folder)
        root, folder = split_checkpoint_location(folder)
        storage = self._opened.get(root)
        if storage is None:
            storage = self._opened.setdefault(root, self._open_storage(root))
        return Place(storage, folder)
