"""What a checkpoint of many subtasks on one worker costs the storage, with state files merged and not.

    python -m tests.benchmarks.bench_merging --subtasks 1000 --state-bytes 40000 --checkpoints 5
    python -m tests.benchmarks.bench_merging --url s3://bucket/prefix

Each subtask hands in keyed state (which later checkpoints may refer to) and state of its own, one after the other, as a
worker's loop would. Without ``--url`` the storage is a temporary folder, synced as in production. ``--inline-bytes 0``
also writes what would lie in the metadata.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from moorage.adapters.clock import SystemClock
from moorage.adapters.executor import ThreadExecutor
from moorage.adapters.object_storage import open_storage
from moorage.backends.pieces import StatePiece
from moorage.ids import Attempt, CheckpointId, JobId, SubtaskId, VertexId, WorkerId
from moorage.naming import checkpoint_prefix, job_prefix
from moorage.ports import CheckpointStorage
from moorage.state.handles import StreamHandle
from moorage.task.state_writer import SnapshotId, StateFileLimits, StateWriter

JOB = JobId("bench-merging")
OWN_BYTES = 300


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="a storage; default: a temporary folder")
    parser.add_argument("--subtasks", type=int, default=1_000)
    parser.add_argument("--state-bytes", type=int, default=40_000, help="keyed state of a subtask")
    parser.add_argument("--inline-bytes", type=int, default=20 << 10)
    parser.add_argument("--uploads", type=int, default=2)
    parser.add_argument("--checkpoints", type=int, default=5)
    arguments = parser.parse_args()
    print(f"load {os.getloadavg()[0]:.1f}, {arguments.subtasks} subtasks of {arguments.state_bytes:,} bytes")
    print(f"{'':<12}{'files':>8}{'p50 ms':>10}{'max ms':>10}{'MB/s':>8}   per checkpoint")
    for name, piece_bytes in (("merged", 1 << 20), ("not merged", 0)):
        limits = StateFileLimits(
            inline_max_bytes=arguments.inline_bytes, merged_piece_max_bytes=piece_bytes, uploads=arguments.uploads
        )
        with tempfile.TemporaryDirectory() as folder:
            storage = open_storage(arguments.url or Path(folder).as_uri())
            measure(name, storage, limits, arguments.subtasks, arguments.state_bytes, arguments.checkpoints)


def measure(
    name: str, storage: CheckpointStorage, limits: StateFileLimits, subtasks: int, state_bytes: int, checkpoints: int
) -> None:
    executor = ThreadExecutor("bench", limits.uploads)
    writer = StateWriter(
        worker=WorkerId(f"bench/{os.getpid()}"),
        storage=storage,
        executor=executor,
        clock=SystemClock(),
        limits=limits,
    )
    for _ in range(subtasks):
        writer.join(JOB, Attempt(1))
    durations_ms = []
    for checkpoint in range(1, checkpoints + 1):
        started_s = time.perf_counter()
        take(writer, executor, CheckpointId(checkpoint), subtasks, os.urandom(state_bytes))
        durations_ms.append((time.perf_counter() - started_s) * 1_000)
    paths = [info.path for info in storage.list(job_prefix(JOB))]
    median_ms = statistics.median(durations_ms)
    rate = subtasks * (state_bytes + OWN_BYTES) / median_ms / 1_000
    print(f"{name:<12}{len(paths) / checkpoints:>8.1f}{median_ms:>10.0f}{max(durations_ms):>10.0f}{rate:>8.0f}")
    exclusive = [path for path in paths if path.startswith(checkpoint_prefix(JOB, CheckpointId(1)))]
    print(f"{'':<12}{len(exclusive):>8} of them go with the checkpoint")
    storage.delete(paths)
    executor.close()


def take(writer: StateWriter, executor: ThreadExecutor, checkpoint: CheckpointId, subtasks: int, state: bytes) -> None:
    """One checkpoint of all subtasks; returns when all of it is durable."""
    stored = 0

    def done(handles: Sequence[StreamHandle] | None, error: Exception | None) -> None:
        nonlocal stored
        if handles is None:
            raise RuntimeError("not stored") from error
        stored += 1

    for subtask in range(subtasks):
        index = subtask.to_bytes(4, "big")
        pieces = [StatePiece("rows", True, index + state), StatePiece("offsets", False, index + state[:OWN_BYTES])]
        snapshot = SnapshotId(JOB, Attempt(1), checkpoint)
        writer.store(snapshot, SubtaskId(VertexId("totals"), subtask), pieces, done)
        writer.poll()
        executor.poll()
    while stored < subtasks:
        writer.poll()
        executor.wait(5)


if __name__ == "__main__":
    main()
