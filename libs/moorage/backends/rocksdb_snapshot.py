"""Snapshots of a RocksDB backend in its own format: files by hard links, of which each is uploaded once.

The synchronous phase only makes sure that RocksDB has everything. Flushing and linking happen in the thread of the
second phase; meanwhile the backend writes nothing, so what RocksDB has is what it had at the barrier.

RocksDB's tables never change, so a checkpoint is a list of them. Those that the base checkpoint has, too, are referred
to by its handles; all others are uploaded under a name of this checkpoint, also when an earlier checkpoint whose fate
is not known has uploaded them (docs/decisions/0001). MANIFEST and CURRENT, which say what the tables are to each other,
are small and written every time, and so is the table of contents: sizes, checksums and the schemas of the rows.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import xxhash

from moorage.backends.pieces import StatePiece
from moorage.backends.rocksdb_store import CURRENT, MANIFEST_PREFIX, TABLE_SUFFIX, RocksDbStore
from moorage.errors import CorruptDataError, StateStoreError
from moorage.ids import CheckpointId
from moorage.state.handles import HandleAndLocalPath, IncrementalKeyedHandle, StreamHandle
from moorage.state.key_groups import KeyGroupRange

_FORMAT = 1
_CONTENTS = "CONTENTS"
_CHUNK_BYTES = 1 << 20


class LocalFile(msgspec.Struct, frozen=True, array_like=True):
    """What a file of an instance must be."""

    size_bytes: int
    checksum: int
    """xxh3-64."""


class Contents(msgspec.Struct, frozen=True, kw_only=True):
    """The table of contents of a snapshot; the metadata of its IncrementalKeyedHandle."""

    format: int = _FORMAT
    schemas: tuple[bytes, ...]
    state_names: tuple[str, ...]
    """See ``rocksdb_codec``."""
    files: dict[str, LocalFile]
    """Every table by its name, MANIFEST and CURRENT."""


class Table(NamedTuple):
    """A table that is durable."""

    stream: StreamHandle
    file: LocalFile


_encode_contents = msgspec.msgpack.Encoder().encode
_decode_contents = msgspec.msgpack.Decoder(Contents).decode


def decode_contents(data: bytes, what: str) -> Contents:
    """CorruptDataError when it is none."""
    try:
        contents = _decode_contents(data)
    except (ValueError, RecursionError) as error:
        raise CorruptDataError(f"{what}: not a table of contents of a RocksDB snapshot: {error}") from error
    if contents.format != _FORMAT:
        raise CorruptDataError(f"{what}: RocksDB snapshot of format {contents.format}, which this version can't read")
    return contents


class RocksDbSnapshot:
    """An incremental or full snapshot in the backend's own format. Its hard links go with ``finish`` or ``discard``."""

    def __init__(
        self,
        *,
        operator: str,
        backend_id: str,
        checkpoint: CheckpointId,
        key_groups: KeyGroupRange,
        store: RocksDbStore,
        folder: Path,
        base: Mapping[str, Table],
        schemas: Sequence[bytes],
        state_names: Sequence[str],
    ) -> None:
        """``store``: must not be written to until ``link`` was called. ``folder``: of the links, does not exist yet.
        ``base``: tables that need not be uploaded."""
        self.checkpoint = checkpoint
        self.tables: dict[str, Table] | None = None
        """What a later checkpoint may refer to; known when it is finished."""
        self._operator = operator
        self._backend_id = backend_id
        self._key_groups = key_groups
        self._folder = folder
        self._base = base
        self._store = store
        self._linking = threading.Lock()
        self.linked = False
        """The store may be written to."""
        self._failure: StateStoreError | None = None
        self._contents = Contents(schemas=tuple(schemas), state_names=tuple(state_names), files={})

    def link(self) -> None:
        """*Blocking*: flush the store and make the links, if that was not done. The thread of the second phase does it,
        unless the loop can't wait. What goes wrong is raised by ``encode``: a disk that is full fails the checkpoint,
        not the subtask."""
        with self._linking:
            if not self.linked:
                try:
                    self._store.link_files(self._folder)
                except StateStoreError as error:
                    self._failure = error
                self.linked = True

    def encode(self) -> Sequence[StatePiece]:
        self.link()
        if self._failure is not None:
            raise self._failure
        try:
            return self._pieces()
        except OSError as error:
            raise StateStoreError(f"can't read the snapshot in {self._folder}: {error.strerror}") from error

    def _pieces(self) -> list[StatePiece]:
        names = sorted(path.name for path in self._folder.iterdir())
        tables = [name for name in names if name.endswith(TABLE_SUFFIX)]
        private = [name for name in names if name.startswith(MANIFEST_PREFIX) or name == CURRENT]
        files = {name: self._base[name].file for name in tables if name in self._base}
        files |= {name: _local_file(self._folder / name) for name in tables + private if name not in files}
        self._contents = msgspec.structs.replace(self._contents, files=files)
        return [
            *(self._piece(name, self._folder / name, shared=True) for name in tables if name not in self._base),
            *(self._piece(name, (self._folder / name).read_bytes(), shared=False) for name in private),
            self._piece(_CONTENTS, _encode_contents(self._contents), shared=False),
        ]

    def _piece(self, name: str, data: bytes | Path, *, shared: bool) -> StatePiece:
        return StatePiece(f"{self._operator}.{name}", shared, data)

    def finish(self, streams: Sequence[StreamHandle]) -> tuple[IncrementalKeyedHandle]:
        *stored, contents = streams
        new = iter(stored)
        tables: dict[str, Table] = {}
        for name, file in self._contents.files.items():
            if name.endswith(TABLE_SUFFIX):
                tables[name] = self._base[name] if name in self._base else Table(next(new), file)
        private = [name for name in self._contents.files if not name.endswith(TABLE_SUFFIX)]
        handle = IncrementalKeyedHandle(
            backend_id=self._backend_id,
            checkpoint=self.checkpoint,
            key_groups=self._key_groups,
            shared=tuple(HandleAndLocalPath(name, table.stream) for name, table in tables.items()),
            private=tuple(HandleAndLocalPath(name, stream) for name, stream in zip(private, new, strict=True)),
            metadata=contents,
            written_bytes=sum(stream.size_bytes for stream in streams),
            handle_id=f"{self._backend_id}-{self.checkpoint}",
        )
        self.tables = tables
        self.discard()
        return (handle,)

    def discard(self) -> None:
        """Take away the hard links, and make none if there are none yet."""
        with self._linking:
            if not self.linked:
                self._failure = StateStoreError(f"the snapshot in {self._folder} was given up")
                self.linked = True
        shutil.rmtree(self._folder, ignore_errors=True)


def _local_file(path: Path) -> LocalFile:
    digest = xxhash.xxh3_64()
    size_bytes = 0
    for chunk in _chunks(path):
        digest.update(chunk)
        size_bytes += len(chunk)
    return LocalFile(size_bytes, digest.intdigest())


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk
