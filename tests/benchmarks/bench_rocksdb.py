"""The RocksDB backend by itself: incremental checkpoints under random updates, and state much larger than its memory.

    python -m tests.benchmarks.bench_rocksdb checkpoints --rows 1000000 --updates 20000 --seconds 60
    python -m tests.benchmarks.bench_rocksdb large --gigabytes 2 --memory 64

``checkpoints``: rows of 100 bytes, so many random updates a second in batches of one key group each, a checkpoint every
second, whose second phase runs in a thread and writes what is new into a folder, with fsync, as a storage would. Then
the top throughput with and without checkpoints. ``large``: fills the store, updates at random, takes checkpoints,
restores; what counts is that memory stays where it is.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import psutil

from moorage.api.keyed_state import KeyedState
from moorage.backends.keyed import KeyedSnapshot
from moorage.backends.rocksdb import RocksDbKeyedBackend
from moorage.backends.rocksdb_environment import Owner, RocksDbEnvironment, RocksDbMemory
from moorage.ids import CheckpointId
from moorage.state.handles import FileHandle, KeyedHandle, StreamHandle, paths_of
from moorage.state.key_groups import KeyGroupRange

GROUPS = 32
BATCH = 500
"""Records of one key group that are processed together."""


_REST_BYTES = 36
"""Of a row without its note: key and numbers."""


class Row(KeyedState):
    """With its key about 100 bytes, or as many as asked for."""

    count: int = 0
    total: float = 0.0
    note: str = ""


class Storage:
    """A folder that is written to as the checkpoint storage is."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.folder.mkdir()
        self._files = 0
        self.written_bytes = 0

    def write(self, data: bytes | Path) -> FileHandle:
        self._files += 1
        name = str(self._files)
        path = self.folder / name
        if isinstance(data, Path):
            shutil.copyfile(data, path)
        else:
            path.write_bytes(data)
        with path.open("rb") as file:
            os.fsync(file.fileno())
        size = path.stat().st_size
        self.written_bytes += size
        return FileHandle(name, size)

    def read(self, stream: StreamHandle) -> bytes:
        assert isinstance(stream, FileHandle)
        return (self.folder / stream.path).read_bytes()

    def keep(self, handles: Sequence[KeyedHandle]) -> None:
        """As the cleaner does."""
        used = {path for handle in handles for path in paths_of(handle)}
        for path in self.folder.iterdir():
            if path.name not in used:
                path.unlink()


class Taken(NamedTuple):
    sync_ms: float
    total_ms: float
    bytes: int
    handles: tuple[KeyedHandle, ...]


class Ran(NamedTuple):
    """What updates cost: on a machine that has other work, CPU time says more than the rate."""

    updates_per_second: float
    loop_us: float
    """CPU of the loop, per update."""
    process_us: float
    """Of all threads, compactions and uploads too."""


