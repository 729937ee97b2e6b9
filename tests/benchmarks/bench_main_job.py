"""W1, the main job: running totals, one output per input, exactly once, a checkpoint every second.

2,000,000 JSON orders (about 60 bytes, 10,000 users, 8 partitions) lie in the input topic; the job runs with parallelism
2 on 2 workers until every result is committed. Run by hand: ``make bench`` or

    python -m tests.benchmarks.bench_main_job [--records 2000000] [--workers 2] [--profile DIR] [--json]

Prints records per second, CPU per record of each process (the broker's too), peak memory and checkpoint durations.
``--profile`` samples the workers with py-spy. The result is read back read-committed and counted.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from operator import itemgetter
from pathlib import Path

import msgspec
import psutil

from moorage.adapters.kafka import KafkaLog
from moorage.api.loader import load_pipeline
from moorage.ids import TopicPartition
from moorage.ports import OffsetSpec, TopicSpec
from moorage_cli.embedded.stack import Stack

PIPELINE = Path(__file__).resolve().parents[2] / "examples" / "orders.py"
PARTITIONS = 8
USERS = 10_000
CHUNK = 20_000


def main() -> int:
    arguments = _arguments()
    with ExitStack() as cleanup:
        data_dir = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="moorage-bench-")))
        stack = cleanup.enter_context(Stack(data_dir, workers=arguments.workers, announce=_say))
        log = cleanup.enter_context(closing(KafkaLog(stack.bootstrap_servers, client_id="bench")))
        log.create_topics([TopicSpec(topic, PARTITIONS, {}) for topic in ("orders", "totals")])
        _say(f"producing {arguments.records:,} orders")
        _preload(log, arguments.records)
        before = _usage(stack)
        started = time.monotonic()
        client = cleanup.enter_context(stack.client())
        client.submit(load_pipeline(f"{PIPELINE}:pipeline").graph)
        profilers = _profile(stack, arguments.profile) if arguments.profile else []
        first, done = _wait(log, arguments.records, started)
        after = _usage(stack)
        threads = _thread_shares(stack)
        for profiler in profilers:
            profiler.wait(timeout=60)
        checkpoints = client.checkpoints("orders")
        _say("reading the result back")
        count = _count(log)
        result = {
            "records": arguments.records,
            "committed": count,
            "seconds_to_first_commit": round(first, 2),
            "seconds": round(done, 2),
            "records_per_second": round(arguments.records / done),
            "cpu_us_per_record": {
                name: round((after[name][0] - before[name][0]) / arguments.records * 1e6, 2) for name in after
            },
            "cpu_share_of_worker_threads": threads,
            "peak_memory_mb": {name: round(rss / 1e6) for name, (_, rss) in after.items()},
            "checkpoints": msgspec.to_builtins(checkpoints),
        }
        moorage = sum(us for name, us in result["cpu_us_per_record"].items() if name not in ("kafka", "redis"))
        result["cpu_us_per_record_moorage"] = round(moorage, 2)
    print(json.dumps(result, indent=None if arguments.json else 2))
    return 0 if count == arguments.records else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=2_000_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--profile", type=Path)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _preload(log: KafkaLog, records: int) -> None:
    rng = random.Random(1)
    now_ms = time.time_ns() // 1_000_000
    with closing(log.record_writer("bench.orders")) as writer:
        writer.init()
        writer.begin()
        for start in range(0, records, CHUNK):
            users = [f"user-{rng.randrange(USERS):05d}" for _ in range(min(CHUNK, records - start))]
            values = [
                b'{"user":"%s","amount":%d.25,"id":"%09d"}' % (user.encode(), rng.randrange(1_000), start + i)
                for i, user in enumerate(users)
            ]
            writer.append_records("orders", [u.encode() for u in users], values, [now_ms] * len(users), None)
            writer.poll()
        writer.commit()


def _family(pid: int | None) -> list[psutil.Process]:
    """A process and all below it: a worker runs under a supervisor."""
    if pid is None:
        raise SystemExit("a process of the stack has ended; see its log")
    parent = psutil.Process(pid)
    return [parent, *parent.children(recursive=True)]


def _usage(stack: Stack) -> dict[str, tuple[float, int]]:
    """CPU seconds and peak resident bytes of every service, all its processes together."""
    return {name: _usage_of(_family(managed.pid)) for name, managed in stack.processes.items()}


def _usage_of(processes: Sequence[psutil.Process]) -> tuple[float, int]:
    spent = 0.0
    peak_kb = 0
    for process in processes:
        times = process.cpu_times()
        spent += times.user + times.system
        status = Path(f"/proc/{process.pid}/status").read_text()
        peak_kb += next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    return spent, peak_kb * 1024


def _workers(stack: Stack) -> dict[str, psutil.Process]:
    """The processes that run subtasks: the youngest of each worker's family."""
    return {name: _family(managed.pid)[-1] for name, managed in stack.processes.items() if name.startswith("worker")}


