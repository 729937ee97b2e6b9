"""Duration of checkpoints against the backlog in front of a slow consumer, aligned and not::

    python -m tests.benchmarks.bench_backlog --seconds 15

A real stack with one worker; the consumer needs ``--delay-us`` per record, the source as little as it can, so the
exchange is full all the time. How much lies in it is bounded by ``exchange_max_lag_bytes``, which is varied. Aligned
barriers wait behind all of it, others don't.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from moorage.adapters.redis_registry import RedisRegistry
from moorage.api.loader import load_pipeline
from moorage.ids import JobId
from moorage.ports import Log
from moorage_cli.embedded.stack import Stack
from moorage_cli.kafka import connect, create_missing

PIPELINE = """
import time
import moorage as mo


class Slow(mo.KeyedState):
    count: int = 0

    def process(self, order, ctx):
        self.count += 1
        end = time.perf_counter_ns() + {delay_ns}
        while time.perf_counter_ns() < end:
            pass


pipeline = mo.Pipeline(
    "backlog",
    parallelism=1,
    checkpoint=mo.CheckpointConfig(
        interval_ms=500, unaligned={unaligned}, aligned_timeout_ms={timeout_ms}, timeout_ms=120_000
    ),
)
pipeline.source("orders", mo.KafkaSource("orders")).key_by("user").process("slow", Slow).sink(
    "results", mo.KafkaSink("totals", key=None)
)
"""
RECORDS = 1_000_000
MODES = {"aligned": (False, 0), "timeout 100 ms": (True, 100), "unaligned": (True, 0)}


def produce(log: Log) -> None:
    values = [json.dumps({"user": f"user-{n % 1_000}", "filler": "x" * 100}).encode() for n in range(10_000)]
    with closing(log.record_writer("orders")) as writer:
        for _ in range(RECORDS // len(values)):
            writer.append_records("orders", [None] * len(values), values, [0] * len(values), None)
            writer.commit()


def durations_ms(mode: str, lag_bytes: int, delay_us: int, seconds: float) -> Sequence[int]:
    """Of the checkpoints that were completed while the exchange was full."""
    unaligned, timeout_ms = MODES[mode]
    with tempfile.TemporaryDirectory(prefix="moorage-bench-") as folder:
        file = Path(folder, "pipeline.py")
        file.write_text(PIPELINE.format(delay_ns=1_000 * delay_us, unaligned=unaligned, timeout_ms=timeout_ms))
        env = {"MOORAGE_WORKER_EXCHANGE_MAX_LAG_BYTES": str(lag_bytes)}
        with (
            Stack(Path(folder, "stack"), workers=1, env=env) as stack,
            closing(RedisRegistry(stack.redis_url)) as registry,
            closing(connect(stack.bootstrap_servers)) as log,
        ):
            create_missing(log, ["orders", "totals"], 1)
            produce(log)
            with stack.client() as client:
                client.submit(load_pipeline(f"{file}:pipeline").graph)
            found: dict[int, int] = {}
            deadline_s = time.monotonic() + seconds
            while time.monotonic() < deadline_s or len(found) < 3:
                for record in registry.checkpoints(JobId("backlog")):
                    found[record.checkpoint] = record.completed_ms - record.triggered_ms
                time.sleep(0.2)
    return [found[checkpoint] for checkpoint in sorted(found)[1:]]  # the first one may be before the backlog


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=15.0, help="for each figure (default %(default)s)")
    parser.add_argument("--delay-us", type=int, default=100, help="per record (default %(default)s)")
    parser.add_argument("--lag-bytes", type=int, nargs="+", default=[256 << 10, 1 << 20, 4 << 20])
    options = parser.parse_args()
    print(f"{options.delay_us} us per record; load {os.getloadavg()[0]:.1f} at the start")
    print(f"{'backlog':>10}  {'mode':<16}{'checkpoints':>12}{'p50 ms':>10}{'max ms':>10}")
    for lag_bytes in options.lag_bytes:
        for mode in MODES:
            durations = durations_ms(mode, lag_bytes, options.delay_us, options.seconds)
            p50 = statistics.median(durations)
            print(
                f"{lag_bytes >> 10:>7} KiB  {mode:<16}{len(durations):>12}{p50:>10.0f}{max(durations):>10}", flush=True
            )


if __name__ == "__main__":
    main()