class Bench:
    def __init__(self, folder: Path, rows: int, memory_bytes: int, row_bytes: int = 100) -> None:
        self.rows = rows
        self.note_bytes = row_bytes - _REST_BYTES
        self.environment = RocksDbEnvironment(folder / "state", RocksDbMemory.within(memory_bytes))
        self.storage = Storage(folder / "storage")
        self.backend = self._new()
        self.random = random.Random(7)
        self.note = "".join(self.random.choices("abcdefghijklmnopqrstuvwxyz0123456789", k=200_000))
        self.next_id = 1
        self.base = 0
        self.pool = ThreadPoolExecutor(1)
        self.taken: list[Taken] = []
        self._pending: tuple[float, float, int, Future[tuple[int, list[FileHandle]]], KeyedSnapshot] | None = None

    def _new(self) -> RocksDbKeyedBackend[str, Row]:
        groups = KeyGroupRange(0, GROUPS - 1)
        return RocksDbKeyedBackend("bench", groups, str, Row, self.environment, Owner("bench", "bench", 0))

    def update(self, batches: int) -> None:
        """Random rows of random key groups."""
        per_group = self.rows // GROUPS
        note = self.note
        for _ in range(batches):
            group = self.random.randrange(GROUPS)
            self._process(group, [self.random.randrange(per_group) for _ in range(BATCH)], note)

    def fill(self) -> None:
        per_group = self.rows // GROUPS
        for start in range(0, per_group, BATCH):
            for group in range(GROUPS):
                self._process(group, range(start, min(per_group, start + BATCH)), self.note)

    def _process(self, group: int, numbers: Sequence[int], note: str) -> None:
        keys = [f"key-{group:02}-{number:09}" for number in numbers]
        backend = self.backend
        rows = backend.rows_for(group, keys)
        for key, number in zip(keys, numbers, strict=True):
            row = rows.get(key)
            if row is None:
                row = rows[key] = backend.new_row(group, key)
            row.count += 1
            row.total += number
            at = (number * 7_919 + row.count * 104_729) % 199_000  # neighbours have nothing in common to compress
            row.note = note[at : at + self.note_bytes]

    # --- checkpoints -------------------------------------------------------------------------------------------------

    def trigger(self) -> None:
        started = time.perf_counter()
        checkpoint = self.next_id
        self.next_id += 1
        snapshot = self.backend.snapshot(CheckpointId(checkpoint), CheckpointId(self.base))
        sync = time.perf_counter() - started

        def store() -> tuple[int, list[FileHandle]]:
            before = self.storage.written_bytes
            streams = [self.storage.write(piece.data) for piece in snapshot.encode()]
            return self.storage.written_bytes - before, streams

        self._pending = (started, sync, checkpoint, self.pool.submit(store), snapshot)

    def poll(self, *, wait: bool = False) -> None:
        """Finish the checkpoint under way when it is durable."""
        if self._pending is None or not (wait or self._pending[3].done()):
            return
        started, sync, checkpoint, future, snapshot = self._pending
        size, streams = future.result()
        handles = snapshot.finish(streams)
        self.taken.append(Taken(sync * 1e3, (time.perf_counter() - started) * 1e3, size, handles))
        self.base = checkpoint
        self._pending = None
        self.storage.keep(handles)

    def run(self, seconds: float, updates_per_second: int | None, interval_s: float | None) -> Ran:
        """Updates at a rate, or as many as can be."""
        begin = time.perf_counter()
        loop_s, process_s = time.thread_time(), time.process_time()
        done, next_checkpoint = 0, begin + (interval_s or 1e9)
        while (now := time.perf_counter()) < begin + seconds:
            self.poll()
            if now >= next_checkpoint and self._pending is None:
                self.trigger()
                next_checkpoint += interval_s or 1e9
            if updates_per_second is None or done < (now - begin) * updates_per_second:
                self.update(1)
                done += BATCH
            else:
                time.sleep(0.002)
        elapsed_s = time.perf_counter() - begin
        loop_s = time.thread_time() - loop_s
        self.poll(wait=True)
        return Ran(done / elapsed_s, loop_s / done * 1e6, (time.process_time() - process_s) / done * 1e6)

    def close(self) -> None:
        self.backend.close()
        self.environment.close()
        self.pool.shutdown()


