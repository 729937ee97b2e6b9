"""What must not grow with time: the memory backend's memory while no checkpoint completes, and acknowledgements.

    python tests/benchmarks/bench_growth.py

Memory: 10,000 rows, 1,000,000 updates, half of them of keys that come and go, with no trigger at all or with a
checkpoint every 10,000 that is aborted; by tracemalloc, so it takes its time. Acknowledgements: as they are sent, with
the inline limit of a worker's default settings.
"""

from __future__ import annotations

import gc
import random
import tracemalloc
from typing import Any

import moorage as mo
from moorage.backends.memory import MemoryKeyedBackend
from moorage.ids import Attempt, CheckpointId, JobId, OperatorId, VertexId, WorkerId
from moorage.messages.events import AcknowledgeCheckpoint, CheckpointMetrics, OperatorSnapshot
from moorage.serde import control
from moorage.state.handles import ByteStreamHandle, FileHandle, KeyedHandle, StreamHandle
from moorage.state.key_groups import KeyGroupRange
from moorage.state.operator_state import OperatorSubtaskState
from moorage.task.state_writer import StateFileLimits

GROUPS = 32
BATCH = 500
UPDATES = 1_000_000
INTERVAL = 10_000


class Row(mo.KeyedState):
    count: int = 0
    name: str = ""


class Pages(mo.KeyedState):
    count: int = 0
    name: str = ""
    pages: mo.MapState[str, int] = mo.MapState()


def filled(row_type: type[Any], rows: int, shuffled: random.Random) -> MemoryKeyedBackend[str, Any]:
    backend = MemoryKeyedBackend("bench", KeyGroupRange(0, GROUPS - 1), str, row_type)
    for group in range(GROUPS):
        keys = [f"{group}-{number}" for number in range(rows // GROUPS)]
        found = backend.rows_for(group, keys)
        for key in keys:
            found[key] = backend.new_row(group, key)
            found[key].name = shuffled.randbytes(33).hex()
    return backend


def checkpoint(
    backend: MemoryKeyedBackend[str, Any], number: int, base: int, inline_max_bytes: int = 0
) -> tuple[KeyedHandle, ...]:
    snapshot = backend.snapshot(CheckpointId(number), CheckpointId(base))
    streams: list[StreamHandle] = []
    for piece in snapshot.encode():
        data = piece.data
        if isinstance(data, bytes) and len(data) <= inline_max_bytes - piece.carried_bytes:
            streams.append(ByteStreamHandle(f"totals-0-totals-{number}", data))
        else:
            streams.append(FileHandle(f"bench/shared/{number}-totals-0-a1-totals.0123456789abcdef", piece.size_bytes))
    return snapshot.finish(streams)


def outage(row_type: type[Any], *, triggered: bool) -> None:
    shuffled = random.Random(1)
    backend = filled(row_type, 10_000, shuffled)
    for number in (1, 2):
        checkpoint(backend, number, number - 1)
    gc.collect()
    tracemalloc.start()
    number = 3
    for done in range(0, UPDATES, BATCH):
        group = shuffled.randrange(GROUPS)
        keys = [f"{group}-{shuffled.randrange(10_000 // GROUPS)}" for _ in range(BATCH // 2)]
        keys += [f"{group}-gone-{done + at}" for at in range(BATCH // 2)]
        rows = backend.rows_for(group, keys)
        for key in keys:
            row = rows.get(key)
            if row is None:
                row = rows[key] = backend.new_row(group, key)
            row.count += 1
            if isinstance(row, Pages):
                row.pages[f"page-{done}"] = 1
                del row.pages[f"page-{done}"]
            if "gone" in key:
                del rows[key]
        if triggered and done % INTERVAL == 0:
            checkpoint(backend, number, 2)
            backend.aborted(CheckpointId(number))
            number += 1
    gc.collect()
    more, peak = (size / 1e6 for size in tracemalloc.get_traced_memory())
    tracemalloc.stop()
    what = "checkpoints are aborted" if triggered else "nothing is triggered"
    print(f"  {row_type.__name__:<6} {what:<24} {more:6.1f} MB more, {peak:6.1f} at most")


def acknowledgements(rows: int, share: float, checkpoints: int = 300) -> None:
    shuffled, limit = random.Random(1), StateFileLimits().inline_max_bytes
    backend = filled(Row, rows, shuffled)
    sizes = []
    for number in range(1, checkpoints + 1):
        handles = checkpoint(backend, number, number - 1, limit)
        state = OperatorSubtaskState(managed_keyed=handles)
        message = AcknowledgeCheckpoint(
            worker=WorkerId("worker"),
            job=JobId("bench"),
            attempt=Attempt(1),
            vertex=VertexId("totals"),
            subtask=0,
            checkpoint=CheckpointId(number),
            metrics=CheckpointMetrics(),
            operators=(OperatorSnapshot(operator=OperatorId("0" * 32), state=state),),
        )
        sizes.append(len(control.encode(message)))
        for _ in range(max(1, int(rows * share))):
            group = shuffled.randrange(GROUPS)
            key = f"{group}-{shuffled.randrange(rows // GROUPS)}"
            backend.rows_for(group, [key])[key].count += 1
    shown = ", ".join(f"{sizes[number - 1]:,}" for number in (2, 5, 10, 25, 50, 100, checkpoints))
    print(f"  {rows:,} rows, {share:.1%} change: {shown}; at most {max(sizes):,}")


def main() -> None:
    print(f"{UPDATES:,} updates of 10,000 rows while no checkpoint completes")
    for row_type in (Row, Pages):
        for triggered in (False, True):
            outage(row_type, triggered=triggered)
    print("bytes of an acknowledgement, of checkpoints 2, 5, 10, 25, 50, 100, 300")
    for rows, share in ((10_000, 0.01), (10_000, 0.001), (100, 0.1)):
        acknowledgements(rows, share)


if __name__ == "__main__":
    main()
