"""How fast the cleaner works off a backlog. By hand; needs neither Kafka nor Redis:

    python -m tests.benchmarks.bench_cleaner --files 100000 --delete 50000

A job's prefix in a folder, or in the S3-compatible store that --storage names, holds that many files; so many of them
belong to subsumed checkpoints, the others are referred to by three retained ones. One sweep from scratch, through the
process that the service runs, without a rate limit. Prints files per second, calls per file and peak memory.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from tests.unit.cleaner.jobs import JOB, TOPICS, job_record, shared, write_metadata

from moorage.adapters.clock import SystemClock
from moorage.adapters.executor import ThreadExecutor
from moorage.adapters.object_storage import open_storage
from moorage.cleaner.classify import Verdict
from moorage.cleaner.pace import CleanerOptions
from moorage.cleaner_process.observer import CleanerObserver
from moorage.cleaner_process.process import CleanerProcess
from moorage.ids import JobId
from moorage.messages.registry import CheckpointRecord
from moorage.ports import CheckpointStorage, ObjectInfo, UnfinishedUpload, Upload
from moorage.testing.memory_log import MemoryCluster, MemoryLog
from moorage.testing.memory_registry import MemoryRegistry

RETAINED = 3
FILES_PER_SUBSUMED = 100
LISTED_PER_REQUEST = 1_000
"""What S3 answers to one list request."""


class Counted:
    """The storage, with its calls counted."""

    def __init__(self, storage: CheckpointStorage) -> None:
        self._storage = storage
        self.calls: Counter[str] = Counter()
        self.list_s = 0.0

    def write(self, path: str, data: bytes | Upload) -> None:
        self.calls["write"] += 1
        self._storage.write(path, data)

    def read(self, path: str) -> bytes:
        self.calls["read"] += 1
        return self._storage.read(path)

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        self.calls["read"] += 1
        return self._storage.read_range(path, offset, length)

    def list(self, prefix: str) -> Iterable[ObjectInfo]:
        started_s = time.perf_counter()
        for number, item in enumerate(self._storage.list(prefix)):
            self.calls["list"] += number % LISTED_PER_REQUEST == 0
            yield item
        self.list_s = time.perf_counter() - started_s

    def delete(self, paths: Sequence[str]) -> None:
        self.calls["delete"] += 1
        self._storage.delete(paths)

    def unfinished_uploads(self, prefix: str) -> Sequence[UnfinishedUpload]:
        self.calls["list"] += 1
        return self._storage.unfinished_uploads(prefix)

    def abort_uploads(self, uploads: Sequence[UnfinishedUpload]) -> None:
        self.calls["delete"] += 1
        self._storage.abort_uploads(uploads)


class Timer(CleanerObserver):
    """When the plan stood, and when its last file was deleted."""

    def __init__(self) -> None:
        self.planned_s = 0.0
        self.deleted_s = 0.0
        self.deleted = 0
        self.done = False

    def backlog_changed(self, files: int, size_bytes: int, oldest_ms: int | None) -> None:
        if not self.planned_s:
            self.planned_s = time.perf_counter()

    def files_deleted(self, verdict: Verdict, files: int, size_bytes: int) -> None:
        self.deleted += files
        self.deleted_s = time.perf_counter()

    def job_cleaned(self, job: JobId, duration_ms: int) -> None:
        self.done = True

    def job_failed(self, job: JobId, error: Exception) -> None:
        raise error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--delete", type=int, default=50_000)
    parser.add_argument("--batch", type=int, default=500)
    parser.add_argument("--storage", help="URL of an empty place; without it a temporary folder")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        url = arguments.storage or Path(folder).as_uri()
        print(f"writing {arguments.files:,} files ...")
        # In a process of its own, so that the memory of this one is the cleaner's.
        with ProcessPoolExecutor(1, get_context("spawn")) as other:
            records = other.submit(prepare, url, arguments.files, arguments.delete).result()
        run(Counted(open_storage(url)), records, arguments.files, arguments.delete, arguments.batch)


def run(storage: Counted, records: list[CheckpointRecord], files: int, deleted: int, batch: int) -> None:
    clock = SystemClock()
    registry = MemoryRegistry(clock)
    lease = registry.acquire_lease("bench", 1_000_000_000)
    assert lease is not None
    registry.save_job(lease.epoch, job_record())
    for record in records:
        registry.add_checkpoint(lease.epoch, JOB, record.attempt, record, RETAINED)
    log = MemoryLog(MemoryCluster(clock), "bench")
    log.create_topics(TOPICS)
    before_mb = peak_mb()

    timer = Timer()
    executor = ThreadExecutor("bench", 1)
    options = CleanerOptions(delete_batch_files=batch, deletes_per_second=1_000_000_000)
    process = CleanerProcess(
        registry=registry, storage=storage, log=log, executor=executor, clock=clock, options=options, observer=timer
    )
    started_s, started_cpu_s = time.perf_counter(), time.process_time()
    while not timer.done:
        if not process.step(clock.monotonic_ms()) and not executor.poll():
            executor.wait(50)
    cpu_s = time.process_time() - started_cpu_s
    process.close()
    executor.close()

    calls, peak = Counter(storage.calls), peak_mb()
    assert timer.deleted == deleted, f"{timer.deleted} of {deleted} files were deleted"
    left = sum(1 for _ in storage.list(f"{JOB}/"))
    assert left == files - deleted, f"{left} files are left instead of {files - deleted}"
    plan_s, delete_s = timer.planned_s - started_s, timer.deleted_s - timer.planned_s
    print(f"listed and classified {files:>8,} files in {plan_s:6.2f} s: {files / plan_s:>10,.0f} files/s")
    print(f"deleted               {deleted:>8,} files in {delete_s:6.2f} s: {deleted / delete_s:>10,.0f} files/s")
    print(f"CPU {cpu_s:.2f} s; peak memory {peak:.0f} MB, {before_mb:.0f} MB before the sweep")
    print(
        f"{calls['list']} list requests (a store answers with {LISTED_PER_REQUEST:,} files), {calls['read']} reads,"
        f" {calls['delete']} deletes"
    )


def prepare(url: str, files: int, deleted: int) -> list[CheckpointRecord]:
    """Write what checkpoints leave: first those to subsume, then those to retain, each with its share of the rest."""
    storage = open_storage(url)
    subsumed = -(-deleted // FILES_PER_SUBSUMED)
    owned: list[list[str]] = []
    for n in range(subsumed):
        count = min(FILES_PER_SUBSUMED, deleted - n * FILES_PER_SUBSUMED) - 1  # one of them is the _metadata
        owned.append([shared(n + 1, f"chain{i}") for i in range(count)])
    kept = files - deleted - RETAINED
    owned += [[shared(subsumed + n, f"chain{i}") for i in range(n, kept + 1, RETAINED)] for n in range(1, RETAINED + 1)]
    with ThreadPoolExecutor(8) as threads:
        for _ in threads.map(lambda path: storage.write(path, b"x" * 100), [p for paths in owned for p in paths]):
            pass
    return [write_metadata(storage, n, paths, [0, 0]) for n, paths in enumerate(owned, 1)]


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
