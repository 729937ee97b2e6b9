"""A bounded job without checkpoints, on real processes: it ends by itself, and begins anew when a worker dies."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path

import pytest
from tests.integration.counting import produce, results

from moorage.adapters.redis_registry import RedisRegistry
from moorage.api.loader import load_pipeline
from moorage.ids import JobId
from moorage.messages.registry import JobRecord, JobStatus
from moorage_cli.client import RestError
from moorage_cli.embedded.stack import Stack
from moorage_cli.kafka import connect, create_missing

PIPELINE = """
import moorage as mo


class Counter(mo.KeyedState):
    count: int = 0

    def process(self, order, ctx):
        self.count += 1
        return {"user": ctx.key, "count": self.count}


pipeline = mo.Pipeline("unchecked", parallelism=2, checkpoint=mo.CheckpointConfig(enabled=False))
(
    pipeline.source("orders", mo.KafkaSource("orders", until="latest"))
    .key_by("user")
    .process("counts", Counter)
    .sink("results", mo.KafkaSink("totals", key="user", guarantee="at_least_once"))
)
"""
JOB = JobId("unchecked")
ORDERS, USERS, PARTITIONS, TIMEOUT_S = 300_000, 97, 3, 120.0


@pytest.mark.kafka
@pytest.mark.timeout(300)
def test_a_bounded_job_without_checkpoints_ends_and_begins_anew_after_a_crash(tmp_path: Path) -> None:
    file = tmp_path / "pipeline.py"
    file.write_text(PIPELINE)
    with (
        Stack(tmp_path / "stack", workers=2) as stack,
        closing(RedisRegistry(stack.redis_url)) as registry,
        closing(connect(stack.bootstrap_servers)) as log,
    ):
        create_missing(log, ["orders", "totals"], PARTITIONS)
        produce(log, range(ORDERS), USERS)

        def job() -> JobRecord | None:
            return next((record for record in registry.jobs() if record.job == JOB), None)

        def has_ended() -> bool:
            record = job()
            return record is not None and record.status is JobStatus.FINISHED

        deadline_s = time.monotonic() + TIMEOUT_S
        with stack.client() as client:
            client.submit(load_pipeline(f"{file}:pipeline").graph)
            while not results(log, "totals", PARTITIONS):
                assert time.monotonic() < deadline_s, f"no results: {job()}"
            stack.kill("worker-0")
            with pytest.raises(RestError, match=r"Checkpointing has not been enabled\."):
                client.checkpoints(JOB)
            with pytest.raises(RestError, match="checkpointing is not enabled for this job"):
                client.checkpoint(JOB).wait(10)
        while not has_ended():
            assert time.monotonic() < deadline_s, f"it does not end: {job()}"
            time.sleep(0.1)
        ended = job()
        rows = results(log, "totals", PARTITIONS)
        assert registry.completed_ids(JOB) == []
        assert registry.last_checkpoint_id(JOB) == 0
    assert ended is not None
    assert ended.attempt > 1, "the worker died too late"
    assert len(rows) > ORDERS, "what the first attempt wrote is written again"
    assert set(rows) == {
        (f"user-{n}", count) for n in range(USERS) for count in range(1, len(range(n, ORDERS, USERS)) + 1)
    }