def _thread_shares(stack: Stack) -> dict[str, float]:
    """How the workers' CPU is spread over the loop, librdkafka's threads and the rest."""
    seconds: defaultdict[str, float] = defaultdict(float)
    for process in _workers(stack).values():
        for thread in process.threads():
            comm = Path(f"/proc/{process.pid}/task/{thread.id}/comm").read_text().strip()
            kind = "librdkafka" if comm.startswith("rdk:") else "loop" if thread.id == process.pid else "other"
            seconds[kind] += thread.user_time + thread.system_time
    total = sum(seconds.values())
    return {kind: round(spent / total, 3) for kind, spent in sorted(seconds.items(), key=itemgetter(1), reverse=True)}


def _profile(stack: Stack, folder: Path) -> list[subprocess.Popen[bytes]]:
    folder.mkdir(parents=True, exist_ok=True)
    profilers = []
    for name, process in _workers(stack).items():
        command = [sys.executable.replace("python", "py-spy"), "record", "-d", "10", "-r", "200", "-f", "raw"]
        command += ["-o", str(folder / f"{name}.txt"), "-p", str(process.pid)]
        profilers.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
    return profilers


def _wait(log: KafkaLog, records: int, started: float) -> tuple[float, float]:
    """Seconds until the first and until all results are committed, as the last stable offsets tell."""
    partitions = [TopicPartition("totals", number) for number in range(PARTITIONS)]
    first = done = 0.0
    committed = -1
    quiet_since = time.monotonic()
    while True:
        ends: Mapping[TopicPartition, int] = log.offsets(partitions, OffsetSpec.LATEST)
        now = time.monotonic()
        total = sum(ends.values())
        if total != committed:
            committed, quiet_since = total, now
            first = first or (now - started if total > 0 else 0.0)
            if total >= records:
                done = done or now - started
            _say(f"{now - started:6.1f} s  {total:>10,} committed")
        if total >= records and now - quiet_since > 3.0:
            return first, done
        if now - quiet_since > 60:
            raise SystemExit(f"nothing was committed for 60 s; see the logs: {total:,} of {records:,}")
        time.sleep(0.1)


def _count(log: KafkaLog) -> int:
    partitions = [TopicPartition("totals", number) for number in range(PARTITIONS)]
    count = 0
    with closing(log.record_reader("bench.count", group=None, read_committed=True, max_poll_records=CHUNK)) as reader:
        reader.assign(dict.fromkeys(partitions, 0))
        quiet_since = time.monotonic()
        while time.monotonic() - quiet_since < 3.0:
            batches = reader.poll(CHUNK)
            count += sum(len(batch.values) for batch in batches)
            if batches:
                quiet_since = time.monotonic()
            else:
                time.sleep(0.01)
    return count


if __name__ == "__main__":
    sys.exit(main())
