"""A job whose input ends, on real processes: it ends when all is committed, also when a worker dies on the way."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest
from tests.integration.counting import produce, results

from moorage.adapters.redis_registry import RedisRegistry
from moorage.api.loader import load_pipeline
from moorage.ids import JobId
from moorage.messages.registry import JobRecord, JobStatus
from moorage_cli.embedded.stack import Stack
from moorage_cli.kafka import connect, create_missing

PIPELINE = """
import moorage as mo


class Counter(mo.KeyedState):
    count: int = 0

    def process(self, order, ctx):
        self.count += 1
        return {"user": ctx.key, "count": self.count}


pipeline = mo.Pipeline(
    "bounded", parallelism=2, checkpoint=mo.CheckpointConfig(interval_ms=200, unaligned=True, max_concurrent=3)
)
(
    pipeline.source("orders", mo.KafkaSource("orders", until="latest"))
    .key_by("user")
    .process("counts", Counter)
    .sink("results", mo.KafkaSink("totals", key="user"))
)
"""
ORDERS, USERS, PARTITIONS, TIMEOUT_S = 300_000, 97, 3, 120.0


@pytest.mark.kafka
@pytest.mark.timeout(300)
def test_a_bounded_job_ends_when_everything_is_committed(tmp_path: Path) -> None:
    file = tmp_path / "pipeline.py"
    file.write_text(PIPELINE)
    with (
        Stack(tmp_path / "stack", workers=2) as stack,
        closing(RedisRegistry(stack.redis_url)) as registry,
        closing(connect(stack.bootstrap_servers)) as log,
    ):
        create_missing(log, ["orders", "totals"], PARTITIONS)
        produce(log, range(ORDERS), USERS)
        with stack.client() as client:
            client.submit(load_pipeline(f"{file}:pipeline").graph)

        def job() -> JobRecord | None:
            return next((record for record in registry.jobs() if record.job == JobId("bounded")), None)

        def wait_until(end: bool, name: str) -> None:
            deadline_s = time.monotonic() + TIMEOUT_S
            while (job() is None or job().status is JobStatus.FINISHED) is not end:  # type: ignore[union-attr]
                assert time.monotonic() < deadline_s, f"{name} does not come: {job()}"
                time.sleep(0.1)

        wait_until(False, "the job")
        while not registry.completed_ids(JobId("bounded")):
            time.sleep(0.05)
        stack.kill("worker-0")
        wait_until(True, "the end")
        rows = results(log, "totals", PARTITIONS)
    assert len(rows) == len(set(rows)) == ORDERS
    assert Counter(user for user, _ in rows) == {f"user-{n}": len(range(n, ORDERS, USERS)) for n in range(USERS)}
