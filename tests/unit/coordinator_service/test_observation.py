"""What people see: log lines and metrics, for everything that a core reports."""

from __future__ import annotations

import json
import logging
import re
from enum import Enum
from threading import Thread
from typing import Any, get_args, get_type_hints

import msgspec
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from tests.unit.cluster.graphs import JOB, TOTALS, orders_graph
from tests.unit.cluster.world import World, running_world

from moorage.checkpoint.notices import CheckpointAborted, CheckpointCompleted
from moorage.checkpoint.reasons import CheckpointFailureReason
from moorage.checkpoint.stats import (
    AcknowledgementCounts,
    CheckpointStats,
    CheckpointStatus,
    CoordinatorStats,
    TaskStats,
)
from moorage.cluster.protocol import (
    AttemptFailed,
    AttemptRunning,
    CancelRequested,
    DropReason,
    LeadershipChanged,
    LeaderState,
    MessageDropped,
    OverviewRequested,
)
from moorage.effects import Notice
from moorage.graph.job_graph import CheckpointConfig
from moorage.ids import Attempt, CheckpointId, Epoch, JobId, OperatorUid, SubtaskId, WorkerId
from moorage.messages.events import CheckpointMetrics, SubtaskState
from moorage_coordinator.desk import RequestDesk
from moorage_coordinator.journal import Journal, line
from moorage_coordinator.metric_list import METRICS
from moorage_coordinator.metrics import _OF_LIVE_JOBS, LEFT_JOB_SHOWN_S, CoordinatorMetrics
from moorage_service.logs import configure_logging
from moorage_service.runtime import LoopTime

METRICS_OF_7 = CheckpointMetrics(
    start_delay_ms=3, alignment_ms=7, sync_ms=1, async_ms=30, held_bytes=5, written_bytes=400, state_bytes=1_200
)
STATS = CheckpointStats(
    checkpoint=CheckpointId(7),
    status=CheckpointStatus.COMPLETED,
    triggered_ms=1_700_000_000_000,
    subtasks=4,
    acknowledged=4,
    latest_ack_ms=1_700_000_000_040,
    duration_ms=48,
    metrics=METRICS_OF_7,
    tasks=(
        TaskStats(vertex=TOTALS, subtasks=4, acknowledged=4, latest_ack_ms=1_700_000_000_040, metrics=METRICS_OF_7),
    ),
    coordinators={
        OperatorUid("orders"): CoordinatorStats(acknowledged_ms=1_700_000_000_002, duration_ms=2, state_bytes=30),
        OperatorUid("totals"): CoordinatorStats(acknowledged_ms=1_700_000_000_009, duration_ms=9, state_bytes=4),
    },
    hooks=CoordinatorStats(acknowledged_ms=1_700_000_000_000, duration_ms=6, state_bytes=12),
    acknowledgements=AcknowledgementCounts(success=7, duplicate=2),
    path="orders/chk-7/_metadata",
)
COMPLETED = CheckpointCompleted(
    job=JOB,
    attempt=Attempt(2),
    checkpoint=CheckpointId(7),
    completed_ms=1_700_000_000_048,
    stats=STATS,
)
ABORTED = CheckpointAborted(
    job=JOB,
    attempt=Attempt(2),
    checkpoint=CheckpointId(8),
    reason=CheckpointFailureReason.DECLINED_STORAGE,
    detail="totals/0 on w1/1: disk full",
)
FAILED = AttemptFailed(
    job=JOB,
    attempt=Attempt(2),
    cause="totals/0 failed: boom",
    trace="Traceback (most recent call last):\n  boom",
    subtask=SubtaskId(TOTALS, 0),
    worker=WorkerId("w1/1"),
)


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


