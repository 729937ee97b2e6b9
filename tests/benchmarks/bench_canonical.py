"""How much memory a canonical savepoint takes beside the state: all rows lie in one key group. By hand:

    python -m tests.benchmarks.bench_canonical --rows 1000000 --backend memory

Rows of about 100 bytes are written into a backend, then into a savepoint, whose files go to a folder as they come.
Printed are its bytes, its duration, and by how much the resident memory of the process grew at most meanwhile (Linux).
"""

from __future__ import annotations

import argparse
import gc
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import moorage as mo
from moorage.adapters.object_storage import open_storage
from moorage.backends.keyed import KeyedBackend, SnapshotForm
from moorage.backends.memory import MemoryKeyedBackend
from moorage.backends.rocksdb import RocksDbKeyedBackend
from moorage.backends.rocksdb_environment import Owner, RocksDbEnvironment, RocksDbMemory
from moorage.ids import CheckpointId
from moorage.ports import Upload
from moorage.state.handles import FileHandle
from moorage.state.key_groups import KeyGroupRange

GROUP = KeyGroupRange(0, 0)
MIB = 1 << 20


class Row(mo.KeyedState):
    count: int = 0
    total: float = 0.0
    name: str = ""


def fill(backend: KeyedBackend[str, Row], rows: int) -> None:
    source = random.Random(1)
    for at in range(0, rows, 10_000):
        keys = [f"{number:09}" for number in range(at, min(at + 10_000, rows))]
        found = backend.rows_for(0, keys)
        for key in keys:
            row = found[key] = backend.new_row(0, key)
            row.name = source.randbytes(33).hex()


def memory_of_process(name: str) -> int:
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[name].split()[0]) << 10


def measure(backend: KeyedBackend[str, Row], folder: Path) -> None:
    storage = open_storage(str(folder))
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the highest is what it is now
    before, started = memory_of_process("VmRSS"), time.perf_counter()
    snapshot = backend.snapshot(CheckpointId(1), CheckpointId(0), SnapshotForm.CANONICAL)
    streams = []
    for number, piece in enumerate(snapshot.encode()):
        data: Any = piece.data
        if isinstance(data, Path):
            with data.open("rb") as file:
                storage.write(f"savepoint/{number}", Upload(piece.size_bytes, iter(lambda f=file: f.read(MIB), b"")))
        else:
            storage.write(f"savepoint/{number}", data)
        streams.append(FileHandle(f"savepoint/{number}", piece.size_bytes))
        del piece, data
    snapshot.finish(streams)
    seconds, grown = time.perf_counter() - started, memory_of_process("VmHWM") - before
    size = sum(stream.size_bytes for stream in streams)
    print(f"{len(streams)} files, {size / MIB:.0f} MiB in {seconds:.1f} s; {grown / MIB:.0f} MiB more memory at most")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--backend", choices=["memory", "rocksdb"], default="memory")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        state, files = Path(folder) / "state", Path(folder) / "files"
        backend: KeyedBackend[str, Row]
        if arguments.backend == "memory":
            backend = MemoryKeyedBackend("totals", GROUP, str, Row)
            fill(backend, arguments.rows)
            measure(backend, files)
            return
        state.mkdir()
        memory = RocksDbMemory(rocksdb_bytes=64 * MIB, rows_bytes=16 * MIB, dirty_rows_max=20_000)
        environment = RocksDbEnvironment(state, memory)
        backend = RocksDbKeyedBackend("totals", GROUP, str, Row, environment, Owner("job", "totals", 0))
        fill(backend, arguments.rows)
        measure(backend, files)
        backend.close()
        environment.close()


if __name__ == "__main__":
    main()
