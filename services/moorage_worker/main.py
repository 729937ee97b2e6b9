"""`moorage worker`: a supervisor, and under it one process with one loop."""

from __future__ import annotations

import contextlib
import gc
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import psutil

from moorage.adapters.clock import SystemClock
from moorage.adapters.executor import ThreadExecutor
from moorage.adapters.object_storage import DirectoryStorage, storage_id
from moorage.api.loader import load_pipeline
from moorage.backends.rocksdb_environment import RocksDbEnvironment, RocksDbMemory
from moorage.config import KafkaSettings, StorageSettings, WorkerSettings, load
from moorage.connectors.kafka_source import KafkaSourceReader
from moorage.errors import MoorageError
from moorage.exchange.result_partition import ExchangeLimits
from moorage.ids import WorkerId
from moorage.task.context import TaskSettings
from moorage.task.local_recovery import LocalCopies
from moorage.task.pulse import Pulse
from moorage.task.state_writer import StateFileLimits
from moorage.task.worker import WorkerConfig, WorkerHooks, WorkerProcess
from moorage_service.metrics import serve_metrics
from moorage_service.runtime import LoopTime, StopFlag, failpoint, loop, run, start_logging
from moorage_service.wiring import kafka_log, open_checkpoint_storage
from moorage_worker.metrics import WorkerCollector
from moorage_worker.pulse_thread import PulseThread
from moorage_worker.rocksdb_metrics import RocksDbCollector
from moorage_worker.supervisor import die_with, supervise

_GOODBYE_S = 2.0
_GC_THRESHOLDS = (200_000, 50, 1_000)
"""Batches make objects by the ten thousand, nearly all of which reference counting frees; a collector that walks them
all every 700 allocations would cost a multiple of the work itself."""


def main(arguments: Sequence[str] = ()) -> int:
    """Without arguments the supervisor, which starts this again with ``process WORKER_ID SUPERVISOR_PID``."""
    match arguments:
        case ("process", worker, parent):
            return run("worker", partial(_worker, WorkerId(worker), int(parent)))
        case _:
            return run("worker", lambda environ, _: supervise(environ))


def _cpu_cores() -> int:
    """That this process may use, where the system tells."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 0


def _worker(worker_id: WorkerId, supervisor: int, environ: Mapping[str, str], stop: StopFlag) -> int:
    die_with(supervisor)
    settings = load(WorkerSettings, environ)
    kafka = load(KafkaSettings, environ)
    logger = start_logging("worker", settings)
    sys.path[:0] = [path for path in settings.pipeline_path if path not in sys.path]
    storage = open_checkpoint_storage(load(StorageSettings, environ))
    log = kafka_log(kafka, f"moorage-worker-{settings.name}")
    executor = ThreadExecutor("worker", settings.upload_threads + 2 * settings.slots)
    rocksdb = _rocksdb(settings)
    time_ = LoopTime()
    metrics_port, registry = serve_metrics(settings.metrics_host, settings.metrics_port)
    config = WorkerConfig(
        worker=worker_id,
        slots=settings.slots,
        storage_id=storage_id(storage),
        heartbeat_interval_ms=settings.heartbeat_interval_ms,
        task=_task_settings(settings),
        host=settings.metrics_host,
        metrics_port=metrics_port,
        cpu_cores=_cpu_cores(),
        memory_bytes=psutil.virtual_memory().total,
    )
    clock = SystemClock()
    worker = WorkerProcess(
        config,
        log,
        storage,
        executor,
        clock,
        WorkerHooks(
            load_pipeline=load_pipeline,
            new_source_reader=KafkaSourceReader,
            warn=logger.warning,
            failpoint=failpoint(settings),
            local_copies=_local_copies(settings),
            rocksdb=rocksdb,
        ),
    )
    pulse = PulseThread(
        time_,
        lambda: Pulse(config, log.writer(f"{worker_id}.pulse"), clock, lambda: worker.epoch),
        interval_ms=settings.heartbeat_interval_ms,
        step_timeout_ms=settings.step_timeout_ms,
        logger=logger,
    )
    registry.register(WorkerCollector(worker, settings.slots, time_))
    registry.register(RocksDbCollector(rocksdb))
    logger.info("worker %s with %d slots, metrics at port %d", worker_id, settings.slots, metrics_port)
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)

    def step() -> bool:
        handed_back = executor.poll()
        return worker.step() or bool(handed_back)

    pulse.start()
    try:
        loop(step, lambda: stop.is_set, lambda seconds: executor.wait(max(1, int(seconds * 1_000))), time_)
        _say_goodbye(worker)
    finally:
        pulse.stop()
        with contextlib.suppress(MoorageError):
            worker.close()
        executor.close()
        log.close()
        rocksdb.close()
    logger.info("worker %s has left", worker_id)
    sys.stderr.flush()
    os._exit(0)  # threads of librdkafka and of calls under way have nothing left that anybody waits for


def _local_copies(settings: WorkerSettings) -> LocalCopies | None:
    if settings.local_recovery_dir is None:
        return None
    storage = DirectoryStorage(Path(settings.local_recovery_dir), durable=False)
    return LocalCopies(storage, settings.local_recovery_max_bytes)


def _rocksdb(settings: WorkerSettings) -> RocksDbEnvironment:
    folder = Path(settings.state_dir) if settings.state_dir else Path(tempfile.gettempdir()) / "moorage"
    return RocksDbEnvironment(folder, RocksDbMemory.within(settings.state_memory_bytes))


def _say_goodbye(worker: WorkerProcess) -> None:
    worker.leave()
    end = time.monotonic() + _GOODBYE_S
    while worker.unsent_bytes and time.monotonic() < end:
        worker.step()
        time.sleep(0.01)


def _task_settings(settings: WorkerSettings) -> TaskSettings:
    return TaskSettings(
        limits=ExchangeLimits(
            frame_max_records=settings.frame_max_records,
            frame_max_bytes=settings.frame_max_bytes,
            max_lag_frames=settings.exchange_max_lag_frames,
            max_lag_bytes=settings.exchange_max_lag_bytes,
        ),
        max_poll_records=settings.max_poll_records,
        linger_ms=settings.linger_ms,
        held_bytes_max=settings.held_max_bytes,
        state_files=StateFileLimits(
            inline_max_bytes=settings.state_inline_max_bytes,
            merged_piece_max_bytes=settings.state_merged_piece_max_bytes,
            merged_file_max_bytes=settings.state_merged_file_max_bytes,
            space_amplification=settings.state_merged_max_space_amplification,
            linger_ms=settings.state_merge_linger_ms,
            uploads=settings.upload_threads,
        ),
        transaction_timeout_ms=settings.transaction_timeout_ms,
        restore_threads=settings.restore_threads,
    )
