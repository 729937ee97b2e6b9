"""How long checkpoints take behind a backlog: a consumer slowed down, and exchanges that are full.

    python -m tests.benchmarks.bench_backlog [--slow-us 50] [--backlogs 1,4,16] [--checkpoints 5] [--json]

The bound of the exchange (`exchange_max_lag_bytes`) is the backlog, since sources run as far ahead as they may. For
each bound the job runs aligned, unaligned, and aligned with a timeout of 300 ms. Prints the durations of checkpoints
that were completed while there was input left to read, so that the backlog was there.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from moorage.api.loader import load_pipeline
from moorage.ids import TopicPartition
from moorage.ports import OffsetSpec
from moorage_cli.client import CheckpointSummary
from moorage_cli.embedded.stack import Stack
from moorage_cli.kafka import connect, create_missing
from moorage_cli.overrides import overridden

PIPELINE = Path(__file__).resolve().with_name("pipelines") / "slow.py"
PARTITIONS = 4
ORDERS_MIN = 300_000
ORDERS_PER_MIB = 100_000
"""Some 10,000 orders are a MiB: enough for ten checkpoints, each of which may wait for the whole backlog."""
USERS = 10_000
LIMIT_S = 240.0
MODES = {
    "aligned": ["checkpoint.unaligned=false"],
    "unaligned": ["checkpoint.unaligned=true"],
    "timeout 300 ms": ["checkpoint.unaligned=true", "checkpoint.aligned_timeout_ms=300"],
}


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    backlog_mib: int
    mode: str
    durations_ms: list[int]

    @property
    def median_ms(self) -> float:
        return statistics.median(self.durations_ms)


def measure(backlog_mib: int, mode: str, checkpoints: int, slow_us: int) -> Measured:
    os.environ["SLOW_US"] = str(slow_us)
    orders = ORDERS_MIN + backlog_mib * ORDERS_PER_MIB
    outputs = [TopicPartition("totals", number) for number in range(PARTITIONS)]
    env = {"MOORAGE_WORKER_EXCHANGE_MAX_LAG_BYTES": str(backlog_mib << 20)}
    with tempfile.TemporaryDirectory(prefix="moorage-backlog-") as folder, Stack(Path(folder), env=env) as stack:
        with closing(connect(stack.bootstrap_servers)) as log:
            create_missing(log, ["orders", "totals"], PARTITIONS)
            with closing(log.record_writer("orders")) as writer:
                for start in range(0, orders, 20_000):
                    users = [f"user-{number % USERS}" for number in range(start, start + 20_000)]
                    values = [msgspec.json.encode({"user": user, "amount": 1.25, "note": "x" * 40}) for user in users]
                    stamps = [time.time_ns() // 1_000_000] * len(users)
                    writer.append_records("orders", [user.encode() for user in users], values, stamps, None)
                    while writer.pending_records > 100_000:
                        writer.poll()
                        time.sleep(0.01)
                writer.commit()
        graph = overridden(load_pipeline(f"{PIPELINE}:pipeline").graph, MODES[mode])
        with stack.client() as client:
            job = client.submit(graph)
            deadline_s = time.monotonic() + LIMIT_S
            done: list[CheckpointSummary] = []
            # The first one begins before the backlog is there.
            with closing(connect(stack.bootstrap_servers)) as log:
                while len(done) <= checkpoints and time.monotonic() < deadline_s:
                    time.sleep(0.5)
                    completed = [c for c in client.checkpoints(job).history if c.status == "COMPLETED"]
                    if sum(log.offsets(outputs, OffsetSpec.LATEST).values()) > orders * 3 // 4:
                        break
                    done = completed
        return Measured(
            backlog_mib=backlog_mib,
            mode=mode,
            durations_ms=[c.end_to_end_duration for c in sorted(done, key=lambda c: c.id)[1:]],
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slow-us", type=int, default=50)
    parser.add_argument("--backlogs", default="1,4,16", help="in MiB, with commas")
    parser.add_argument("--checkpoints", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    console = Console(stderr=True)
    table = Table(title=f"checkpoints behind a backlog, {arguments.slow_us} us an order, load {os.getloadavg()[0]:.1f}")
    for name in ("backlog MiB", "mode", "checkpoints", "median ms", "longest ms"):
        table.add_column(name, justify="left" if name == "mode" else "right")
    found = []
    for backlog in map(int, arguments.backlogs.split(",")):
        for mode in MODES:
            console.print(f"{backlog} MiB, {mode}", highlight=False)
            measured = measure(backlog, mode, arguments.checkpoints, arguments.slow_us)
            found.append(measured)
            durations = measured.durations_ms
            table.add_row(
                str(backlog),
                mode,
                str(len(durations)),
                f"{measured.median_ms:,.0f}" if durations else "-",
                f"{max(durations):,}" if durations else "-",
            )
    if arguments.json:
        print(msgspec.json.encode(found).decode())
    else:
        Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
