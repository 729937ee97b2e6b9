"""Do storage and logs grow while checkpoints come and go? The whole stack on a real Kafka and a real S3. By hand:

    python -m tests.benchmarks.bench_cleaner_endurance [--checkpoints 2000] [--interval-ms 1000] [--rate 2000] ...

Orders flow all the time; the cleaner runs as it comes. Looks every few seconds at the files in the bucket, at the
frames in the exchange logs and at the topics' folders of the broker. Fails if, half a minute after the last order,
there is more than docs/operations.md allows.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from contextlib import ExitStack, closing
from pathlib import Path

import httpx
import msgspec
from tests.s3_server import running_s3_server

from moorage.adapters.kafka import KafkaLog
from moorage.adapters.object_storage import open_storage
from moorage.api.loader import load_pipeline
from moorage.graph.job_graph import JobGraph
from moorage.ids import TopicPartition
from moorage.naming import exchange_topic, job_prefix
from moorage.ports import CheckpointStorage, OffsetSpec, TopicSpec
from moorage_cli.embedded.stack import Stack
from moorage_cli.loadgen import OrderLoad

PIPELINE = Path(__file__).resolve().parents[2] / "examples" / "orders.py"
WORKERS = 2
PARTITIONS = 4
USERS = 20_000
SAMPLE_S = 10.0
QUIET_S = 45.0
"""A sweep and a prompt after the last order."""
PROMPT_INTERVAL_MS = 5_000
CHAIN_FILES = 25
"""Files of earlier checkpoints that one checkpoint of a subtask refers to: docs/operations.md."""
SEGMENT_BYTES = 64 << 20


class Sample(msgspec.Struct, frozen=True):
    seconds: float
    checkpoints: int
    files: int
    size_bytes: int
    frames: int
    """In the exchange logs."""
    log_bytes: int
    """On the broker's disk."""


