"""`moorage coordinator`: one process, one loop, and a thread for REST."""

from __future__ import annotations

import logging
import os
import random
import socket
import sys
import time
from collections.abc import Mapping
from concurrent.futures import Future

from moorage.adapters.clock import SystemClock
from moorage.adapters.executor import ThreadExecutor
from moorage.adapters.object_storage import storage_id
from moorage.api.loader import load_pipeline
from moorage.cluster.coordinator import CoordinatorCore
from moorage.cluster.protocol import ClusterConfig, JobAccepted, LeaderState, Refusal, Refused, SubmitJob
from moorage.config import CoordinatorSettings, KafkaSettings, RedisSettings, StorageSettings, load
from moorage.coordinator_process.hooks import HookRunner
from moorage.coordinator_process.process import CoordinatorProcess
from moorage.effects import Notice
from moorage.graph.job_graph import JobGraph
from moorage.ports import CheckpointStorage
from moorage_coordinator.desk import RequestDesk
from moorage_coordinator.journal import Journal
from moorage_coordinator.metrics import CoordinatorMetrics
from moorage_coordinator.plugins import load_master_hooks, load_operator_coordinators
from moorage_coordinator.rest import RestServer, create_app
from moorage_coordinator.tracing import open_tracer
from moorage_service.metrics import serve_metrics
from moorage_service.runtime import LoopTime, StopFlag, loop, run, start_logging
from moorage_service.wiring import coordinator_registry, kafka_log, open_checkpoint_storage

_METRICS_INTERVAL_S = 1.0
_RELEASE_S = 3.0
"""How long an end in good order waits for the registry to take the lease back."""

_HOOK_THREADS = 64
"""Each job whose hooks hang has one: so many may before another job's must wait. They are started when needed."""


def main() -> int:
    """Run until SIGTERM; the exit code."""
    return run("coordinator", _coordinator)


def _coordinator(environ: Mapping[str, str], stop: StopFlag) -> int:
    settings = load(CoordinatorSettings, environ)
    kafka = load(KafkaSettings, environ)
    redis = load(RedisSettings, environ)
    storage = load(StorageSettings, environ)
    logger = start_logging("coordinator", settings)
    graph = _pipeline_of(settings)
    loop_time = LoopTime()
    metrics_port, registry = serve_metrics(settings.metrics_host, settings.metrics_port)
    metrics = CoordinatorMetrics(registry, loop_time)
    server = RestServer(settings.rest_host, settings.rest_port)
    checkpoint_storage = open_checkpoint_storage(storage)
    service = _Service(
        settings,
        CoordinatorCore(
            _holder(settings, server.port),
            _cluster_config(settings, storage_id(checkpoint_storage)),
            lambda: random.uniform(-1, 1),  # noqa: S311
            load_operator_coordinators(settings),
        ),
        metrics,
        logger,
        graph,
        kafka=kafka,
        redis=redis,
        storage=checkpoint_storage,
    )
    token = None if settings.rest_token is None else settings.rest_token.reveal()
    server.start(create_app(service.desk, token=token, storage_url=storage.url))
    logger.info("REST at port %d, metrics at port %d", server.port, metrics_port)
    try:
        service.run(stop, loop_time)
    finally:
        server.close()
        service.close()
    logger.info("stopped")
    sys.stderr.flush()
    os._exit(0)  # Threads of librdkafka and of calls under way have nothing left that anybody waits for.


