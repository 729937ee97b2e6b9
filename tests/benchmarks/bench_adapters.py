"""How fast the Kafka adapter reads and writes records. By hand, on a Kafka that runs already:

    python -m tests.benchmarks.bench_adapters --kafka localhost:9092 --records 1000000

Prints wall clock and the CPU time of this process per record; librdkafka's threads count, the broker does not.
"""

from __future__ import annotations

import argparse
import gc
import time
import uuid
from collections.abc import Callable

from moorage.adapters.kafka import KafkaLog
from moorage.ids import TopicPartition
from moorage.ports import TopicSpec

PARTITIONS = 8
FRAME_BYTES = 256_000


def measure(what: str, count: int, unit: str, run: Callable[[], None]) -> None:
    wall_s, cpu_s, thread_s = time.perf_counter(), time.process_time(), time.thread_time()
    run()
    wall_s, cpu_s, thread_s = (
        time.perf_counter() - wall_s,
        time.process_time() - cpu_s,
        time.thread_time() - thread_s,
    )
    print(
        f"{what:<34} {count / wall_s:>12,.0f} {unit}/s   CPU {cpu_s / count * 1e6:8.2f} us,"
        f" of the caller's thread {thread_s / count * 1e6:8.2f} us"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kafka", required=True, help="bootstrap servers")
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--frames", type=int, default=2_000)
    arguments = parser.parse_args()
    gc.disable()

    log = KafkaLog(arguments.kafka, client_id="bench")
    log.check(10_000)
    records, frames = f"bench-{uuid.uuid4().hex}", f"bench-{uuid.uuid4().hex}"
    log.create_topics([TopicSpec(name, PARTITIONS, {}) for name in (records, frames)])
    try:
        write_records(log, records, arguments.records, transactional=True)
        write_records(log, records, arguments.records, transactional=False)
        read_records(log, records, 2 * arguments.records)
        write_frames(log, frames, arguments.frames)
        read_frames(log, frames, arguments.frames)
    finally:
        log.delete_topics([records, frames])


def write_records(log: KafkaLog, topic: str, count: int, *, transactional: bool) -> None:
    chunk = 4_000
    keys = [b"user-%d" % (n % 10_000) for n in range(chunk)]
    values = [b'{"user":"user-%04d","amount":%6d,"note":"xxxxxxxxxxxxxxxxx"}' % (n, n) for n in range(chunk)]
    timestamps_ms = [time.time_ns() // 1_000_000] * chunk
    if transactional:
        writer = log.transactional_writer(topic, transaction_timeout_ms=60_000)
    else:
        writer = log.record_writer("bench")
    writer.init()

    def run() -> None:
        writer.begin()
        for start in range(0, count, chunk):
            part = min(chunk, count - start)
            writer.append_records(topic, keys[:part], values[:part], timestamps_ms[:part], None)
            while writer.pending_records > 200_000:
                writer.poll()
                time.sleep(0.001)
        writer.commit()

    measure("append_records, transactional" if transactional else "append_records", count, "records", run)
    writer.close()


def read_records(log: KafkaLog, topic: str, count: int) -> None:
    reader = log.record_reader("bench", group=None, read_committed=True, max_poll_records=10_000)

    def run() -> None:
        missing = count
        reader.assign({TopicPartition(topic, n): 0 for n in range(PARTITIONS)})
        while missing > 0:
            batches = reader.poll(10_000)
            missing -= sum(len(batch.values) for batch in batches)
            if not batches:
                time.sleep(0.001)

    measure("RecordReader.poll", count, "records", run)
    reader.close()


def write_frames(log: KafkaLog, topic: str, count: int) -> None:
    writer = log.writer("bench")
    # Compresses about as well as records do.
    frame = b"".join(b"user-%04d amount %08d." % (n % 10_000, n * 7919 % 10**8) for n in range(FRAME_BYTES // 25))
    reported = 0

    def delivered(_offset: int, error: Exception | None) -> None:
        nonlocal reported
        if error is not None:
            raise error
        reported += 1

    def run() -> None:
        for n in range(count):
            writer.append(topic, n % PARTITIONS, frame, delivered)
            while writer.pending_bytes > 64_000_000:
                writer.poll()
                time.sleep(0.001)
        while reported < count:
            writer.poll()
            time.sleep(0.001)

    measure("LogWriter.append, 256 KB frames", count, "frames", run)
    writer.close()


def read_frames(log: KafkaLog, topic: str, count: int) -> None:
    reader = log.reader("bench", bulk=True)

    def run() -> None:
        missing = count
        reader.assign({TopicPartition(topic, n): 0 for n in range(PARTITIONS)})
        while missing > 0:
            messages = reader.poll(1_000)
            missing -= len(messages)
            if not messages:
                time.sleep(0.001)

    measure("LogReader.poll, 256 KB frames", count, "frames", run)
    reader.close()


if __name__ == "__main__":
    main()
