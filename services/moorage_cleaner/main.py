"""`moorage cleaner`: one process, one loop, one call at a time."""

from __future__ import annotations

import os
import socket
import sys
import uuid
from collections.abc import Mapping

from moorage.adapters.clock import SystemClock
from moorage.adapters.executor import ThreadExecutor
from moorage.cleaner.pace import CleanerOptions
from moorage.cleaner_process.process import CleanerProcess
from moorage.config import CleanerSettings, KafkaSettings, RedisSettings, StorageSettings, load
from moorage_cleaner.metrics import CleanerMetrics
from moorage_service.metrics import serve_metrics
from moorage_service.runtime import LoopTime, StopFlag, loop, run, start_logging
from moorage_service.wiring import kafka_log, open_checkpoint_storage, redis_registry

_WAIT_MAX_MS = 50
"""Nothing here is urgent: an idle cleaner looks for messages this often."""


def main() -> int:
    """Run until SIGTERM; the exit code."""
    return run("cleaner", _cleaner)


def cleaner_options(settings: CleanerSettings) -> CleanerOptions:
    return CleanerOptions(
        grace_age_ms=settings.grace_ms,
        prompt_interval_ms=settings.prompt_interval_ms,
        sweep_interval_ms=settings.sweep_interval_ms,
        deletes_per_second=settings.deletes_per_second,
        ended_job_ttl_ms=settings.ended_job_ttl_ms,
        purge_hold_ms=settings.purge_hold_ms,
        dry_run=settings.dry_run,
    )


def _cleaner(environ: Mapping[str, str], stop: StopFlag) -> int:
    settings = load(CleanerSettings, environ)
    kafka = load(KafkaSettings, environ)
    redis = load(RedisSettings, environ)
    storage = load(StorageSettings, environ)
    logger = start_logging("cleaner", settings)
    metrics_port, registry = serve_metrics(settings.metrics_host, settings.metrics_port)
    loop_time = LoopTime()
    log = kafka_log(kafka, "moorage-cleaner")
    executor = ThreadExecutor("cleaner", threads=1)
    clock = SystemClock()
    metrics = CleanerMetrics(registry, loop_time, clock)
    process = CleanerProcess(
        registry=redis_registry(redis),
        storage=open_checkpoint_storage(storage),
        log=log,
        executor=executor,
        clock=clock,
        options=cleaner_options(settings),
        observer=metrics,
        holder=None if settings.dry_run else f"{socket.gethostname()}/{uuid.uuid4().hex[:8]}",
    )
    logger.info("cleaner started%s, metrics at port %d", " as a dry run" if settings.dry_run else "", metrics_port)

    def step() -> bool:
        has_worked = bool(executor.poll())
        metrics.update()
        return process.step(clock.monotonic_ms()) or has_worked

    try:
        loop(step, lambda: stop.is_set, lambda _: executor.wait(_WAIT_MAX_MS), loop_time)
    finally:
        process.close()
        executor.close()
        log.close()
    logger.info("stopped")
    sys.stderr.flush()
    os._exit(0)  # A call that is under way may end or not: nobody waits for it.