class Place:
    """What is looked at."""

    def __init__(self, graph: JobGraph, storage: CheckpointStorage, log: KafkaLog, kafka_dir: Path) -> None:
        self._graph = graph
        self._storage = storage
        self._log = log
        self._kafka_dir = kafka_dir
        self._partitions = [
            TopicPartition(exchange_topic(graph.job, exchange.exchange), partition)
            for exchange in graph.exchanges
            for partition in range(exchange.partitions)
        ]

    def sample(self, seconds: float, checkpoints: int) -> Sample:
        files = list(self._storage.list(job_prefix(self._graph.job)))
        starts = self._log.offsets(self._partitions, OffsetSpec.EARLIEST)
        ends = self.ends()
        segments = [
            file
            for partition in self._partitions
            for file in (self._kafka_dir / f"{partition.topic}-{partition.partition}").glob("*.log")
        ]
        return Sample(
            seconds=round(seconds, 1),
            checkpoints=checkpoints,
            files=len(files),
            size_bytes=sum(file.size_bytes for file in files),
            frames=sum(ends[partition] - starts[partition] for partition in self._partitions),
            log_bytes=sum(file.stat().st_size for file in segments if file.exists()),
        )

    def ends(self) -> dict[TopicPartition, int]:
        return dict(self._log.offsets(self._partitions, OffsetSpec.END))

    @property
    def partitions(self) -> int:
        return len(self._partitions)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoints", type=int, default=2_000)
    parser.add_argument("--interval-ms", type=int, default=1_000)
    parser.add_argument("--rate", type=int, default=2_000, help="orders per second")
    parser.add_argument("--inline-bytes", type=int, default=0, help="state of so many bytes goes into the metadata")
    arguments = parser.parse_args()
    with ExitStack() as cleanup:
        server = cleanup.enter_context(running_s3_server())
        bucket = f"s3://{server.new_bucket()}/checkpoints"
        data_dir = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="moorage-endurance-")))
        stack = cleanup.enter_context(
            Stack(
                data_dir,
                workers=WORKERS,
                env={
                    **server.environment,
                    "MOORAGE_CHECKPOINT_DIR": bucket,
                    "MOORAGE_WORKER_STATE_INLINE_MAX_BYTES": str(arguments.inline_bytes),
                },
                announce=_say,
            )
        )
        log = cleanup.enter_context(closing(KafkaLog(stack.bootstrap_servers, client_id="endurance")))
        log.create_topics([TopicSpec(topic, PARTITIONS, {}) for topic in ("orders", "totals")])
        graph = load_pipeline(f"{PIPELINE}:pipeline").graph
        config = msgspec.structs.replace(graph.checkpoint, interval_ms=arguments.interval_ms)
        graph = msgspec.structs.replace(graph, checkpoint=config)
        place = Place(graph, open_storage(bucket, server.options), log, data_dir / "kafka" / "data")
        samples = _run(stack, log, graph, place, arguments.checkpoints, arguments.rate)
        metrics = httpx.get(stack.metrics_urls["cleaner"]).text
    bounds = _bounds(graph, arguments.interval_ms, place.partitions)
    last = samples[-1]
    found = {"files": last.files, "log_bytes": last.log_bytes}
    report = {
        "interval_ms": arguments.interval_ms,
        "orders_per_second": arguments.rate,
        "samples": [msgspec.to_builtins(sample) for sample in samples[:: max(1, len(samples) // 20)]],
        "last": msgspec.to_builtins(last),
        "most": {
            name: max(getattr(sample, name) for sample in samples)
            for name in ("files", "size_bytes", "frames", "log_bytes")
        },
        "bounds": bounds,
        "cleaner": [
            line for line in metrics.splitlines() if line.startswith("moorage_cleaner_") and "bucket" not in line
        ],
    }
    print(json.dumps(report, indent=2))
    return 0 if all(found[name] <= bound for name, bound in bounds.items()) else 1


def _run(stack: Stack, log: KafkaLog, graph: JobGraph, place: Place, checkpoints: int, rate: int) -> list[Sample]:
    samples: list[Sample] = []
    started_s = time.monotonic()
    stop = threading.Event()
    load = threading.Thread(target=_send, args=(log, rate, stop))
    with stack.client() as client:
        client.submit(graph)
        load.start()
        try:
            completed = 0
            while completed < checkpoints:
                time.sleep(SAMPLE_S)
                completed = client.checkpoints(graph.job).counts.completed
                samples.append(place.sample(time.monotonic() - started_s, completed))
                _say(f"{samples[-1]}")
        finally:
            stop.set()
            load.join()
        _say(f"{completed} checkpoints; the last sweeps")
        time.sleep(QUIET_S)
        completed = client.checkpoints(graph.job).counts.completed
        samples.append(place.sample(time.monotonic() - started_s, completed))
        _say(f"{samples[-1]}")
    return samples


def _send(log: KafkaLog, rate: int, stop: threading.Event) -> None:
    with closing(log.record_writer("load")) as writer:
        writer.init()
        writer.begin()
        load = OrderLoad(writer, rate=rate, users=USERS, tell=_say, seed=1)
        last_s = time.monotonic()
        while not stop.wait(0.1):
            now_s = time.monotonic()
            load.send(now_s - last_s)
            last_s = now_s
        writer.commit()


def _bounds(graph: JobGraph, interval_ms: int, partitions: int) -> dict[str, int]:
    """As docs/operations.md derives them."""
    keyed = sum(vertex.parallelism for vertex in graph.vertices if vertex.inputs and not vertex.is_committer)
    waiting = -(-PROMPT_INTERVAL_MS // interval_ms) + 2
    checkpoints = graph.checkpoint.retained + graph.checkpoint.max_concurrent + waiting
    return {
        "files": (CHAIN_FILES + checkpoints) * keyed + checkpoints * (1 + WORKERS),
        "log_bytes": partitions * 2 * SEGMENT_BYTES,
    }


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