class _Service:
    """The loop with everything that it serves."""

    def __init__(
        self,
        settings: CoordinatorSettings,
        core: CoordinatorCore,
        metrics: CoordinatorMetrics,
        logger: logging.Logger,
        graph: JobGraph | None,
        *,
        kafka: KafkaSettings,
        redis: RedisSettings,
        storage: CheckpointStorage,
    ) -> None:
        self.desk = RequestDesk()
        self._logger = logger
        self._metrics = metrics
        self._graph = graph
        self._journal = Journal(logger)
        self._tracer = None if settings.traces_endpoint is None else open_tracer(settings.traces_endpoint)
        self._metrics_at_s = 0.0
        self._log = kafka_log(kafka, "moorage-coordinator")
        # Calls of a storage that hangs must not keep the lease from being renewed.
        self._executor = ThreadExecutor("coordinator", settings.executor_threads)
        self._storage_executor = ThreadExecutor("storage", settings.executor_threads)
        self._hook_executor = ThreadExecutor("hooks", _HOOK_THREADS)
        self._clock = SystemClock()
        self._process = CoordinatorProcess(
            core,
            registry=coordinator_registry(redis),
            storage=storage,
            log=self._log,
            executor=self._executor,
            storage_executor=self._storage_executor,
            hooks=HookRunner(load_master_hooks(settings)),
            hook_executor=self._hook_executor,
            clock=self._clock,
            on_notice=self._notice,
            on_reply=self.desk.answer,
            on_call=metrics.call,
        )

    def run(self, stop: StopFlag, loop_time: LoopTime) -> None:
        loop(self._step, lambda: stop.is_set, self._wait, loop_time)
        self._process.stop()
        end_s = time.monotonic() + _RELEASE_S
        loop(self._step, lambda: self._process.is_stopped or time.monotonic() > end_s, self._wait, loop_time)

    def close(self) -> None:
        self._process.close()
        if self._tracer is not None:
            self._tracer.close()
        self._executor.close()
        self._storage_executor.close()
        self._hook_executor.close()
        self._log.close()

    def _step(self) -> bool:
        executors = (self._executor, self._storage_executor, self._hook_executor)
        has_worked = sum(executor.poll() for executor in executors) > 0
        for request in self.desk.take():
            self._process.request(request)
            has_worked = True
        has_worked |= self._process.step(self._clock.monotonic_ms())
        if self._graph is not None and self._process.core.state is LeaderState.LEADING:
            self._submit(self._graph)
            self._graph = None
        now_s = time.monotonic()
        if now_s >= self._metrics_at_s:
            self._metrics_at_s = now_s + _METRICS_INTERVAL_S
            self._metrics.update(self._process.core, now_s, self._process.events_delay_ms)
        return has_worked

    def _wait(self, seconds: float) -> None:
        self._executor.wait(max(1, int(seconds * 1_000)))

    def _notice(self, notice: Notice) -> None:
        self._metrics.notice(notice)
        self._journal.notice(notice)
        if self._tracer is not None:
            self._tracer.notice(notice)

    def _submit(self, graph: JobGraph) -> None:
        """The pipeline of the settings, once."""

        def answered(answer: Future[object]) -> None:
            match answer.result():
                case JobAccepted(job=job):
                    self._logger.info("submitted %s, as MOORAGE_COORDINATOR_PIPELINE says", job)
                case Refused(refusal=Refusal.CONFLICT, message=message):
                    self._logger.info("MOORAGE_COORDINATOR_PIPELINE needs no submission: %s", message)
                case Refused(message=message):
                    self._logger.error("MOORAGE_COORDINATOR_PIPELINE was not submitted: %s", message)

        self.desk.ask(lambda number: SubmitJob(number, graph, first_only=True)).add_done_callback(answered)


def _pipeline_of(settings: CoordinatorSettings) -> JobGraph | None:
    if settings.pipeline is None:
        return None
    sys.path[:0] = [path for path in settings.pipeline_path if path not in sys.path]
    return load_pipeline(settings.pipeline).graph


def _holder(settings: CoordinatorSettings, rest_port: int) -> str:
    """Its name in the lease: where its REST API is, for those whom a standby sends there. The port is bound, so no
    other process has the same; a restarted coordinator has, and takes its lease again without waiting."""
    host = settings.rest_host if settings.rest_host not in ("0.0.0.0", "::") else socket.getfqdn()  # noqa: S104
    return f"{socket.gethostname()}/http://{host}:{rest_port}"


def _cluster_config(settings: CoordinatorSettings, storage_id: str) -> ClusterConfig:
    return ClusterConfig(
        storage_id=storage_id,
        lease_ttl_ms=settings.lease_ttl_ms,
        heartbeat_interval_ms=settings.heartbeat_interval_ms,
        worker_timeout_ms=settings.worker_heartbeat_timeout_ms,
        adoption_timeout_ms=settings.adoption_timeout_ms,
        checkpoint_history=settings.checkpoint_history,
        master_hook_timeout_ms=None if settings.master_hooks is None else settings.master_hook_timeout_ms,
    )
