"""Opens a checkpoint or savepoint by what people call it: a folder, a ``_metadata`` file, or the URL of one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from moorage.adapters.object_reader import open_reader
from moorage.coordinator_process.origin import is_intact, is_ours
from moorage.errors import CorruptDataError, ObjectMissingError, SettingError
from moorage.inspect.files import StateFiles
from moorage.naming import METADATA_FILE
from moorage.serde.metadata import MAX_METADATA_BYTES, decode_metadata, metadata_version
from moorage.state.handles import FileHandle
from moorage.state.operator_state import ORIGIN_STATE, CheckpointMetadata

_CHECKPOINT = re.compile(r"chk-[0-9]+")


@dataclass(frozen=True, kw_only=True)
class OpenCheckpoint:
    location: str
    """URL or absolute path of its ``_metadata``."""
    version: int
    size_bytes: int
    """Of ``_metadata``."""
    metadata: CheckpointMetadata
    files: StateFiles
    intact: bool | None = None
    """Whether ``_metadata`` is what its own checksum says; None: it has none, as Flink's."""

    @property
    def is_ours(self) -> bool:
        """Moorage wrote it."""
        return any(state.name == ORIGIN_STATE for state in self.metadata.master_states)


def open_checkpoint(
    location: str, *, root: str | None = None, options: Mapping[str, Any] | None = None
) -> OpenCheckpoint:
    """Read the metadata of the checkpoint at ``location``: a ``_metadata`` file or its folder, a path or a URL.

    ``root``: the storage that its files lie in. Without it, a folder ``<root>/<job>/chk-<n>`` tells it; of any other
    folder, a savepoint's, all files lie in the folder itself. Raises SettingError, ObjectMissingError, StorageError,
    and CorruptDataError that names the file.
    """
    folder, name = _folder_and_name(location)
    root = _root_of(folder) if root is None else _normal(root)
    if folder != root and not folder.startswith(f"{root}/"):
        raise SettingError(f"{location} does not lie below {root}")
    relative_folder = folder.removeprefix(root).lstrip("/")
    path = f"{relative_folder}/{name}" if relative_folder else name
    files = StateFiles(open_reader(root, options), root)
    try:
        size = files.size_bytes(path)
    except ObjectMissingError:
        raise ObjectMissingError(
            f"there is no checkpoint at {folder}: it has no {name}. Name the folder of one, chk-<n> or savepoint-..."
        ) from None
    if size > MAX_METADATA_BYTES:
        raise CorruptDataError(f"{folder}/{name} has {size} bytes: more than {MAX_METADATA_BYTES} can't be metadata")
    data = files.read(FileHandle(path, size))
    try:
        version, metadata = metadata_version(data), decode_metadata(data, relative_folder)
    except CorruptDataError as error:
        raise CorruptDataError(f"{folder}/{name}: {error}") from error
    return OpenCheckpoint(
        location=f"{folder}/{name}",
        version=version,
        size_bytes=size,
        metadata=metadata,
        files=files,
        intact=is_intact(data) if is_ours(data, metadata) else None,
    )


def _folder_and_name(location: str) -> tuple[str, str]:
    location = _normal(location)
    if "://" in location:
        folder, _, name = location.rpartition("/")
        return (folder, name) if name == METADATA_FILE else (location, METADATA_FILE)
    path = Path(location)
    if path.is_file():
        return str(path.parent), path.name
    if not path.exists():
        raise ObjectMissingError(f"{location} does not exist")
    return location, METADATA_FILE


def _root_of(folder: str) -> str:
    parts = folder.rsplit("/", 2)
    is_checkpoint = len(parts) == 3 and _CHECKPOINT.fullmatch(parts[2]) and parts[1] and not parts[0].endswith("/")
    return (parts[0] or "/") if is_checkpoint else folder


def _normal(location: str) -> str:
    """Without a scheme and absolute where it is local, without a slash at the end."""
    if location.startswith("file:"):
        location = unquote(location.removeprefix("file:").removeprefix("//"))
    if "://" not in location:
        location = str(Path(location).absolute())
    return location.rstrip("/")
