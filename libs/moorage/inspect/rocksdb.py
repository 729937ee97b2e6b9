"""RocksDB instances in a checkpoint: their files are brought to this machine for as long as their rows are read."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import xxhash
from rocksdict import Options

from moorage.backends.rocksdb_codec import PREFIX_BYTES, group_start
from moorage.backends.rocksdb_snapshot import Contents, decode_contents
from moorage.backends.rocksdb_store import CURRENT, MANIFEST_PREFIX, TABLE_SUFFIX, RocksDbStore
from moorage.errors import CorruptDataError, StateStoreError
from moorage.inspect.decoding import MALFORMED, EntryDecoder, KeyRows, RowDecoder, decode, decode_schema
from moorage.inspect.files import StateFiles, stream_name
from moorage.serde.row_schema import RowSchema
from moorage.state.handles import IncrementalKeyedHandle

_FILE_NAME = re.compile(rf"[0-9]+{re.escape(TABLE_SUFFIX)}|{MANIFEST_PREFIX}[0-9]+|{CURRENT}")


class RocksDbInstance:
    """One subtask's instance."""

    def __init__(self, name: str, contents: Contents, store: RocksDbStore) -> None:
        self._name = name
        self._contents = contents
        self._store = store
        self._rows = [RowDecoder(schema) for schema in _schemas(name, contents)]
        self._entries: dict[tuple[int, int], EntryDecoder] = {}
        """By the numbers of schema and state."""

    def apply(self, group: int, keys: KeyRows) -> None:
        """Add the rows of a key group."""
        try:
            for key, value in self._store.scan(group_start(group), group_start(group + 1)):
                schema, state = value[0], key[PREFIX_BYTES - 1]
                if state == 0:
                    self._rows[schema].put(keys, key[PREFIX_BYTES:], _decode_row(value[1:]))
                else:
                    owner, entry = _decode_entry(b"\x92" + key[PREFIX_BYTES:])  # the array of the two
                    entries = self._entries.get((schema, state)) or self._find(schema, state)
                    entries.put(keys, bytes(owner), bytes(entry), decode(value[1:]))
        except MALFORMED as error:
            raise CorruptDataError(f"{self._name}, key group {group}: {error}") from error

    def _find(self, schema: int, number: int) -> EntryDecoder:
        """Where a state was renamed, values of older schemas lie under the new name."""
        name = self._contents.state_names[number - 1]
        states = [state for rows in (*self._rows, self._rows[schema]) for state in rows.states]
        found = self._entries[schema, number] = {state.name: state for state in states}[name]
        return found


def instance_schemas(handle: IncrementalKeyedHandle, files: StateFiles) -> dict[bytes, RowSchema]:
    """The schemas by which the rows of an instance were written, by their bytes."""
    name, contents = _contents(handle, files)
    return dict(zip(contents.schemas, _schemas(name, contents), strict=True))


@contextmanager
def opened(handle: IncrementalKeyedHandle, files: StateFiles) -> Iterator[RocksDbInstance]:
    """The instance, from verified copies of its files in a temporary folder. CorruptDataError, StateStoreError."""
    name, contents = _contents(handle, files)
    with tempfile.TemporaryDirectory(prefix="moorage-inspect-") as parent:
        folder = Path(parent) / "db"
        try:
            folder.mkdir()
            _download(name, handle, contents, files, folder)
        except OSError as error:
            raise StateStoreError(f"can't write local state in {folder}: {error.strerror}") from error
        store = RocksDbStore(folder, Options(raw_mode=True))
        try:
            yield RocksDbInstance(name, contents, store)
        finally:
            store.close()


def _contents(handle: IncrementalKeyedHandle, files: StateFiles) -> tuple[str, Contents]:
    name = stream_name(handle.metadata)
    return name, decode_contents(files.read(handle.metadata), name)


def _schemas(name: str, contents: Contents) -> list[RowSchema]:
    try:
        return [RowDecoder(decode_schema(schema)).schema for schema in contents.schemas]
    except MALFORMED as error:
        raise CorruptDataError(f"{name}: schema of stored rows: {error}") from error


def _download(name: str, handle: IncrementalKeyedHandle, contents: Contents, files: StateFiles, folder: Path) -> None:
    wanted = {file.local_path: file.stream for file in (*handle.shared, *handle.private)}
    if wanted.keys() != contents.files.keys():
        raise CorruptDataError(f"{name}: files and table of contents differ")
    for local_path, stream in wanted.items():
        if not _FILE_NAME.fullmatch(local_path):
            raise CorruptDataError(f"{name}: {local_path!r} is not a file of RocksDB")
        digest = xxhash.xxh3_64()
        with (folder / local_path).open("xb") as file:
            for chunk in files.chunks(stream):
                digest.update(chunk)
                file.write(chunk)
        if digest.intdigest() != contents.files[local_path].checksum:
            raise CorruptDataError(f"{stream_name(stream)} ({local_path}): wrong checksum")


_decode_row = msgspec.msgpack.Decoder(list[Any]).decode
_decode_entry = msgspec.msgpack.Decoder(tuple[msgspec.Raw, msgspec.Raw]).decode
