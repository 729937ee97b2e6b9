"""Trace spans of checkpoints: what they hold, and that they arrive at a collector."""

from __future__ import annotations

import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import msgspec
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from tests.unit.cluster.graphs import JOB, TOTALS
from tests.unit.coordinator_service.test_observation import ABORTED, COMPLETED, STATS

from moorage.checkpoint.reasons import CheckpointFailureReason
from moorage.checkpoint.stats import CheckpointStatus
from moorage.cluster.protocol import WorkerJoined
from moorage.errors import SettingError
from moorage.ids import WorkerId
from moorage_coordinator.tracing import CheckpointTracer, open_tracer

MS = 1_000_000


@pytest.fixture
def exported() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def tracer(exported: InMemorySpanExporter) -> CheckpointTracer:
    return CheckpointTracer(SimpleSpanProcessor(exported))


def test_a_completed_checkpoint_is_a_span_with_one_per_vertex(
    tracer: CheckpointTracer, exported: InMemorySpanExporter
) -> None:
    tracer.notice(COMPLETED)
    task, checkpoint = exported.get_finished_spans()
    assert (checkpoint.name, task.name) == ("Checkpoint", "Checkpoint_Task")
    assert checkpoint.attributes is not None
    assert {
        name: checkpoint.attributes[name] for name in ("jobId", "checkpointId", "checkpointStatus", "fullSize")
    } == {
        "jobId": JOB,
        "checkpointId": 7,
        "checkpointStatus": "COMPLETED",
        "fullSize": 1_200,
    }
    assert (checkpoint.start_time, checkpoint.end_time) == (1_700_000_000_000 * MS, 1_700_000_000_048 * MS)
    assert checkpoint.status.status_code is StatusCode.UNSET
    assert checkpoint.context is not None
    assert task.parent is not None
    assert task.parent.span_id == checkpoint.context.span_id
    assert task.attributes is not None
    assert (task.attributes["jobVertexId"], task.attributes["maxAsyncDurationMs"]) == (TOTALS, 30)
    assert task.end_time == 1_700_000_000_040 * MS


def test_a_failed_checkpoint_says_why(tracer: CheckpointTracer, exported: InMemorySpanExporter) -> None:
    failed = msgspec.structs.replace(
        STATS,
        status=CheckpointStatus.FAILED,
        tasks=(msgspec.structs.replace(STATS.tasks[0], acknowledged=0, latest_ack_ms=None),),
        reason=CheckpointFailureReason.EXPIRED,
        detail="totals/0",
    )
    tracer.notice(msgspec.structs.replace(ABORTED, stats=failed))
    task, checkpoint = exported.get_finished_spans()
    assert checkpoint.status.status_code is StatusCode.ERROR
    assert checkpoint.status.description == failed.failure
    assert task.end_time == checkpoint.end_time


def test_what_never_was_a_checkpoint_has_no_span(tracer: CheckpointTracer, exported: InMemorySpanExporter) -> None:
    tracer.notice(ABORTED)  # refused before it had an id
    tracer.notice(WorkerJoined(worker=WorkerId("w1/1"), slots=2))
    assert exported.get_finished_spans() == ()


def test_spans_arrive_at_a_collector() -> None:
    received: list[ExportTraceServiceRequest] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            received.append(ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as in the base class
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        tracer = open_tracer(f"http://127.0.0.1:{server.server_address[1]}/v1/traces")
        tracer.notice(COMPLETED)
        tracer.close()
        server.shutdown()
        thread.join()
    (request,) = received
    (resource,) = request.resource_spans
    assert {attribute.key: attribute.value.string_value for attribute in resource.resource.attributes}[
        "service.name"
    ] == "moorage-coordinator"
    assert sorted(span.name for scope in resource.scope_spans for span in scope.spans) == [
        "Checkpoint",
        "Checkpoint_Task",
    ]


def test_without_opentelemetry_the_setting_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(
        SettingError, match=r"MOORAGE_COORDINATOR_TRACES_ENDPOINT=http://x: .*pip install 'moorage\[otel\]'"
    ):
        open_tracer("http://x")
