"""The cleaner service on a real Kafka, a real Redis and a folder."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest
from tests.unit.cleaner.jobs import (
    COMMITS_LOG,
    JOB,
    KEYED_LOG,
    OUTPUT_LOG,
    SINK,
    TOPICS,
    commit_marker,
    exclusive,
    job_record,
    metadata,
    shared,
    write_metadata,
)

from moorage.adapters.kafka import KafkaLog
from moorage.adapters.object_storage import open_storage
from moorage.adapters.redis_registry import RedisRegistry
from moorage.ids import CheckpointId, Epoch, JobId, TopicPartition
from moorage.messages.cleanup import DiscardCheckpoint, PurgeJob
from moorage.messages.registry import JobRecord, JobStatus
from moorage.naming import CLEANUP_TOPIC, transactional_id
from moorage.ports import OffsetSpec
from moorage.serde.control import encode
from moorage.serde.positions import encode_marker, marker_key

pytestmark = pytest.mark.kafka

SETTINGS = {
    "MOORAGE_METRICS_PORT": "0",
    "MOORAGE_CLEANER_SWEEP_INTERVAL_MS": "60000",
    "MOORAGE_CLEANER_PROMPT_INTERVAL_MS": "100",
}


def wait_until(condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "it did not happen in time"
        time.sleep(0.05)


class Stack:
    """A job as a coordinator and workers leave it."""

    def __init__(self, kafka: str, redis: str, folder: Path) -> None:
        self.namespace = f"cleaner-{uuid.uuid4().hex[:8]}"
        self.settings = {
            "MOORAGE_KAFKA_BOOTSTRAP_SERVERS": kafka,
            "MOORAGE_REDIS_URL": redis,
            "MOORAGE_REDIS_NAMESPACE": self.namespace,
            "MOORAGE_CHECKPOINT_DIR": str(folder / "checkpoints"),
            **SETTINGS,
        }
        self.log = KafkaLog(kafka, client_id=self.namespace)
        self.registry = RedisRegistry(redis, namespace=self.namespace, timeout_ms=5_000)
        self.storage = open_storage((folder / "checkpoints").as_uri())
        lease = self.registry.acquire_lease("test", 600_000)
        assert lease is not None
        self.epoch: Epoch = lease.epoch
        self.record: JobRecord = job_record(submitted_ms=time.time_ns())
        self.log.delete_topics([topic.name for topic in TOPICS])
        wait_until(lambda: not {topic.name for topic in TOPICS} & self.log.topics().keys())
        self.log.create_topics(TOPICS)
        self.registry.save_job(self.epoch, self.record)

    def close(self) -> None:
        self.log.delete_topics([topic.name for topic in TOPICS])
        self.log.close()

    def append(self, partition: TopicPartition, *values: bytes, key: bytes | None = None) -> None:
        writer = self.log.record_writer("test") if key is not None else None
        if writer is not None:
            writer.init()
            writer.begin()
            for value in values:
                writer.append(*partition, key, value)
            writer.commit()
            writer.close()
            return
        frames = self.log.writer("test")
        delivered: list[int] = []
        for value in values:
            frames.append(*partition, value, lambda offset, error: delivered.append(offset))

        def is_delivered() -> bool:
            frames.poll()
            return len(delivered) == len(values)

        wait_until(is_delivered)
        frames.close()

    def checkpoint(self, own: list[str], others: list[str], positions: list[int]) -> None:
        checkpoint = self.registry.next_checkpoint_id(self.epoch, JOB)
        for path in own:
            self.storage.write(path, b"rows")
        record = write_metadata(self.storage, checkpoint, [*own, *others], positions)
        self.registry.add_checkpoint(self.epoch, JOB, self.record.attempt, record, 1)

    def paths(self) -> list[str]:
        return sorted(item.path for item in self.storage.list(f"{JOB}/"))

    def starts(self, *partitions: TopicPartition) -> list[int]:
        found = self.log.offsets(partitions, OffsetSpec.EARLIEST)
        return [found[partition] for partition in partitions]


@pytest.fixture
def stack(kafka: str, redis: str, tmp_path: Path) -> Iterator[Stack]:
    stack = Stack(kafka, redis, tmp_path)
    yield stack
    stack.close()


class Service:
    def __init__(self, settings: dict[str, str], lines: Path, **more: str) -> None:
        self._lines = lines
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MOORAGE_")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "moorage_cleaner"],
            env={**environment, "PYTHONPATH": os.pathsep.join(sys.path), **settings, **more},
            stderr=lines.open("ab"),
        )

    @property
    def lines(self) -> str:
        return self._lines.read_text()

    def metric(self, name: str) -> float:
        """Of this name and labels, written as Prometheus writes them."""
        port = re.findall(r"metrics at port (\d+)", self.lines)[-1]
        with urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            text = answer.read().decode()
        return next((float(line.split()[-1]) for line in text.splitlines() if line.startswith(f"{name} ")), 0.0)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)


@pytest.fixture
def start(stack: Stack, tmp_path: Path) -> Iterator[Callable[..., Service]]:
    services: list[Service] = []

    def start(**settings: str) -> Service:
        services.append(Service(stack.settings, tmp_path / f"cleaner-{len(services)}.log", **settings))
        return services[-1]

    yield start
    for service in services:
        service.process.kill()
        service.process.wait()


def test_subsumed_files_go_logs_are_cut_and_a_purge_leaves_nothing(stack: Stack, start: Callable[..., Service]) -> None:
    for partition in (*KEYED_LOG, *OUTPUT_LOG):
        stack.append(partition, *[b"frame"] * 10)
    stack.checkpoint([exclusive(1), shared(1, "kept"), shared(1)], [], [2, 3])
    service = start()
    wait_until(lambda: stack.starts(*KEYED_LOG) == [2, 3])
    assert stack.starts(*OUTPUT_LOG) == [0, 0]

    stack.append(COMMITS_LOG[0], encode_marker(commit_marker(1, 0, 4)), key=marker_key(SINK, 0))
    stack.checkpoint([exclusive(2)], [shared(1, "kept")], [5, 6])
    message = DiscardCheckpoint(epoch=stack.epoch, job=JOB, checkpoint=CheckpointId(1))
    stack.append(TopicPartition(CLEANUP_TOPIC, 0), b"nonsense", encode(message))
    wait_until(lambda: stack.paths() == sorted([metadata(2), exclusive(2), shared(1, "kept")]))
    wait_until(lambda: stack.starts(*KEYED_LOG, *OUTPUT_LOG) == [5, 6, 4, 0])
    wait_until(lambda: service.metric("moorage_cleaner_log_offsets_trimmed_total") == 15)
    assert service.metric('moorage_cleaner_files_deleted_total{kind="subsumed"}') == 3
    assert service.metric('moorage_cleaner_errors_total{kind="message"}') == 1
    assert service.metric("moorage_cleaner_backlog_files") == 0
    assert time.time() - service.metric("moorage_cleaner_last_full_sweep_timestamp_seconds") < 60

    stack.registry.save_job(stack.epoch, job_record(status=JobStatus.CANCELED, submitted_ms=stack.record.submitted_ms))
    request = PurgeJob(epoch=stack.epoch, job=JOB, submitted_ms=stack.record.submitted_ms)
    stack.append(TopicPartition(CLEANUP_TOPIC, 0), encode(request))
    wait_until(lambda: stack.paths() == [])
    wait_until(lambda: not {topic.name for topic in TOPICS[1:]} & stack.log.topics().keys())
    assert stack.registry.checkpoints(JOB) == []
    assert service.stop() == 0
    assert "Traceback" not in service.lines


def test_two_cleaners_one_killed_leave_exactly_what_counts(stack: Stack, start: Callable[..., Service]) -> None:
    for n in range(1, 31):
        own = [exclusive(n), *(shared(n, f"chain{i}") for i in range(20))]
        stack.checkpoint(own, [shared(n - 1, "chain0")] if n > 1 else [], [0, 0])
    settings = {"MOORAGE_CLEANER_DELETES_PER_SECOND": "300", "MOORAGE_CLEANER_SWEEP_INTERVAL_MS": "1000"}
    services = [start(**settings) for _ in range(2)]
    wait_until(lambda: len(stack.paths()) < 600)
    services[0].process.kill()
    expected = [metadata(30), exclusive(30), shared(29, "chain0"), *(shared(30, f"chain{i}") for i in range(20))]
    wait_until(lambda: stack.paths() == sorted(expected))
    assert services[1].stop() == 0


def test_a_transaction_that_an_ended_job_has_left_open_hides_nothing(
    stack: Stack, start: Callable[..., Service]
) -> None:
    partition = COMMITS_LOG[0]  # any topic will do
    writer = stack.log.transactional_writer(transactional_id(JOB, SINK, 1, 0), transaction_timeout_ms=600_000)
    writer.init()
    writer.begin()
    writer.append(*partition, b"key", b"uncommitted")
    delivered_s = time.monotonic() + 30
    while stack.log.offsets([partition], OffsetSpec.END)[partition] == 0:
        writer.poll()
        assert time.monotonic() < delivered_s
    start(MOORAGE_CLEANER_SWEEP_INTERVAL_MS="1000")
    assert stack.log.offsets([partition], OffsetSpec.LATEST)[partition] == 0
    stack.checkpoint([exclusive(1)], [], [0, 0])
    stack.registry.save_job(stack.epoch, job_record(status=JobStatus.FAILED, submitted_ms=stack.record.submitted_ms))
    wait_until(
        lambda: stack.log.offsets([partition], OffsetSpec.LATEST) == stack.log.offsets([partition], OffsetSpec.END)
    )
    writer.close()
    assert stack.paths() == sorted([metadata(1), exclusive(1)])


def command(stack: Stack, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MOORAGE_")}
    settings = {**stack.settings, "MOORAGE_CLEANER_PURGE_HOLD_MS": "100"}
    return subprocess.run(
        [sys.executable, "-m", "moorage_cli", *arguments],
        env={**environment, "PYTHONPATH": os.pathsep.join(sys.path), "COLUMNS": "200", "NO_COLOR": "1", **settings},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_cleaning_and_purging_by_hand(stack: Stack) -> None:
    for partition in KEYED_LOG:
        stack.append(partition, *[b"frame"] * 4)
    stack.checkpoint([exclusive(1), shared(1)], [], [1, 1])
    stack.checkpoint([exclusive(2)], [], [3, 2])

    shown = command(stack, "clean", "--dry-run", "--json")
    assert shown.returncode == 0, shown.stderr
    found = {(finding["what"], finding["name"], finding["size_bytes"]) for finding in json.loads(shown.stdout)}
    assert ("file", exclusive(1), 4) in found
    assert ("log", "/".join(map(str, KEYED_LOG[0])), None) in found
    assert "subsumed" in command(stack, "clean", "--dry-run").stdout
    assert len(stack.paths()) == 5

    assert "3 files (subsumed" in command(stack, "clean", "--now").stdout
    assert stack.paths() == sorted([metadata(2), exclusive(2)])
    assert stack.starts(*KEYED_LOG) == [3, 2]

    refused = command(stack, "purge", JOB, "--yes")
    assert (refused.returncode, refused.stderr) == (
        1,
        "moorage: job orders is RUNNING: cancel it first, then purge it\n",
    )
    stack.registry.save_job(stack.epoch, job_record(status=JobStatus.CANCELED, submitted_ms=stack.record.submitted_ms))
    asked = command(stack, "purge", JOB)  # and nobody answers
    assert asked.returncode == 1
    assert len(stack.paths()) == 2
    purged = command(stack, "purge", JOB, "--yes")
    assert purged.returncode == 0, purged.stderr
    assert "The registry forgets orders in" in purged.stderr
    assert "Purged orders: 2 files" in purged.stderr
    assert stack.paths() == []
    assert not {topic.name for topic in TOPICS[1:]} & stack.log.topics().keys()
    assert list(stack.registry.jobs()) == []


def test_a_dry_run_deletes_nothing(stack: Stack, start: Callable[..., Service]) -> None:
    stack.checkpoint([exclusive(1)], [], [0, 0])
    stack.checkpoint([exclusive(2)], [], [0, 0])
    service = start(MOORAGE_CLEANER_DRY_RUN="true")
    wait_until(lambda: "would delete 2 files of job orders (subsumed)" in service.lines)
    assert len(stack.paths()) == 4
    assert service.stop() == 0


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"MOORAGE_CLEANER_GRACE_MS": "soon"}, "MOORAGE_CLEANER_GRACE_MS"),
        ({"MOORAGE_REDIS_URL": "redis://127.0.0.1:1/0"}, "127.0.0.1:1"),
        ({"MOORAGE_CHECKPOINT_DIR": "/dev/null/checkpoints"}, "/dev/null/checkpoints"),
    ],
)
def test_a_start_that_cannot_work_ends_with_one_line_that_says_why(
    start: Callable[..., Service], settings: dict[str, str], named: str
) -> None:
    service = start(**settings)
    assert service.process.wait(60) in (1, 2)
    assert named in service.lines.splitlines()[-1]
    assert "Traceback" not in service.lines


def test_a_job_named_after_nothing_known_is_left_alone(stack: Stack, start: Callable[..., Service]) -> None:
    stack.storage.write("strangers/chk-1/_metadata", b"not ours")
    job = JobId("strangers")
    message = DiscardCheckpoint(epoch=stack.epoch, job=job, checkpoint=CheckpointId(1))
    stack.append(TopicPartition(CLEANUP_TOPIC, 0), encode(message))
    service = start()
    wait_until(lambda: service.process.poll() is not None or "metrics at port" in service.lines)
    wait_until(lambda: service.metric("moorage_cleaner_last_full_sweep_timestamp_seconds") > 0)
    assert [item.path for item in stack.storage.list(f"{job}/")] == ["strangers/chk-1/_metadata"]
    assert service.stop() == 0
