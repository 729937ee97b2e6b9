"""`moorage dev` and `moorage demo` as people run them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import psutil
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

pytestmark = pytest.mark.kafka

ROOT = Path(__file__).parents[3]


def _environment() -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith("MOORAGE_")}
    path = os.pathsep.join(str(Path(entry).resolve()) for entry in sys.path if entry)
    cache = {name: os.environ[name] for name in ("MOORAGE_CACHE_DIR",) if name in os.environ}
    return {**own, **cache, "PYTHONPATH": path, "COLUMNS": "200"}


class Dev:
    """A running `moorage dev`, once it has told where its Kafka is."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        self.process = process
        self.said: list[str] = []
        for line in process.stdout:
            self.said.append(line)
            if "Ctrl-C ends" in line:
                break
        text = "".join(self.said)
        servers = re.search(r"Kafka +(\S+)", text)
        assert servers is not None, text
        self.bootstrap_servers = servers[1]


@contextmanager
def _dev(data_dir: Path) -> Iterator[Dev]:
    command = [sys.executable, "-m", "moorage_cli", "dev", "examples/orders.py:pipeline", "--data-dir", str(data_dir)]
    command += ["--kafka-port", "0", "--rest-port", "0"]
    with subprocess.Popen(
        command, cwd=ROOT, env=_environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        children: list[psutil.Process] = []
        try:
            dev = Dev(process)
            children = psutil.Process(process.pid).children(recursive=True)
            yield dev
        finally:
            process.send_signal(signal.SIGINT)
            rest, _ = process.communicate(timeout=60)
        assert process.returncode == 0, "".join(dev.said) + rest
        _, alive = psutil.wait_procs(children, timeout=10)
        assert alive == []


def _send_and_await(bootstrap_servers: str, orders: int, results: int) -> list[tuple[str, int, float]]:
    """Send orders of 1.0 for ada, and read the output from its beginning until there are so many results."""
    producer = Producer({"bootstrap.servers": bootstrap_servers})
    for _ in range(orders):
        producer.produce("orders", b'{"user": "ada", "amount": 1.0}', b"ada")
    assert producer.flush(30) == 0
    consumer = Consumer(
        {"bootstrap.servers": bootstrap_servers, "group.id": "test", "isolation.level": "read_committed"}
    )
    consumer.assign([TopicPartition("totals", partition, 0) for partition in range(4)])
    found: list[tuple[str, int, float]] = []
    deadline_s = time.monotonic() + 60
    while len(found) < results and time.monotonic() < deadline_s:
        for message in consumer.consume(1_000, 0.2):
            value = msgspec.json.decode(message.value() or b"")
            found.append((value["user"], value["count"], value["total"]))
    consumer.close()
    return found


def test_dev_runs_a_pipeline_and_goes_on_with_it_at_the_second_start(tmp_path: Path) -> None:
    with _dev(tmp_path) as dev:
        first = _send_and_await(dev.bootstrap_servers, orders=50, results=50)
    with _dev(tmp_path) as dev:
        second = _send_and_await(dev.bootstrap_servers, orders=50, results=100)

    assert first == [("ada", n, float(n)) for n in range(1, 51)]
    assert second == [("ada", n, float(n)) for n in range(1, 101)]
    assert any("orders goes on from its last checkpoint" in line for line in dev.said)


def test_demo_finds_its_output_exactly_once() -> None:
    command = [sys.executable, "-m", "moorage_cli", "demo", "--orders", "30000", "--seconds", "15", "--json"]

    result = subprocess.run(command, env=_environment(), capture_output=True, text=True, timeout=170)

    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert (report["records_in"], report["records_out"]) == (30_000, 30_000)
    assert (report["lost"], report["duplicated"], report["out_of_order"], report["corrupt"]) == (0, 0, 0, 0)
    assert set(report["recovery_seconds"]) == {
        "coordinator",
        *(n for n in report["recovery_seconds"] if "worker-" in n),
    }
    assert None not in report["recovery_seconds"].values()
    assert report["checkpoints_completed"] > 0
