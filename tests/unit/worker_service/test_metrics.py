"""What a worker exports, on a run of the orders pipeline."""

from __future__ import annotations

import re
import socket

import pytest
from prometheus_client import CollectorRegistry
from tests.unit.task.harness import Harness, orders_pipeline

from moorage.errors import SettingError
from moorage_service.metrics import serve_metrics
from moorage_service.runtime import LoopTime
from moorage_worker.metrics import BUSY, GAUGES, STEP, TASK_METRICS, WORKER_METRICS, WorkerCollector

ORDERS = [(f"user-{i % 7}", float(i)) for i in range(200)]


class Exported:
    """The metrics of one worker that runs everything, after a committed checkpoint."""

    def __init__(self) -> None:
        harness = Harness(orders_pipeline(parallelism=1), workers=1)
        harness.deploy()
        harness.run(20)
        harness.produce(ORDERS)
        harness.run(50)
        checkpoint = harness.trigger()
        harness.run(20)
        harness.finalize(checkpoint)
        harness.run(20)
        loop_time = LoopTime()
        loop_time.busy_ns = 1_500_000_000
        self.registry = CollectorRegistry()
        self.registry.register(WorkerCollector(harness.workers[0][0], 2, loop_time))
        self.names = {sample.name for family in self.registry.collect() for sample in family.samples}

    def of(self, name: str, vertex: str | None = None) -> float | None:
        labels = {} if vertex is None else {"job_name": "orders", "vertex": vertex, "subtask": "0"}
        return self.registry.get_sample_value(name, labels)


@pytest.fixture(scope="module")
def exported() -> Exported:
    return Exported()


def test_every_metric_in_the_lists_is_exported_and_no_other(exported: Exported) -> None:
    listed = {metric.name for metric in (*TASK_METRICS, *WORKER_METRICS)} | {*GAUGES, BUSY, STEP}
    assert exported.names == listed
    assert all(re.fullmatch(r"moorage_(worker|task|source|sink|exchange)_[a-z_]+", name) for name in listed)


def test_records_are_counted_at_every_vertex(exported: Exported) -> None:
    for vertex in ("orders", "totals", "results"):
        assert exported.of("moorage_task_records_in_total", vertex) == len(ORDERS)


def test_a_snapshot_is_described_by_the_subtask_that_took_it(exported: Exported) -> None:
    assert exported.of("moorage_task_checkpoint_acknowledged_id", "totals") == 1
    assert (exported.of("moorage_task_checkpoint_acknowledged_timestamp_seconds", "totals") or 0) > 0
    assert (exported.of("moorage_task_checkpoint_state_bytes", "totals") or 0) > 0
    assert exported.of("moorage_task_checkpoint_processed_bytes", "totals") == 0
    assert exported.of("moorage_task_checkpoint_persisted_bytes", "totals") == 0
    assert (exported.of("moorage_task_checkpoint_written_bytes", "totals") or 0) > 0
    assert exported.of("moorage_task_checkpoint_sync_seconds", "orders") is not None


def test_what_only_sinks_or_sources_have_is_theirs_alone(exported: Exported) -> None:
    assert exported.of("moorage_sink_commits_total", "results") == 1
    assert exported.of("moorage_sink_commits_total", "totals") is None
    assert exported.of("moorage_source_records_skipped_total", "orders") == 0
    assert exported.of("moorage_source_lag_records", "orders") == 0
    assert exported.of("moorage_source_records_skipped_total", "totals") is None
    assert exported.of("moorage_task_checkpoint_acknowledged_id", "results") is None


def test_the_worker_itself(exported: Exported) -> None:
    assert exported.of("moorage_worker_slots") == 2
    assert exported.of("moorage_worker_subtasks") == 3
    assert exported.of(BUSY) == 1.5
    assert exported.of(STEP) == 0


def test_a_port_in_use_is_named_by_its_setting() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        with pytest.raises(SettingError, match=rf"^MOORAGE_METRICS_PORT={port}: .* can't be used"):
            serve_metrics("127.0.0.1", port)