class Memory(threading.Thread):
    """The largest resident set since it was asked last."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._process = psutil.Process()
        self.peak = 0
        self.start()

    def run(self) -> None:
        while True:
            self.peak = max(self.peak, self._process.memory_info().rss)
            time.sleep(0.05)


def _quantiles(values: Sequence[float], unit: str) -> str:
    ordered = sorted(values)
    p99 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    return f"p50 {statistics.median(ordered):.1f} {unit}, p99 {p99:.1f}, max {ordered[-1]:.1f}"


def _report(taken: Sequence[Taken]) -> None:
    print(f"  {len(taken)} checkpoints: end to end {_quantiles([t.total_ms for t in taken], 'ms')}")
    print(f"  synchronous {_quantiles([t.sync_ms for t in taken], 'ms')}")
    print(f"  written {_quantiles([t.bytes / 1e6 for t in taken], 'MB')}, mean {_mean(taken):.1f}")


def _mean_of(ran: Sequence[Ran], at: int) -> float:
    return statistics.mean(one[at] for one in ran)


def _shown(ran: Sequence[Ran]) -> str:
    return f"{_mean_of(ran, 0):,.0f} updates/s ({_mean_of(ran, 1):.1f} us of the loop, {_mean_of(ran, 2):.1f} of all)"


def _mean(taken: Sequence[Taken]) -> float:
    return statistics.mean(t.bytes for t in taken) / 1e6


def checkpoints(folder: Path, rows: int, updates: int, seconds: float, memory_bytes: int) -> None:
    bench = Bench(folder, rows, memory_bytes)
    begin = time.perf_counter()
    bench.fill()
    print(f"{rows:,} rows in {time.perf_counter() - begin:.1f} s, budget {memory_bytes >> 20} MiB, load {_load()}")
    bench.trigger()
    bench.poll(wait=True)
    bench.run(3, updates, 1.0)
    bench.taken.clear()
    before = bench.backend.figures()
    rate = bench.run(seconds, updates, 1.0)
    print(f"{rate.updates_per_second:,.0f} updates/s, a checkpoint every second, load {_load()}")
    _report(bench.taken)
    figures = bench.backend.figures()
    print(f"  tables {figures['table_bytes'] / 1e6:.0f} MB, row cache hits {_hits(before, figures):.0%}")
    without: list[Ran] = []
    with_checkpoints: list[Ran] = []
    for _ in range(3):  # taking turns, because the load of the machine changes
        without.append(bench.run(seconds / 6, None, None))
        with_checkpoints.append(bench.run(seconds / 6, None, 1.0))
    print(f"top throughput: {_shown(without)} without checkpoints, {_shown(with_checkpoints)} with one every second,")
    less = 1 - _mean_of(with_checkpoints, 0) / _mean_of(without, 0)
    loop, process = (_mean_of(with_checkpoints, at) / _mean_of(without, at) - 1 for at in (1, 2))
    print(f"  {less:.1%} less; CPU of the loop {loop:+.1%}, of the process {process:+.1%}; load {_load()}")
    bench.close()


def large(folder: Path, gigabytes: float, memory_bytes: int, row_bytes: int) -> None:
    memory = Memory()
    baseline = psutil.Process().memory_info().rss
    rows = int(gigabytes * 1e9 / row_bytes)
    bench = Bench(folder, rows, memory_bytes, row_bytes)
    begin = time.perf_counter()
    bench.fill()
    filled = time.perf_counter() - begin
    figures = bench.backend.figures()
    print(f"{rows:,} rows of {row_bytes} bytes at {rows / filled:,.0f} rows/s, load {_load()}")
    print(f"  tables {figures['table_bytes'] / 1e6:,.0f} MB on disk, budget {memory_bytes >> 20} MiB")
    print(f"  resident set: {baseline >> 20} MiB before, at most {memory.peak >> 20} MiB")
    memory.peak = 0
    begin = time.perf_counter()
    bench.trigger()
    bench.poll(wait=True)
    print(f"first checkpoint: {time.perf_counter() - begin:.1f} s, {bench.taken[-1].bytes / 1e6:,.0f} MB")
    bench.taken.clear()
    rate = bench.run(20, None, 2.0)
    print(f"random updates: {_shown([rate])} with a checkpoint every 2 s, load {_load()}")
    _report(bench.taken)
    print(f"  resident set at most {memory.peak >> 20} MiB")
    memory.peak = 0
    handles = bench.taken[-1].handles
    bench.backend.close()
    bench.backend = bench._new()
    begin = time.perf_counter()
    bench.backend.adopt(bench.backend.load(handles, bench.storage.read), CheckpointId(bench.base))
    bench.update(1)
    print(f"restored in {time.perf_counter() - begin:.1f} s, resident set at most {memory.peak >> 20} MiB")
    bench.close()


def _hits(before: Mapping[str, int], after: Mapping[str, int]) -> float:
    hits, misses = (after[name] - before[name] for name in ("cache_hits", "cache_misses"))
    return hits / max(1, hits + misses)


def _load() -> str:
    return f"{os.getloadavg()[0]:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("checkpoints")
    one.add_argument("--rows", type=int, default=1_000_000)
    one.add_argument("--updates", type=int, default=20_000)
    one.add_argument("--seconds", type=float, default=60)
    one.add_argument("--memory", type=int, default=256, help="MiB")
    other = commands.add_parser("large")
    other.add_argument("--gigabytes", type=float, default=2)
    other.add_argument("--memory", type=int, default=64, help="MiB")
    other.add_argument("--row-bytes", type=int, default=100)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="bench-rocksdb-"))
    try:
        if arguments.command == "checkpoints":
            checkpoints(folder, arguments.rows, arguments.updates, arguments.seconds, arguments.memory << 20)
        else:
            large(folder, arguments.gigabytes, arguments.memory << 20, arguments.row_bytes)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
