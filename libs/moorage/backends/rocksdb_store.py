"""One RocksDB instance: bytes to bytes, in key order. Everything that knows rocksdict's habits is here.

There is no write-ahead log: what is not in a checkpoint is computed again.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from rocksdict import Checkpoint, DbClosedError, Options, Rdict, RdictIter, ReadOptions, WriteBatch, WriteOptions

from moorage.errors import CorruptDataError, StateStoreError

TABLE_SUFFIX = ".sst"
CURRENT = "CURRENT"
MANIFEST_PREFIX = "MANIFEST-"
_NO_SUCH_KEY = b"\xff" * 4
"""Behind every key: keys begin with a key group, of which there are at most 32,768."""

_CHUNK_BYTES = 1 << 20

Scan = Callable[[bytes, bytes | None], Iterator[tuple[bytes, bytes]]]


def in_chunks(found: Iterator[tuple[bytes, bytes]], count: int) -> Iterator[list[tuple[bytes, bytes]]]:
    """Keys and values of a scan, ``count`` at a time; fewer where they are large."""
    chunk: list[tuple[bytes, bytes]] = []
    size_bytes = 0
    for pair in found:
        chunk.append(pair)
        size_bytes += len(pair[1])
        if len(chunk) >= count or size_bytes >= _CHUNK_BYTES:
            yield chunk
            chunk, size_bytes = [], 0
    if chunk:
        yield chunk


class RocksDbStore:
    """An open instance in ``folder``: a new one, or what the files there say. StateStoreError, CorruptDataError."""

    def __init__(self, folder: Path, options: Options) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        """Between ``close`` and those who ask for properties from another thread."""
        with self._errors("open"):
            self._db: Rdict | None = Rdict(str(folder), options)
            write_options = WriteOptions()
            write_options.disable_wal = True  # type: ignore[assignment, method-assign]  # a property, whatever its stub says
            self._db.set_write_options(write_options)

    @property
    def _open(self) -> Rdict:
        if self._db is None:
            raise StateStoreError(f"local state in {self.folder} is closed")
        return self._db

    # --- read and write ----------------------------------------------------------------------------------------------

    def get(self, keys: list[bytes]) -> Sequence[bytes | None]:
        """The values, None where there is none."""
        with self._errors("read"):
            values: Sequence[bytes | None] = self._open.get(keys)  # type: ignore[assignment, arg-type]
            return values

    def write(self, batch: WriteBatch) -> None:
        """All of it or nothing. A batch can be written once."""
        with self._errors("write"):
            self._open.write(batch)

    def scan(self, start: bytes, end: bytes | None) -> Iterator[tuple[bytes, bytes]]:
        """Keys from ``start`` (inclusive) to ``end`` (exclusive; None: to the last) with their values, as they are now:
        what is written meanwhile is not seen."""
        with self._errors("read"):
            # The bound keeps RocksDB from skipping what was deleted behind the end.
            return self._walk(self._open.iter(None if end is None else _up_to(end)), start, end)

    def begun(self, prefixes: Sequence[bytes], end: bytes) -> list[bool]:
        """Whether keys begin with these prefixes, which ascend, none of them the beginning of another; ``end``: behind
        all of them. In one pass, because what lies in between and was deleted is skipped one by one each time."""
        found = []
        with self._errors("read"):
            entries = self._open.iter(_up_to(end))
            entries.seek(prefixes[0])
            for prefix in prefixes:
                if entries.valid() and entries.key() < prefix:
                    entries.seek(prefix)
                found.append(entries.valid() and entries.key().startswith(prefix))
            entries.status()
        return found

    def frozen(self) -> Scan:
        """``scan`` of what is there now, whenever it is called; one call at a time, in whatever thread. It holds disk
        space until it is forgotten, and the store open."""
        with self._errors("read"):
            # Not ``snapshot()``: its iterators see what was written later, in rocksdict 0.3.29. Any iterator is frozen.
            entries = self._open.iter()
        return partial(self._walk, entries)

    def _walk(self, entries: RdictIter, start: bytes, end: bytes | None) -> Iterator[tuple[bytes, bytes]]:
        # Not ``items()``: it takes an unreadable block for the end.
        stop = _NO_SUCH_KEY if end is None else end
        with self._errors("read"):
            entries.seek(start)
            while entries.valid():
                key = entries.key()
                if key >= stop:
                    return
                yield key, entries.value()
                entries.next()
            entries.status()

    def keys_backwards(self, start: bytes, end: bytes) -> Iterator[bytes]:
        """The keys that ``scan`` would give, the last one first."""
        with self._errors("read"):
            entries = self._open.iter()
            entries.seek_for_prev(end)
            while entries.valid() and (key := entries.key()) >= start:
                if key < end:
                    yield key
                entries.prev()
            entries.status()

    # --- checkpoints -------------------------------------------------------------------------------------------------

    def link_files(self, folder: Path) -> None:
        """Flush, and make ``folder`` with hard links to the tables and copies of the small files that belong to them:
        an instance of its own, which stays as it is."""
        with self._errors("snapshot"):
            self._open.flush()  # in C++, while other threads run; create_checkpoint would do it with the GIL held
            Checkpoint(self._open).create_checkpoint(str(folder))

    # --- figures, from any thread ------------------------------------------------------------------------------------

    def property(self, name: str) -> int:
        """A figure of RocksDB (``rocksdb.<name>``); 0 after ``close``."""
        with self._lock:
            if self._db is None:
                return 0
            return self._db.property_int_value(f"rocksdb.{name}") or 0

    def close(self) -> None:
        """Close it and delete its folder."""
        with self._lock:
            db, self._db = self._db, None
        if db is not None:
            # Its destructor would flush what is deleted in a moment, and fail where the disk is full.
            db.cancel_all_background(True)
            del db
        shutil.rmtree(self.folder, ignore_errors=True)

    @contextmanager
    def _errors(self, action: str) -> Iterator[None]:
        try:
            yield
        except DbClosedError:
            raise StateStoreError(f"local state in {self.folder} is closed") from None
        except Exception as error:
            if type(error) is not Exception:  # rocksdict raises nothing more specific
                raise
            message = f"can't {action} local state in {self.folder}: {error}"
            kind = CorruptDataError if str(error).startswith("Corruption") else StateStoreError
            raise kind(message) from error


def _up_to(end: bytes) -> ReadOptions:
    options = ReadOptions()
    options.set_iterate_upper_bound(end)
    return options
