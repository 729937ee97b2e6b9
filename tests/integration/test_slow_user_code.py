"""A call of user code that takes longer than a worker may be silent."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from moorage.api.loader import load_pipeline
from moorage.ids import TopicPartition
from moorage.ports import OffsetSpec
from moorage_cli.embedded.stack import Stack
from moorage_cli.kafka import connect, create_missing

PIPELINE = """
import time
import moorage as mo

def ask_somebody_slow(order):
    time.sleep(3)
    return order

pipeline = mo.Pipeline("slow", parallelism=1, checkpoint=mo.CheckpointConfig(interval_ms=200))
(pipeline.source("orders", mo.KafkaSource("orders"))
    .map(ask_somebody_slow)
    .sink("results", mo.KafkaSink("results", key=None)))
"""
ORDERS = 3


@pytest.mark.kafka
@pytest.mark.timeout(180)
def test_slow_user_code_costs_no_attempt(tmp_path: Path) -> None:
    (tmp_path / "slow_orders.py").write_text(PIPELINE)
    env = {"MOORAGE_COORDINATOR_WORKER_HEARTBEAT_TIMEOUT_MS": "2000"}
    reference = f"{tmp_path / 'slow_orders.py'}:pipeline"
    with Stack(tmp_path / "data", workers=1, env=env) as stack, closing(connect(stack.bootstrap_servers)) as log:
        create_missing(log, ["orders", "results"], 1)
        with closing(log.record_writer("orders")) as writer:
            values = [msgspec.json.encode({"number": number}) for number in range(ORDERS)]
            writer.append_records("orders", [b"k"] * ORDERS, values, [1] * ORDERS, None)
            writer.commit()
        results = TopicPartition("results", 0)
        with stack.client() as client:
            job = client.submit(load_pipeline(reference).graph)
            end = time.monotonic() + 60
            # Results and the markers of transactions.
            while (written := log.offsets([results], OffsetSpec.LATEST)[results]) <= ORDERS:
                assert time.monotonic() < end, f"{written} results"
                time.sleep(0.1)
            assert client.failures(job) == ()
