"""The REST API over a coordinator on the twins; the answers are held against those of a real Flink."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import httpx
import msgspec
import pytest
from tests.unit.cluster.graphs import JOB, TOTALS, orders_graph
from tests.unit.cluster.world import TestCoordinator, World, running_world

from moorage.coordinator_process.process import CoordinatorProcess
from moorage.errors import SettingError
from moorage.graph.job_graph import CheckpointConfig, JobGraph
from moorage.ids import Attempt, SubtaskId
from moorage.messages.events import SubtaskState
from moorage_coordinator.desk import RequestDesk
from moorage_coordinator.rest import RestServer, create_app

GRAPH = orders_graph(2, checkpoint=CheckpointConfig(interval_ms=100))


class Live:
    """A world whose virtual time runs in a thread while clients ask."""

    def __init__(self, world: World, coordinator: TestCoordinator, token: str | None = None) -> None:
        self.world = world
        self.coordinator = coordinator
        self._desk = RequestDesk()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._process: CoordinatorProcess = coordinator.process
        coordinator.on_reply = self._desk.answer
        self._server = RestServer("127.0.0.1", 0)
        self._server.start(create_app(self._desk, token=token, storage_url="file:///checkpoints"))
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self._server.port}", timeout=10)
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._stop.wait(0.001):
            with self._lock:
                for request in self._desk.take():
                    self._process.request(request)
                self.world.step()

    def __enter__(self) -> Live:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.client.close()
        self._server.close()

    def get(self, path: str, status: int = 200) -> Any:
        answer = self.client.get(path)
        assert answer.status_code == status, answer.text
        return answer.json()

    def until(self, path: str, condition: Any) -> Any:
        for _ in range(2_000):
            answer = self.get(path)
            if condition(answer):
                return answer
        raise AssertionError(f"{path} never became so: {answer}")

    def change(self, do: Any) -> None:
        with self._lock:
            do()


@pytest.fixture
def live() -> Iterator[Live]:
    world = running_world(GRAPH)
    with Live(world, world.coordinators[0]) as running:
        yield running


def fields(shape: Any) -> Any:
    """The keys of a JSON value, all the way down; of a list, of its first element."""
    if isinstance(shape, dict):
        return {key: fields(value) for key, value in shape.items()}
    if isinstance(shape, list):
        return [fields(shape[0])] if shape else []
    return None


def submission(graph: JobGraph) -> bytes:
    return msgspec.json.encode({"graph": graph, "restore": None})


def test_overview(live: Live) -> None:
    assert live.get("/overview") == {
        "taskmanagers": 2,
        "slots-total": 4,
        "slots-available": 2,
        "jobs-running": 1,
        "jobs-finished": 0,
        "jobs-cancelled": 0,
        "jobs-failed": 0,
        "flink-version": "moorage-0.1.0",
        "flink-commit": "",
    }


def test_jobs(live: Live) -> None:
    assert live.get("/jobs") == {"jobs": [{"id": "orders", "status": "RUNNING"}]}
    (job,) = live.get("/jobs/overview")["jobs"]
    assert (job["jid"], job["name"], job["state"], job["end-time"]) == ("orders", "orders", "RUNNING", -1)
    assert job["tasks"]["running"] == job["tasks"]["total"] == 6
    assert job["duration"] > 0
    assert (job["waiting-for"], job["failure"]) == (None, None)


def test_one_job(live: Live) -> None:
    job = live.get("/jobs/orders")
    assert job["maxParallelism"] == 8
    assert [(v["id"], v["parallelism"], v["status"], v["tasks"]["RUNNING"]) for v in job["vertices"]] == [
        ("orders", 2, "RUNNING", 2),
        ("totals", 2, "RUNNING", 2),
        ("results", 2, "RUNNING", 2),
    ]
    assert job["status-counts"]["RUNNING"] == 6
    assert job["timestamps"]["RUNNING"] >= job["timestamps"]["CREATED"] > 0
    assert [node["inputs"] and node["inputs"][0]["ship_strategy"] for node in job["plan"]["nodes"]] == [
        [],
        "HASH",
        "FORWARD",
    ]


def test_checkpoints(live: Live) -> None:
    stats = live.until("/jobs/orders/checkpoints", lambda s: s["counts"]["completed"] >= 4)
    latest = stats["latest"]["completed"]
    assert (latest["className"], latest["status"]) == ("completed", "COMPLETED")
    assert (latest["num_subtasks"], latest["num_acknowledged_subtasks"]) == (4, 4)
    assert (latest["checkpointed_size"], latest["state_size"]) == (400, 1_200)
    assert latest["external_path"] == f"file:///checkpoints/orders/chk-{latest['id']}"
    assert set(latest["tasks"]) == {"orders", "totals"}
    assert stats["summary"]["state_size"]["p99"] == 1_200.0
    completed = [entry for entry in stats["history"] if entry["status"] == "COMPLETED"]
    assert [entry["discarded"] for entry in completed[:3]] == [False] * 3
    assert completed[-1]["discarded"]


def test_a_failed_and_a_restored_checkpoint(live: Live) -> None:
    def fail() -> None:
        worker = live.world.workers[0]
        worker.report(JOB, Attempt(1), SubtaskId(TOTALS, 0), SubtaskState.FAILED, "ValueError: no amount")

    live.until("/jobs/orders/checkpoints", lambda s: s["counts"]["completed"] >= 1)
    live.change(lambda: setattr(live.world.workers[0], "acknowledges", False))
    live.until("/jobs/orders/checkpoints", lambda s: s["counts"]["in_progress"] == 1)
    live.change(fail)
    stats = live.until("/jobs/orders/checkpoints", lambda s: s["counts"]["restored"] == 1)
    assert stats["latest"]["failed"]["failure_message"] == "the job restarts"
    assert stats["latest"]["failed"]["failure_timestamp"] > 0
    assert stats["latest"]["restored"]["id"] >= 1
    (entry,) = live.get("/jobs/orders/exceptions")["exceptionHistory"]["entries"]
    assert entry["exceptionName"] == "totals/0 on w1/1 failed: ValueError: no amount"
    assert entry["stacktrace"] == "Traceback: ValueError: no amount"
    assert (entry["taskName"], entry["taskManagerId"]) == ("totals/0", "w1/1")


def test_workers(live: Live) -> None:
    workers = live.get("/taskmanagers")["taskmanagers"]
    assert [(w["id"], w["slotsNumber"], w["freeSlots"], w["path"]) for w in workers] == [
        ("w1/1", 2, 1, "localhost:9000"),
        ("w2/1", 2, 1, "localhost:9000"),
    ]


def test_config(live: Live) -> None:
    assert live.get("/config")["features"]["web-cancel"] is True


def test_submit_cancel_and_submit_again(live: Live) -> None:
    again = live.client.post("/jobs", content=submission(GRAPH))
    assert again.status_code == 409
    assert "exists already" in again.json()["errors"][0]
    assert live.client.patch("/jobs/orders", params={"mode": "cancel"}).status_code == 202
    ended = live.until("/jobs/orders", lambda job: job["state"] == "CANCELED")
    assert ended["end-time"] >= ended["start-time"]
    assert ended["status-counts"]["CANCELED"] == 6
    assert live.client.patch("/jobs/orders", params={"mode": "cancel"}).status_code == 409
    accepted = live.client.post("/jobs", content=submission(GRAPH))
    assert (accepted.status_code, accepted.json()) == (201, {"jobid": "orders"})
    live.until("/jobs/orders", lambda job: job["state"] == "RUNNING")


def test_a_checkpoint_by_hand(live: Live) -> None:
    asked = live.client.post("/jobs/orders/checkpoints")
    assert asked.status_code == 202
    path = f"/jobs/orders/checkpoints/{asked.json()['request-id']}"
    done = live.until(path, lambda answer: answer["status"]["id"] == "COMPLETED")
    assert done["operation"]["checkpointId"] >= 1
    assert done["operation"]["failureCause"] is None


def test_a_checkpoint_by_hand_that_fails_says_why(live: Live) -> None:
    live.change(lambda: setattr(live.world.workers[0], "acknowledges", False))
    asked = live.client.post("/jobs/orders/checkpoints")
    path = f"/jobs/orders/checkpoints/{asked.json()['request-id']}"
    assert live.get(path)["status"]["id"] == "IN_PROGRESS"
    live.client.patch("/jobs/orders")
    done = live.until(path, lambda answer: answer["status"]["id"] == "COMPLETED")
    assert done["operation"]["failureCause"]["stack-trace"] == "the job is stopped"


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "words"),
    [
        ("GET", "/nowhere", None, 404, "GET /nowhere: Not Found"),
        ("DELETE", "/overview", None, 405, "Method Not Allowed"),
        ("GET", "/jobs/other", None, 404, "there is no job other"),
        ("GET", "/jobs/other/checkpoints", None, 404, "there is no job other"),
        ("GET", "/jobs/other/exceptions", None, 404, "there is no job other"),
        ("POST", "/jobs/other/checkpoints", None, 404, "there is no job other"),
        ("GET", "/jobs/orders/checkpoints/0123", None, 404, "no checkpoint request 0123"),
        ("PATCH", "/jobs/other", None, 404, "there is no job other"),
        ("PATCH", "/jobs/orders?mode=explode", None, 400, "mode 'explode' is not known"),
        ("POST", "/jobs", b"{", 400, "the body is not a submission"),
        ("POST", "/jobs", b'{"graph": {}}', 400, "missing required field"),
        ("POST", "/jobs", b"[" * 100_000, 400, "the body is not a submission"),
        ("POST", "/jobs", submission(msgspec.structs.replace(GRAPH, vertices=())), 400, "it has no vertices"),
        ("POST", "/jobs", b" " * (17 << 20), 413, "has more than"),
    ],
)
def test_errors_have_flinks_shape(
    live: Live, method: str, path: str, body: bytes | None, status: int, words: str
) -> None:
    answer = live.client.request(method, path, content=body)
    assert answer.status_code == status
    (error,) = answer.json()["errors"]
    assert words in error


def test_a_standby_says_who_leads() -> None:
    world = running_world(GRAPH)
    standby = world.add_coordinator("coordinator-2")
    world.run(200)
    with Live(world, standby) as live:
        for path in ("/overview", "/jobs", "/jobs/orders", "/taskmanagers"):
            assert "the leader is coordinator-1" in live.get(path, 503)["errors"][0]
        answer = live.client.post("/jobs", content=submission(GRAPH))
        assert answer.status_code == 503


def test_with_a_token_nobody_gets_in_without_it() -> None:
    world = running_world(GRAPH)
    with Live(world, world.coordinators[0], token="s3cret") as live:
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "s3cret"}, {"authorization": ""}):
            for path in ("/overview", "/openapi.json", "/nowhere"):
                answer = live.client.get(path, headers=headers)
                assert (answer.status_code, list(answer.json())) == (401, ["errors"])
        for scheme in ("Bearer", "bearer"):
            assert live.client.get("/overview", headers={"authorization": f"{scheme} s3cret"}).status_code == 200


def test_a_port_in_use_is_told_with_the_setting(live: Live) -> None:
    port = live.client.base_url.port
    assert port is not None
    with pytest.raises(SettingError, match=f"MOORAGE_REST_PORT={port}: 127.0.0.1:{port} can't be listened at"):
        RestServer("127.0.0.1", port)


def test_there_is_an_openapi_document(live: Live) -> None:
    paths = live.get("/openapi.json")["paths"]
    assert {"/overview", "/jobs", "/jobs/{job_id}", "/jobs/{job_id}/checkpoints"} <= set(paths)
    assert set(paths["/jobs/{job_id}/checkpoints"]) == {"get", "post"}


def test_the_shapes_are_flinks(live: Live) -> None:
    """Field names of Flink 2.2, taken from answers of a real one."""
    live.until("/jobs/orders/checkpoints", lambda s: s["counts"]["completed"] >= 1)
    for path, shape in FLINK_FIELDS.items():
        ours = fields(live.get(path))
        missing = _missing(shape, ours)
        assert missing == [], path


def _missing(expected: Any, ours: Any, path: str = "") -> list[str]:
    if isinstance(expected, dict):
        if not isinstance(ours, dict):
            return [path]
        return [
            name for key in expected for name in (_missing(expected[key], ours.get(key, KeyError), f"{path}/{key}"))
        ]
    if isinstance(expected, list):
        return _missing(expected[0], ours[0], f"{path}[]") if expected and ours else []
    return [path] if ours is KeyError else []


_SUMMARY = dict.fromkeys(("min", "max", "avg", "p50", "p90", "p95", "p99", "p999"))
_CHECKPOINT = dict.fromkeys(
    (
        "className",
        "id",
        "status",
        "is_savepoint",
        "savepointFormat",
        "trigger_timestamp",
        "latest_ack_timestamp",
        "checkpointed_size",
        "state_size",
        "end_to_end_duration",
        "alignment_buffered",
        "processed_data",
        "persisted_data",
        "num_subtasks",
        "num_acknowledged_subtasks",
        "checkpoint_type",
        "tasks",
        "external_path",
        "discarded",
    )
)
_JOB_STATES = (
    "CANCELLING",
    "RECONCILING",
    "CANCELED",
    "RUNNING",
    "FAILING",
    "RESTARTING",
    "FAILED",
    "INITIALIZING",
    "SUSPENDED",
    "CREATED",
    "FINISHED",
)
_TASK_STATES = (
    "DEPLOYING",
    "SCHEDULED",
    "CANCELED",
    "INITIALIZING",
    "FINISHED",
    "RECONCILING",
    "CANCELING",
    "CREATED",
    "FAILED",
    "RUNNING",
)
_RESOURCE = dict.fromkeys(
    ("cpuCores", "taskHeapMemory", "taskOffHeapMemory", "managedMemory", "networkMemory", "extendedResources")
)
FLINK_FIELDS: dict[str, Any] = {
    "/overview": dict.fromkeys(
        (
            "taskmanagers",
            "slots-total",
            "slots-available",
            "jobs-running",
            "jobs-finished",
            "jobs-cancelled",
            "jobs-failed",
            "flink-version",
            "flink-commit",
        )
    ),
    "/config": {
        **dict.fromkeys(("refresh-interval", "timezone-name", "timezone-offset", "flink-version", "flink-revision")),
        "features": dict.fromkeys(("web-submit", "web-cancel", "web-rescale", "web-history")),
    },
    "/jobs": {"jobs": [dict.fromkeys(("id", "status"))]},
    "/jobs/overview": {
        "jobs": [
            {
                **dict.fromkeys(("jid", "name", "start-time", "end-time", "duration", "state")),
                **dict.fromkeys(("last-modification", "pending-operators")),
                "tasks": dict.fromkeys(("total", *(state.lower() for state in _TASK_STATES))),
            }
        ]
    },
    "/jobs/orders": {
        **dict.fromkeys(("jid", "name", "isStoppable", "state", "job-type", "start-time", "end-time", "duration")),
        **dict.fromkeys(("maxParallelism", "now", "pending-operators")),
        "timestamps": dict.fromkeys(_JOB_STATES),
        "status-counts": dict.fromkeys(_TASK_STATES),
        "vertices": [
            {
                **dict.fromkeys(("id", "slotSharingGroupId", "name", "maxParallelism", "parallelism", "status")),
                **dict.fromkeys(("start-time", "end-time", "duration", "metrics")),
                "tasks": dict.fromkeys(_TASK_STATES),
            }
        ],
        "plan": {
            **dict.fromkeys(("jid", "name", "type")),
            "nodes": [dict.fromkeys(("id", "operator", "parallelism", "operator_strategy", "description"))],
        },
    },
    "/jobs/orders/exceptions": {"exceptionHistory": {"entries": [], "truncated": None}},
    "/jobs/orders/checkpoints": {
        "counts": dict.fromkeys(("restored", "total", "in_progress", "completed", "failed")),
        "summary": dict.fromkeys(
            (
                "checkpointed_size",
                "state_size",
                "end_to_end_duration",
                "alignment_buffered",
                "processed_data",
                "persisted_data",
            ),
            _SUMMARY,
        ),
        "latest": {**dict.fromkeys(("savepoint", "failed", "restored")), "completed": _CHECKPOINT},
    },
    "/taskmanagers": {
        "taskmanagers": [
            {
                **dict.fromkeys(("id", "path", "dataPort", "jmxPort", "timeSinceLastHeartbeat", "slotsNumber")),
                **dict.fromkeys(("freeSlots", "hardware", "memoryConfiguration")),
                "totalResource": _RESOURCE,
                "freeResource": _RESOURCE,
            }
        ]
    },
}
