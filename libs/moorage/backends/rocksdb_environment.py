"""What all RocksDB instances of a worker share: a local folder, and one budget of memory.

The budget pays for everything that grows: RocksDB's block cache, into which memtables, indexes and filters are charged,
and the rows that the backends hold decoded. As in Flink, memtables are bounded by a write buffer manager over all
instances, so a hundred idle subtasks leave the memory to a busy one. A third of RocksDB's half goes to memtables: the
manager lets them exceed its size by half before it has flushed enough (Flink: RocksDBMemoryControllerUtils).
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from rocksdict import (
    BlockBasedIndexType,
    BlockBasedOptions,
    Cache,
    DBCompressionType,
    Options,
    WriteBufferManager,
)

from moorage.backends.rocksdb_directory import WorkerDirectory
from moorage.errors import StateStoreError

_MEMTABLE_SHARE = 1 / 3
_BLOCK_BYTES = 4 << 10
_FILTER_BITS = 10
_FILE_BYTES = 32 << 20
"""Files are the unit in which checkpoints upload, share and restore: what is small is quickly in memory and seldom
rewritten for nothing, but a handle lists every one."""
_LEVEL_BYTES = 2 * _FILE_BYTES
_MANIFEST_BYTES = 1 << 20
_LOG_BYTES = 1 << 20
_BACKGROUND_JOBS = 2
_FLUSHED_TABLES = 8
"""So many flushed memtables are gathered before they are merged with the next level, which may be rewritten whole.
Every checkpoint makes one, so the default of 4 would rewrite twice as often."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RocksDbMemory:
    """How the budget of a worker is divided."""

    rocksdb_bytes: int
    rows_bytes: int
    """For decoded rows, of all backends together."""
    dirty_rows_max: int = 4_096
    """Changed rows that a backend gathers before it writes them. Writing as many takes about 5 ms, which is what the
    synchronous phase of a snapshot waits for."""

    @classmethod
    def within(cls, budget_bytes: int) -> RocksDbMemory:
        return cls(rocksdb_bytes=budget_bytes // 2, rows_bytes=budget_bytes // 2)


class Owner(NamedTuple):
    """Whose state it is."""

    job: str
    vertex: str
    subtask: int


class Member(Protocol):
    """A backend of the worker."""

    @property
    def owner(self) -> Owner: ...

    def figures(self) -> Mapping[str, int]:
        """For metrics, called from another thread: values by name, the same names always."""
        ...


class RocksDbEnvironment:
    """One for each worker process; its backends open their stores in it. SettingError when the folder can't be used."""

    def __init__(self, state_dir: Path, memory: RocksDbMemory) -> None:
        self._directory = WorkerDirectory(state_dir)
        self._names = itertools.count(1)
        self._memory = memory
        self._memtable_bytes = int(memory.rocksdb_bytes * _MEMTABLE_SHARE)
        self._cache = Cache(memory.rocksdb_bytes)
        self._write_buffers = WriteBufferManager.new_write_buffer_manager_with_cache(
            self._memtable_bytes, False, self._cache
        )
        self._members: dict[Member, Path] = {}

    # --- for backends ------------------------------------------------------------------------------------------------

    def join(self, member: Member) -> Path:
        """A backend begins: a new folder for everything that it keeps."""
        folder = self._directory.path / f"{next(self._names)}"
        try:
            folder.mkdir()
        except OSError as error:
            raise StateStoreError(f"can't keep local state in {folder}: {error.strerror}") from error
        self._members[member] = folder
        return folder

    def leave(self, member: Member) -> None:
        """A backend is closed: its folder goes. Tolerates one that has left."""
        folder = self._members.pop(member, None)
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)

    @property
    def rows_max_bytes(self) -> int:
        """What one backend's decoded rows may take: an equal share."""
        return self._memory.rows_bytes // max(1, len(self._members))

    @property
    def dirty_rows_max(self) -> int:
        return self._memory.dirty_rows_max

    def options(self) -> Options:
        """How every instance is opened."""
        table = BlockBasedOptions()
        table.set_block_cache(self._cache)
        table.set_block_size(_BLOCK_BYTES)
        table.set_format_version(6)
        table.set_bloom_filter(_FILTER_BITS, False)
        # Indexes and filters count in the budget, too, so they are cut into blocks of which only the used ones stay.
        table.set_cache_index_and_filter_blocks(True)
        table.set_index_type(BlockBasedIndexType.two_level_index_search())
        table.set_partition_filters(True)
        table.set_pin_top_level_index_and_filter(True)
        options = Options(raw_mode=True)
        options.create_if_missing(True)
        options.set_block_based_table_factory(table)
        options.set_write_buffer_manager(self._write_buffers)
        options.set_write_buffer_size(self._memtable_bytes)
        options.set_compression_type(DBCompressionType.lz4())
        options.set_level_compaction_dynamic_level_bytes(True)
        options.set_target_file_size_base(_FILE_BYTES)
        options.set_max_bytes_for_level_base(_LEVEL_BYTES)
        options.set_max_background_jobs(_BACKGROUND_JOBS)
        options.set_level_zero_file_num_compaction_trigger(_FLUSHED_TABLES)
        options.set_max_manifest_file_size(_MANIFEST_BYTES)
        # The files are scratch; what must survive is in the checkpoint storage.
        options.set_use_fsync(False)
        options.set_keep_log_file_num(1)
        options.set_max_log_file_size(_LOG_BYTES)
        options.set_stats_dump_period_sec(0)
        return options

    # --- for metrics, from any thread --------------------------------------------------------------------------------

    def memory(self) -> Mapping[str, int]:
        """Bytes in use, by what uses them."""
        return {
            "block_cache": self._cache.get_usage(),
            "block_cache_capacity": self._memory.rocksdb_bytes,
            "memtables": self._write_buffers.get_usage(),
        }

    def members(self) -> Sequence[Member]:
        """The backends that have joined."""
        return tuple(self._members)

    def close(self) -> None:
        """The worker ends: nothing is left in the local folder."""
        self._directory.close()