def test_a_line_names_the_event_and_every_id() -> None:
    assert line(COMPLETED) == (
        "checkpoint completed job=orders attempt=2 checkpoint=7 completed_ms=1700000000048 kind=checkpoint subtasks=4"
        " acknowledged=4 duration_ms=48 start_delay_ms=3 alignment_ms=7 sync_ms=1 async_ms=30 held_bytes=5"
        " written_bytes=400 state_bytes=1200 processed_bytes=0 persisted_bytes=0 unaligned=false"
        " hooks_ms=6 hooks_bytes=12 coordinators_acknowledged=2 coordinators_ms=9 coordinators_bytes=34"
        " duplicate_acks=2"
    )
    assert line(ABORTED) == (
        "checkpoint aborted job=orders attempt=2 checkpoint=8 reason=declined_storage"
        ' detail="totals/0 on w1/1: disk full"'
    )


def test_a_failure_is_an_error_with_its_trace(caplog: pytest.LogCaptureFixture) -> None:
    Journal(logging.getLogger("journal")).notice(FAILED)
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"]
    assert "totals/0 failed: boom" in caplog.records[0].message
    assert caplog.records[1].message.endswith("Traceback (most recent call last):\n  boom")


def test_the_parts_of_a_line_are_fields_of_its_json(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    try:
        configure_logging("info", json_lines=True, service="coordinator")
        Journal(logging.getLogger("journal")).notice(COMPLETED)
    finally:
        root.handlers[:], root.level = before[0], before[1]
    written = json.loads(capsys.readouterr().err)
    assert (written["event"], written["service"], written["level"]) == ("checkpoint completed", "coordinator", "info")
    assert (written["checkpoint"], written["duration_ms"], written["unaligned"]) == (7, 48, False)
    assert written["message"] == line(COMPLETED)


def test_what_happens_all_the_time_is_not_shown_by_default(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    Journal(logging.getLogger("journal")).notice(MessageDropped(kind="Ack", reason=DropReason.LATE))
    assert caplog.records == []


def test_every_notice_has_a_metric_and_a_line(registry: CollectorRegistry) -> None:
    """Whoever adds one is reminded here."""
    metrics = CoordinatorMetrics(registry, LoopTime())
    kinds = Notice.__subclasses__()
    assert len(kinds) > 15
    for kind in kinds:
        notice = _example(kind)
        metrics.notice(notice)
        assert line(notice)


def _example(kind: type[Notice]) -> Notice:
    """One with plausible values, by the types of its fields."""
    hints = get_type_hints(kind)
    return kind(**{name: _value(hints[name]) for name in kind.__struct_fields__})


def _value(hint: Any) -> object:
    if hint is CheckpointStats:
        return STATS
    supertype = getattr(hint, "__supertype__", hint)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return next(iter(hint))
    if get_args(hint):
        return None
    return {bool: True, int: 1, str: "two words"}[supertype]


def test_metrics_of_a_checkpoint(registry: CollectorRegistry) -> None:
    metrics = CoordinatorMetrics(registry, LoopTime())
    metrics.notice(COMPLETED)
    metrics.notice(ABORTED)

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(name, {"job_name": "orders", **labels})

    assert value("moorage_checkpoints_total", outcome="completed", reason="") == 1
    assert value("moorage_checkpoints_total", outcome="failed", reason="declined_storage") == 1
    assert value("moorage_checkpoint_duration_seconds_sum") == pytest.approx(0.048)
    assert value("moorage_checkpoint_written_bytes_total") == 400
    assert value("moorage_checkpoint_start_delay_seconds_sum") == pytest.approx(0.003)
    assert value("moorage_checkpoint_alignment_seconds_sum") == pytest.approx(0.007)
    assert value("moorage_checkpoint_sync_seconds_sum") == pytest.approx(0.001)
    assert value("moorage_checkpoint_async_seconds_sum") == pytest.approx(0.03)
    assert value("moorage_checkpoint_hooks_seconds_sum") == pytest.approx(0.006)
    assert value("moorage_checkpoint_operator_coordinators_seconds_sum") == pytest.approx(0.009)


def test_a_first_start_is_no_recovery(registry: CollectorRegistry) -> None:
    metrics = CoordinatorMetrics(registry, LoopTime())
    metrics.notice(AttemptRunning(job=JOB, attempt=Attempt(1), adopted=False, recovery_ms=None))
    assert registry.get_sample_value("moorage_coordinator_recovery_seconds_count", {"job_name": "orders"}) is None
    metrics.notice(AttemptRunning(job=JOB, attempt=Attempt(2), adopted=False, recovery_ms=1_500))
    assert registry.get_sample_value("moorage_coordinator_recovery_seconds_sum", {"job_name": "orders"}) == 1.5


def test_an_election_is_counted_once(registry: CollectorRegistry) -> None:
    metrics = CoordinatorMetrics(registry, LoopTime())
    for state in (LeaderState.LOADING, LeaderState.LEADING, LeaderState.STANDBY):
        metrics.notice(LeadershipChanged(state=state, epoch=Epoch(1), reason="x"))
    assert registry.get_sample_value("moorage_coordinator_elections_total") == 1


def test_the_whole_life_of_a_job_in_metrics(registry: CollectorRegistry) -> None:
    loop_time = LoopTime()
    metrics = CoordinatorMetrics(registry, loop_time)
    world = running_world(orders_graph(2, checkpoint=CheckpointConfig(interval_ms=100)))
    leader = world.coordinators[0]
    world.run(500)
    world.workers[0].report(JOB, Attempt(1), SubtaskId(TOTALS, 0), SubtaskState.FAILED, "boom")
    world.run(2_000)
    for notice in leader.notices:
        metrics.notice(notice)
    loop_time.busy_ns = 2_500_000_000
    metrics.update(leader.core, 0.0)
    sample = registry.get_sample_value
    assert sample("moorage_coordinator_is_leader") == 1
    assert sample("moorage_coordinator_workers") == 2
    assert sample("moorage_coordinator_slots") == 4
    assert sample("moorage_coordinator_slots_free") == 2
    assert sample("moorage_coordinator_jobs", {"status": "RUNNING"}) == 1
    assert sample("moorage_coordinator_attempts_started_total", {"job_name": "orders"}) == 2
    assert sample("moorage_coordinator_attempts_failed_total", {"job_name": "orders"}) == 1
    assert sample("moorage_coordinator_recovery_seconds_count", {"job_name": "orders"}) == 1
    assert sample("moorage_coordinator_loop_busy_seconds_total") == 2.5
    assert (sample("moorage_sink_commits_heard_timestamp_seconds", {"job_name": "orders"}) or 0) > 1_700_000_000
    assert 0 < (sample("moorage_coordinator_heartbeat_age_seconds") or 0) < 6
    of_live_jobs = {name: shown(registry, name) for name in _OF_LIVE_JOBS}
    assert {name for name, value in of_live_jobs.items() if value is None} == {
        "moorage_checkpoint_last_savepoint_id",
        "moorage_checkpoint_last_savepoint_timestamp_seconds",
        "moorage_checkpoint_last_failed_id",
        "moorage_checkpoint_last_failed_timestamp_seconds",
    }
    assert of_live_jobs["moorage_checkpoint_interval_seconds"] == 0.1
    restored = of_live_jobs["moorage_checkpoint_restored_id"] or 0
    assert (of_live_jobs["moorage_checkpoint_last_completed_id"] or 0) > restored > 0
    assert sample("moorage_checkpoints_restored_total", {"job_name": "orders"}) == 1
    state = {"job_name": "orders", "measure": "state", "statistic": "p99"}
    assert sample("moorage_checkpoint_size_summary_bytes", state) == 1_200
    leader.process.stop()
    world.run(50)
    metrics.update(leader.core, 1.0)
    assert sample("moorage_coordinator_is_leader") == 0
    assert sample("moorage_coordinator_workers") == 0
    assert all(shown(registry, name) is None for name in _OF_LIVE_JOBS)


def test_a_name_that_is_no_longer_used_leaves_nothing_behind(registry: CollectorRegistry) -> None:
    """Jobs come and go for years, each with a name of its own."""
    metrics = CoordinatorMetrics(registry, LoopTime())
    core = World().add_coordinator().core
    for number in range(50):
        for kind in Notice.__subclasses__():
            notice = _example(kind)
            if hasattr(notice, "job"):
                metrics.notice(msgspec.structs.replace(notice, job=JobId(f"job-{number}")))
        metrics.update(core, number * 1.0)
    names = {name for name, labels in series(registry) if "job_name" in labels}
    assert len(names) > 20
    assert not names & set(_OF_LIVE_JOBS)
    metrics.update(core, LEFT_JOB_SHOWN_S + 24.5)
    left = {labels["job_name"] for _, labels in series(registry) if "job_name" in labels}
    assert left == {f"job-{number}" for number in range(25, 50)}
    metrics.update(core, LEFT_JOB_SHOWN_S + 50.0)
    assert [labels for _, labels in series(registry) if "job_name" in labels] == []


def test_a_job_that_comes_back_is_shown_on(registry: CollectorRegistry) -> None:
    metrics = CoordinatorMetrics(registry, LoopTime())
    world = running_world(orders_graph(2))
    leader = world.coordinators[0]
    metrics.notice(FAILED)
    metrics.update(World().add_coordinator().core, 0.0)
    metrics.update(leader.core, 1.0)
    metrics.update(leader.core, 2 * LEFT_JOB_SHOWN_S)
    of_job = {"job_name": "orders"}
    assert registry.get_sample_value("moorage_coordinator_attempts_failed_total", of_job) == 1
    leader.cancel(JOB)
    world.run(1_000)
    metrics.update(leader.core, 3 * LEFT_JOB_SHOWN_S)
    metrics.update(leader.core, 4 * LEFT_JOB_SHOWN_S - 1)
    assert registry.get_sample_value("moorage_coordinator_attempts_failed_total", of_job) == 1
    metrics.update(leader.core, 4 * LEFT_JOB_SHOWN_S)
    assert registry.get_sample_value("moorage_coordinator_attempts_failed_total", of_job) is None


def series(registry: CollectorRegistry) -> list[tuple[str, dict[str, str]]]:
    return [(sample.name, sample.labels) for family in registry.collect() for sample in family.samples]


def shown(registry: CollectorRegistry, name: str) -> float | None:
    """A value of the job, whatever other labels there are."""
    samples = (sample for family in registry.collect() for sample in family.samples)
    return next((s.value for s in samples if s.name == name and s.labels["job_name"] == "orders"), None)


def test_calls_are_timed_and_failed_ones_counted(registry: CollectorRegistry) -> None:
    metrics = CoordinatorMetrics(registry, LoopTime())
    metrics.call("RenewLease", 4, True)
    metrics.call("RenewLease", 5_000, False)
    of = {"operation": "RenewLease"}
    assert registry.get_sample_value("moorage_coordinator_call_seconds_count", of) == 2
    assert registry.get_sample_value("moorage_coordinator_call_seconds_sum", of) == pytest.approx(5.004)
    assert registry.get_sample_value("moorage_coordinator_calls_failed_total", of) == 1


def test_names_and_words_follow_the_conventions(registry: CollectorRegistry) -> None:
    CoordinatorMetrics(registry, LoopTime())
    for metric in METRICS:
        assert re.fullmatch(r"moorage_(coordinator|checkpoints?|sink)_[a-z_]+", metric.name)
        assert metric.name.endswith("_total") == (metric.kind == "counter")
        assert metric.doc.endswith(".")
    exposed = generate_latest(registry).decode()
    assert all(f"# HELP {metric.name.removesuffix('_total')}" in exposed for metric in METRICS)


def test_the_desk_answers_each_request_once_whatever_thread_asks() -> None:
    desk = RequestDesk()
    answers = []

    def ask(job: str) -> None:
        answers.append((job, desk.ask(lambda number: CancelRequested(number, JOB))))

    threads = [Thread(target=ask, args=(f"job-{n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    requests = list(desk.take())
    assert len({request.request for request in requests}) == 8
    assert list(desk.take()) == []
    for request in requests:
        desk.answer(request.request, request.request)
    assert sorted(answer.result(timeout=0) for _, answer in answers) == sorted(r.request for r in requests)  # type: ignore[type-var]


def test_an_answer_that_nobody_waits_for_is_dropped() -> None:
    desk = RequestDesk()
    answer = desk.ask(OverviewRequested)
    (request,) = desk.take()
    answer.cancel()
    desk.answer(request.request, "too late")
    assert answer.cancelled()
