"""What checkpoints of keyed state cost, and what they do to the loop meanwhile. By hand:

    python -m tests.benchmarks.bench_state --rows 1000000 --updates 20000

For each number of rows (of about 100 bytes): a loop updates random rows at a given rate, key group by key group as
frames bring them, and takes a checkpoint every second, which another thread encodes and writes to files, synced to the
disk. Printed are the synchronous phase, the whole duration and the bytes of a checkpoint (median and worst); the steps
of the loop with and without checkpoints; how many updates it manages when it never waits, by the clock and by the CPU
time of the process, compression in threads included, which other load on the machine disturbs less; and how long a
restore takes. Forms: incremental, or full, where each checkpoint writes everything, as Flink's heap backend does.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import moorage as mo
from moorage.adapters.object_storage import open_storage
from moorage.backends.keyed import KeyedBackend, KeyedSnapshot, SnapshotForm
from moorage.backends.memory import MemoryKeyedBackend
from moorage.backends.pieces import StatePiece
from moorage.backends.rocksdb import RocksDbKeyedBackend
from moorage.backends.rocksdb_environment import Owner, RocksDbEnvironment, RocksDbMemory
from moorage.ids import CheckpointId
from moorage.ports import CheckpointStorage, Upload
from moorage.state.handles import FileHandle, KeyedHandle, StreamHandle
from moorage.state.key_groups import KeyGroupRange

GROUPS = 32
FRAME_RECORDS = 500
INTERVAL_S = 1.0


class Row(mo.KeyedState):
    count: int = 0
    total: float = 0.0
    name: str = ""

    def process(self, value: float, ctx: mo.KeyedContext) -> dict[str, Any]:
        self.count += 1
        self.total += value
        return {"user": ctx.key, "count": self.count, "total": self.total}


Backend = KeyedBackend[str, Row]


class Loop:
    """Stands for the subtask's loop: reads frames, processes them, takes checkpoints."""

    def __init__(self, backend: Backend, rows: int, storage: CheckpointStorage, form: SnapshotForm) -> None:
        self.backend = backend
        self.storage = storage
        self.form = form
        self.pool = ThreadPoolExecutor(2)
        self.checkpoint = 0
        self.base = 0
        self.handles: tuple[KeyedHandle, ...] = ()
        self.sync_ms: list[float] = []
        self.duration_ms: list[float] = []
        self.written: list[int] = []
        self.steps_ms: list[float] = []
        self._under_way: tuple[float, KeyedSnapshot, Future[Sequence[FileHandle]]] | None = None
        self._random = random.Random(1)
        self._rows = rows

    def fill(self) -> None:
        for group in range(GROUPS):
            keys = [f"{group}-{number:07}" for number in range(self._rows // GROUPS)]
            for at in range(0, len(keys), 10_000):
                some = keys[at : at + 10_000]
                found = self.backend.rows_for(group, some)
                for key in some:
                    row = found[key] = self.backend.new_row(group, key)
                    row.name = self._random.randbytes(33).hex()

    def process(self) -> None:
        """One frame."""
        group = self._random.randrange(GROUPS)
        numbers = self._random.choices(range(self._rows // GROUPS), k=FRAME_RECORDS)
        keys = [f"{group}-{number:07}" for number in numbers]
        found = self.backend.rows_for(group, keys)
        context, get = self.backend.context, found.get
        results = []
        for key in keys:
            row = get(key)
            if row is None:
                row = found[key] = self.backend.new_row(group, key)
            context.key = key
            results.append(row.process(1.5, context))

    def begin(self) -> None:
        self.checkpoint += 1
        started = time.perf_counter()
        snapshot = self.backend.snapshot(CheckpointId(self.checkpoint), CheckpointId(self.base), self.form)
        self.sync_ms.append((time.perf_counter() - started) * 1e3)
        self._under_way = (started, snapshot, self.pool.submit(self._store, self.checkpoint, snapshot))

    def _store(self, checkpoint: int, snapshot: KeyedSnapshot) -> Sequence[FileHandle]:
        return [self._write(f"{checkpoint}/{number}", piece) for number, piece in enumerate(snapshot.encode())]

    def _write(self, path: str, piece: StatePiece) -> FileHandle:
        size, data = piece.size_bytes, piece.data
        if isinstance(data, bytes):
            self.storage.write(path, data)
        else:
            with data.open("rb") as file:
                self.storage.write(path, Upload(size, iter(lambda: file.read(1 << 20), b"")))
        return FileHandle(path, size)

    def poll(self) -> None:
        if self._under_way is not None and self._under_way[2].done():
            started, snapshot, future = self._under_way
            streams = future.result()
            self.handles = snapshot.finish(streams)
            self.duration_ms.append((time.perf_counter() - started) * 1e3)
            self.written.append(sum(stream.size_bytes for stream in streams))
            self.base = self.checkpoint
            self._under_way = None

    def settle(self) -> None:
        while self._under_way is not None:
            self.poll()
            time.sleep(0.001)

    def run(self, seconds: float, updates: float | None, *, checkpoints: bool) -> tuple[float, float]:
        """Updates per second, and per second of CPU time; ``updates``: at most so many, None: as many as it can."""
        self.sync_ms, self.duration_ms, self.written, self.steps_ms = [], [], [], []
        started, cpu_s = time.perf_counter(), time.process_time()
        due, done = started + INTERVAL_S / 2, 0
        while (now := time.perf_counter()) < started + seconds:
            if checkpoints and now >= due and self._under_way is None:
                self.begin()
                due = max(due + INTERVAL_S, now)
            self.poll()
            if updates is None or done < (now - started) * updates:
                self.process()
                done += FRAME_RECORDS
                self.steps_ms.append((time.perf_counter() - now) * 1e3)
            else:
                time.sleep(0.001)
        rate = done / (time.perf_counter() - started)
        self.settle()
        return rate, done / (time.process_time() - cpu_s)


def percentile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] if values else float("nan")


def show(what: str, values: Sequence[float], unit: str) -> str:
    return f"{what} {statistics.median(values):,.1f} (worst {max(values):,.1f}) {unit}"


def measure(name: str, rows: int, arguments: argparse.Namespace, folder: Path) -> None:
    storage = open_storage(f"file://{folder / 'storage'}")
    groups = KeyGroupRange(0, GROUPS - 1)

    def new_backend() -> Backend:
        if name == "memory":
            return MemoryKeyedBackend("bench", groups, str, Row)
        memory = RocksDbMemory.within(arguments.memory_mb << 20)
        environment = RocksDbEnvironment(folder / "state", memory)
        return RocksDbKeyedBackend("bench", groups, str, Row, environment, Owner("bench", "bench", 0))

    backend = new_backend()
    form = SnapshotForm.FULL if arguments.full else SnapshotForm.INCREMENTAL
    loop = Loop(backend, rows, storage, form)
    loop.fill()
    gc.collect()
    gc.freeze()
    started = time.perf_counter()
    loop.begin()
    loop.settle()
    print(f"\n{name}, {rows:,} rows, {form.value}; load {os.getloadavg()[0]:.1f}")
    print(f"  first checkpoint {(time.perf_counter() - started) * 1e3:,.0f} ms, {loop.written[0] / 1e6:,.1f} MB")

    loop.run(arguments.seconds / 2, arguments.updates, checkpoints=False)
    quiet = f"{percentile(loop.steps_ms, 0.5):.1f}, p99 {percentile(loop.steps_ms, 0.99):.1f}, {max(loop.steps_ms):.1f}"
    loop.run(arguments.seconds, arguments.updates, checkpoints=True)
    busy = f"{percentile(loop.steps_ms, 0.5):.1f}, p99 {percentile(loop.steps_ms, 0.99):.1f}, {max(loop.steps_ms):.1f}"
    print(
        f"  at {arguments.updates:,} updates/s: {show('sync', loop.sync_ms, 'ms')}, "
        f"{show('end to end', loop.duration_ms, 'ms')}, {show('written', [w / 1e6 for w in loop.written], 'MB')}"
    )
    print(f"    the loop's steps, median, p99 and longest: {busy} ms; without checkpoints {quiet} ms")
    rates: dict[bool, list[tuple[float, float]]] = defaultdict(list)
    for checkpoints in (False, True) * arguments.rounds:
        rates[checkpoints].append(loop.run(arguments.seconds / 2, None, checkpoints=checkpoints))
    for index, what in enumerate(("updates/s", "updates per CPU second")):
        without, with_them = (statistics.median(rate[index] for rate in rates[key]) for key in (False, True))
        less = 100 * (1 - with_them / without)
        print(f"  at full speed: {without:,.0f} {what}, with checkpoints {with_them:,.0f} ({less:.1f} % less)")
    print(f"    {show('end to end', loop.duration_ms, 'ms')}, {show('written', [w / 1e6 for w in loop.written], 'MB')}")
    backend.close()

    restored = new_backend()
    read_bytes = 0

    def read(stream: StreamHandle) -> bytes:
        nonlocal read_bytes
        if not isinstance(stream, FileHandle):
            raise TypeError("the benchmark stores nothing inline")
        data = storage.read(stream.path)
        read_bytes += len(data)
        return data

    started = time.perf_counter()
    restored.adopt(restored.load(loop.handles, read), CheckpointId(loop.checkpoint))
    print(
        f"  restore {time.perf_counter() - started:.2f} s, {read_bytes / 1e6:,.1f} MB in {len(loop.handles)} handles,"
        f" {restored.row_count():,} rows"
    )
    restored.close()
    gc.unfreeze()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000])
    parser.add_argument("--updates", type=int, default=20_000, help="per second")
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--rounds", type=int, default=3, help="at full speed, with and without checkpoints in turn")
    parser.add_argument("--backend", nargs="+", choices=["memory", "rocksdb"], default=["memory"])
    parser.add_argument("--memory-mb", type=int, default=256, help="budget of rocksdb")
    parser.add_argument("--full", action="store_true")
    arguments = parser.parse_args()
    gc.set_threshold(200_000, 50, 1_000)
    for name in arguments.backend:
        for rows in arguments.rows:
            with tempfile.TemporaryDirectory() as folder:
                measure(name, rows, arguments, Path(folder))


if __name__ == "__main__":
    main()
