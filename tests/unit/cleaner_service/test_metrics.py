"""Every metric of the cleaner is exported under its listed name, and moves when it should."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry
from tests.unit.cleaner.jobs import JOB

from moorage.cleaner.classify import Verdict
from moorage.config import CleanerSettings, load
from moorage.errors import (
    CorruptDataError,
    FencedError,
    LogUnavailableError,
    MoorageError,
    ObjectMissingError,
    RegistryUnavailableError,
)
from moorage.testing.clocks import ManualClock
from moorage_cleaner.main import cleaner_options
from moorage_cleaner.metrics import METRICS, CleanerMetrics
from moorage_service.runtime import LoopTime


class Exported:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.clock = ManualClock()
        self.loop_time = LoopTime()
        self.metrics = CleanerMetrics(self.registry, self.loop_time, self.clock)

    def value(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, labels)


@pytest.fixture
def exported() -> Exported:
    return Exported()


def test_what_is_exported_is_what_is_listed(exported: Exported) -> None:
    families = {
        (f.name + "_total" if f.type == "counter" else f.name, f.type, f.documentation)
        for f in exported.registry.collect()
    }
    assert families == {(metric.name, metric.kind, metric.doc) for metric in METRICS}


def test_deletions_and_cuts_are_counted(exported: Exported) -> None:
    exported.metrics.files_deleted(Verdict.DELETE_SUBSUMED, 3, 300)
    exported.metrics.files_deleted(Verdict.DELETE_SUBSUMED, 2, 50)
    exported.metrics.files_deleted(Verdict.DELETE_ORPHAN, 1, 7)
    exported.metrics.log_trimmed(40, 4_000)
    exported.metrics.topics_deleted(2)
    assert exported.value("moorage_cleaner_files_deleted_total", kind="subsumed") == 5
    assert exported.value("moorage_cleaner_bytes_deleted_total", kind="subsumed") == 350
    assert exported.value("moorage_cleaner_files_deleted_total", kind="orphan") == 1
    assert exported.value("moorage_cleaner_log_offsets_trimmed_total") == 40
    assert exported.value("moorage_cleaner_log_bytes_trimmed_total") == 4_000
    assert exported.value("moorage_cleaner_topics_deleted_total") == 2


def test_the_oldest_candidate_grows_older_while_nobody_looks(exported: Exported) -> None:
    name = "moorage_cleaner_oldest_candidate_age_seconds"
    assert exported.value(name) == 0
    exported.metrics.backlog_changed(4, 1_000, exported.clock.wall_ms())
    exported.clock.advance(90_000)
    assert exported.value(name) == 90
    assert exported.value("moorage_cleaner_backlog_files") == 4
    assert exported.value("moorage_cleaner_backlog_bytes") == 1_000
    exported.metrics.backlog_changed(0, 0, None)
    assert exported.value(name) == 0


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (CorruptDataError("x"), "metadata"),
        (ObjectMissingError("x"), "storage"),
        (RegistryUnavailableError("x"), "registry"),
        (FencedError("x"), "registry"),
        (LogUnavailableError("x"), "log"),
        (MoorageError("x"), "other"),
    ],
)
def test_errors_are_counted_by_what_failed(exported: Exported, error: MoorageError, kind: str) -> None:
    exported.metrics.job_failed(JOB, error)
    exported.metrics.failed(error)
    exported.metrics.uploads_failed(JOB, error)
    assert exported.value("moorage_cleaner_errors_total", kind=kind) == 3


def test_messages_that_were_skipped_are_counted(exported: Exported) -> None:
    exported.metrics.message_rejected(CorruptDataError("x"))
    assert exported.value("moorage_cleaner_errors_total", kind="message") == 1


def test_sweeps_and_the_loop_are_timed(exported: Exported) -> None:
    exported.metrics.job_cleaned(JOB, 250)
    exported.metrics.all_swept(1_700_000_000_500)
    exported.loop_time.busy_ns = 3_000_000_000
    exported.metrics.update()
    exported.metrics.update()
    assert exported.value("moorage_cleaner_job_seconds_sum") == 0.25
    assert exported.value("moorage_cleaner_last_full_sweep_timestamp_seconds") == 1_700_000_000.5
    assert exported.value("moorage_cleaner_loop_busy_seconds_total") == 3


def test_every_setting_reaches_the_process() -> None:
    settings = load(
        CleanerSettings,
        {
            "MOORAGE_CLEANER_GRACE_MS": "1",
            "MOORAGE_CLEANER_SWEEP_INTERVAL_MS": "2000",
            "MOORAGE_CLEANER_PROMPT_INTERVAL_MS": "300",
            "MOORAGE_CLEANER_DELETES_PER_SECOND": "4",
            "MOORAGE_CLEANER_DRY_RUN": "true",
        },
    )
    options = cleaner_options(settings)
    assert (options.grace_age_ms, options.sweep_interval_ms, options.prompt_interval_ms) == (1, 2_000, 300)
    assert (options.deletes_per_second, options.dry_run) == (4, True)
