"""What the REST API answers and does, over a coordinator on the twins; for the shapes see test_flink_shapes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from tests.unit.cluster.graphs import JOB, TOTALS, orders_graph
from tests.unit.cluster.world import running_world
from tests.unit.coordinator_service.live import Live

from moorage.errors import SettingError
from moorage.graph.job_graph import CheckpointConfig, JobGraph, RestartConfig
from moorage.ids import Attempt, SubtaskId
from moorage.messages.events import SubtaskState
from moorage_coordinator.rest import RestServer

GRAPH = orders_graph(2, checkpoint=CheckpointConfig(interval_ms=100))


@pytest.fixture
def live() -> Iterator[Live]:
    world = running_world(GRAPH)
    with Live(world, world.coordinators[0]) as running:
        yield running


UNKNOWN_ID = 32 * "0"


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
    plan = job["plan"]["nodes"]
    assert "inputs" not in plan[0]
    assert [node["inputs"][0]["ship_strategy"] for node in plan[1:]] == ["HASH", "FORWARD"]


COUNTS = ("read-records", "write-records", "read-bytes", "write-bytes")


def all_counted(job: Any) -> bool:
    return all(vertex["metrics"][f"{name}-complete"] for vertex in job["vertices"] for name in COUNTS)


def test_what_the_subtasks_of_a_vertex_have_read_and_written(live: Live) -> None:
    job = live.until("/jobs/orders", all_counted)
    assert [[vertex["metrics"][name] for name in COUNTS] for vertex in job["vertices"]] == [[201, 21, 2_000, 1_000]] * 3


def test_what_was_counted_in_a_former_attempt_counts_no_more(live: Live) -> None:
    def fail() -> None:
        live.world.workers[0].report(
            JOB, Attempt(1), SubtaskId(TOTALS, 0), SubtaskState.FAILED, "ValueError: no amount"
        )

    live.until("/jobs/orders", all_counted)
    live.change(fail)
    job = live.until("/jobs/orders", lambda job: job["attempt"] == 2 and job["state"] == "RUNNING")
    assert {vertex["metrics"]["read-records"] for vertex in job["vertices"]} <= {0, 200, 201, 401}
    job = live.until("/jobs/orders", all_counted)
    assert [vertex["metrics"]["read-records"] for vertex in job["vertices"]] == [401] * 3


def test_checkpoints(live: Live) -> None:
    stats = live.until("/jobs/orders/checkpoints", lambda s: s["counts"]["completed"] >= 4)
    latest = stats["latest"]["completed"]
    assert (latest["className"], latest["status"]) == ("completed", "COMPLETED")
    assert (latest["num_subtasks"], latest["num_acknowledged_subtasks"]) == (4, 4)
    assert (latest["checkpointed_size"], latest["state_size"]) == (400, 1_200)
    assert latest["external_path"] == f"file:///checkpoints/orders/chk-{latest['id']}"
    assert latest["tasks"] == {}
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
    hardware = {"cpuCores": 4, "physicalMemory": 16 << 30, "freeMemory": 0, "managedMemory": 0}
    assert [worker["hardware"] for worker in workers] == [hardware, hardware]
    assert live.get("/taskmanagers/w1%2F1")["hardware"] == hardware


def test_config(live: Live) -> None:
    assert live.get("/config")["features"]["web-cancel"] is True


def test_submit_cancel_and_submit_again(live: Live) -> None:
    again = live.client.post("/jobs", content=submission(GRAPH))
    assert again.status_code == 409
    assert "exists already" in again.json()["errors"][0]
    assert live.client.patch("/jobs/orders", params={"mode": "cancel"}).status_code == 202
    ended = live.until("/jobs/orders", lambda job: job["state"] == "CANCELED")
    assert ended["end-time"] >= ended["start-time"]
    for vertex in ended["vertices"]:
        assert vertex["end-time"] == ended["end-time"]
        assert vertex["duration"] == ended["end-time"] - vertex["start-time"]
    assert ended["status-counts"]["CANCELED"] == 6
    assert live.client.patch("/jobs/orders", params={"mode": "cancel"}).status_code == 409
    accepted = live.client.post("/jobs", content=submission(GRAPH))
    assert (accepted.status_code, accepted.json()) == (201, {"jobid": "orders"})
    live.until("/jobs/orders", lambda job: job["state"] == "RUNNING")


def test_subtasks_of_a_job_that_has_failed_are_shown_as_they_ended() -> None:
    world = running_world(orders_graph(2, restart=RestartConfig(strategy="none")))

    def fail() -> None:
        world.workers[0].report(JOB, Attempt(1), SubtaskId(TOTALS, 0), SubtaskState.FAILED, "ValueError: no amount")

    with Live(world, world.coordinators[0]) as live:
        live.change(fail)
        job = live.until("/jobs/orders", lambda job: job["state"] == "FAILED")
        assert [(v["id"], v["status"], v["tasks"]["FAILED"], v["tasks"]["CANCELED"]) for v in job["vertices"]] == [
            ("orders", "CANCELED", 0, 2),
            ("totals", "FAILED", 1, 1),
            ("results", "CANCELED", 0, 2),
        ]
        assert (job["status-counts"]["FAILED"], job["status-counts"]["CANCELED"]) == (1, 5)
        (shown,) = live.get("/jobs/overview")["jobs"]
        assert (shown["tasks"]["total"], shown["tasks"]["failed"]) == (6, 1)


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
        ("GET", "/jobs/orders/checkpoints/0123", None, 400, "a trigger id has 32 hexadecimal digits"),
        (
            "GET",
            f"/jobs/orders/checkpoints/{UNKNOWN_ID}",
            None,
            404,
            f"{UNKNOWN_ID} of /jobs/orders/checkpoints",
        ),
        ("PATCH", "/jobs/other", None, 404, "there is no job other"),
        ("PATCH", "/jobs/orders?mode=explode", None, 400, "mode 'explode' is not known"),
        ("GET", "/jobs/other/config", None, 404, "there is no job other"),
        ("GET", "/jobs/orders/exceptions?maxExceptions=few", None, 400, "maxExceptions must be a whole number"),
        ("GET", "/jobs/orders/checkpoints/details/first", None, 400, "checkpoint_id must be a whole number"),
        ("GET", "/jobs/orders/checkpoints/details/999999", None, 404, "checkpoint 999999 is not in the history"),
        ("GET", "/jobs/orders/checkpoints/details/-1", None, 400, "checkpoint_id must be a whole number"),
        ("GET", "/taskmanagers/w9/1", None, 404, "there is no worker w9/1"),
        ("POST", "/jobs/orders/checkpoints", b'{"checkpointType": "PARTIAL"}', 400, "Invalid enum value"),
        ("POST", "/jobs/orders/checkpoints", b'{"triggerId": "mine"}', 400, "triggerId"),
        ("POST", "/jobs/orders/savepoints", b'{"unknown": 1}', 400, "unknown field `unknown`"),
        ("POST", "/jobs/other/savepoints", None, 404, "there is no job other"),
        ("POST", "/jobs/other/stop", None, 404, "there is no job other"),
        ("GET", "/jobs/orders/savepoints/0123", None, 400, "a trigger id has 32 hexadecimal digits"),
        (
            "GET",
            f"/jobs/orders/savepoints/{UNKNOWN_ID}",
            None,
            404,
            f"{UNKNOWN_ID} of /jobs/orders/savepoints",
        ),
        ("POST", "/savepoint-disposal", None, 400, "the body is not as it should be"),
        ("GET", "/savepoint-disposal/0123", None, 400, "a trigger id has 32 hexadecimal digits"),
        ("GET", f"/savepoint-disposal/{UNKNOWN_ID}", None, 404, f"there is no request {UNKNOWN_ID}"),
        ("PUT", "/jobs/orders/resource-requirements", b"[]", 400, "the body is not as it should be"),
        (
            "PUT",
            "/jobs/orders/resource-requirements",
            b'{"totals": {"parallelism": {"lowerBound": 3, "upperBound": 2}}}',
            400,
            "parallelism of totals: lowerBound 3 is above 2",
        ),
        ("POST", "/jobs", b"{", 400, "the body is not as it should be"),
        ("POST", "/jobs", b"\x22\xff\x22", 400, "the body is not as it should be"),
        ("POST", "/jobs", b'{"graph": {}}', 400, "missing required field"),
        ("POST", "/jobs", b"[" * 100_000, 400, "the body is not as it should be"),
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
        statuses = [
            f"/{of}/{'0' * 32}" for of in ("jobs/orders/checkpoints", "jobs/orders/savepoints", "savepoint-disposal")
        ]
        for path in ("/overview", "/jobs", "/jobs/orders", "/taskmanagers", *statuses):
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
                assert answer.headers["www-authenticate"] == "Bearer"
        for scheme in ("Bearer", "bearer"):
            assert live.client.get("/overview", headers={"authorization": f"{scheme} s3cret"}).status_code == 200


def test_a_port_in_use_is_told_with_the_setting(live: Live) -> None:
    port = live.client.base_url.port
    assert port is not None
    with pytest.raises(SettingError, match=f"MOORAGE_REST_PORT={port}: 127.0.0.1:{port} can't be listened at"):
        RestServer("127.0.0.1", port)


def test_another_method_is_told_which_ones_there_are(live: Live) -> None:
    answer = live.client.delete("/jobs")
    assert answer.status_code == 405
    assert {method.strip() for method in answer.headers["allow"].split(",")} == {"GET", "HEAD", "POST"}


def test_a_slash_too_many_is_another_path(live: Live) -> None:
    assert live.client.get("/jobs/").status_code == 404


def test_details_of_a_checkpoint_with_its_subtasks(live: Live) -> None:
    live.until("/jobs/orders/checkpoints", lambda s: s["counts"]["completed"] >= 1)
    live.freeze()
    number = live.get("/jobs/orders/checkpoints")["latest"]["completed"]["id"]
    details = live.get(f"/jobs/orders/checkpoints/details/{number}")
    assert {vertex: task["num_acknowledged_subtasks"] for vertex, task in details["tasks"].items()} == {
        "orders": 2,
        "totals": 2,
    }
    task = live.get(f"/jobs/orders/checkpoints/details/{number}/subtasks/totals")
    assert (task["id"], task["checkpointed_size"], task["state_size"]) == (number, 200, 600)
    assert [(s["index"], s["status"], s["state_size"], s["alignment"]["duration"]) for s in task["subtasks"]] == [
        (0, "completed", 300, 7),
        (1, "completed", 300, 7),
    ]
    assert task["summary"]["state_size"] == {
        **dict.fromkeys(("min", "max", "avg"), 300),
        **dict.fromkeys(("p50", "p90", "p95", "p99", "p999"), 300.0),
    }
    assert "results" not in details["tasks"], "an exactly-once sink takes no part"
    live.get(f"/jobs/orders/checkpoints/details/{number}/subtasks/results", 404)


def test_subtasks_that_have_not_acknowledged(live: Live) -> None:
    live.change(lambda: setattr(live.world.workers[0], "acknowledges", False))
    stats = live.until(
        "/jobs/orders/checkpoints",
        lambda s: s["counts"]["in_progress"] == 1 and s["history"][0]["num_acknowledged_subtasks"] == 2,
    )
    (pending,) = [entry for entry in stats["history"] if entry["status"] == "IN_PROGRESS"]
    assert pending["className"] == "in_progress"
    task = live.get(f"/jobs/orders/checkpoints/details/{pending['id']}/subtasks/totals")
    assert [subtask["status"] for subtask in task["subtasks"]] == ["pending_or_failed", "completed"]


def test_how_checkpoints_are_taken(live: Live) -> None:
    config = live.get("/jobs/orders/checkpoints/config")
    assert (config["mode"], config["interval"], config["timeout"]) == ("exactly_once", 100, 600_000)
    assert config["externalization"] == {"enabled": True, "delete_on_cancellation": False}
    assert config["checkpoint_storage"] == "file:///checkpoints"


def test_a_worker_and_its_slots(live: Live) -> None:
    worker = live.get("/taskmanagers/w1/1")
    assert worker["slotsNumber"] == 2
    assert [(slot["jobId"], slot["assignedTasks"]) for slot in worker["allocatedSlots"]] == [("orders", 3)]


def test_the_configuration_of_a_job(live: Live) -> None:
    config = live.get("/jobs/orders/config")["execution-config"]
    assert config["job-parallelism"] == 2
    assert config["restart-strategy"].startswith("Restart with exponential delay (100 to 30000 ms, factor 1.5")


def test_failures_are_shown_up_to_a_number(live: Live) -> None:
    def fail() -> None:
        live.world.workers[0].report(
            JOB, Attempt(1), SubtaskId(TOTALS, 0), SubtaskState.FAILED, "ValueError: no amount"
        )

    live.change(fail)
    path = "/jobs/orders/exceptions"
    history = live.until(path, lambda e: e["exceptionHistory"]["entries"])["exceptionHistory"]
    assert not history["truncated"]
    assert live.get(f"{path}?maxExceptions=0")["exceptionHistory"] == {"entries": [], "truncated": True}


def test_a_request_with_an_id_of_its_own_happens_once(live: Live) -> None:
    live.change(lambda: setattr(live.world.workers[0], "acknowledges", False))
    mine = "0123456789abcdef" * 2
    for _ in range(3):
        assert live.post("/jobs/orders/checkpoints", {"triggerId": mine}) == {"request-id": mine}
    stats = live.until("/jobs/orders/checkpoints", lambda s: s["counts"]["in_progress"] == 1)
    assert stats["counts"]["in_progress"] == 1
    assert live.get(f"/jobs/orders/checkpoints/{mine}")["status"]["id"] == "IN_PROGRESS"


def test_a_job_that_has_ended_takes_no_requests(live: Live) -> None:
    live.client.patch("/jobs/orders")
    live.until("/jobs/orders", lambda job: job["state"] == "CANCELED")
    for path in ("checkpoints", "savepoints", "stop"):
        assert "job orders has ended: it is CANCELED" in live.post(f"/jobs/orders/{path}", status=409)["errors"][0]


def test_the_parallelism_of_a_job(live: Live) -> None:
    bounds = {"parallelism": {"lowerBound": 1, "upperBound": 2}}
    assert live.get("/jobs/orders/resource-requirements") == {"orders": bounds, "totals": bounds, "results": bounds}


def test_a_job_without_checkpointing_has_no_statistics() -> None:
    graph = orders_graph(2, checkpoint=CheckpointConfig(enabled=False), with_sink=False)
    world = running_world(graph)
    with Live(world, world.coordinators[0]) as live:
        base = "/jobs/orders/checkpoints"
        for path, error in (
            (base, "Checkpointing has not been enabled."),
            (f"{base}/config", "Checkpointing is not enabled for this job (orders)."),
            (f"{base}/details/1", "Checkpointing was not enabled for job orders."),
            (f"{base}/details/1/subtasks/totals", "Checkpointing was not enabled for job orders."),
        ):
            assert live.get(path, 404) == {"errors": [error]}
        assert live.get("/jobs/orders")["isStoppable"] is False
        for path in (base, "/jobs/orders/savepoints", "/jobs/orders/stop"):
            trigger = live.post(path)["request-id"]
            polled = path.replace("/stop", "/savepoints")
            done = live.operation(f"{polled}/{trigger}")
            cause = done["failureCause" if path == base else "failure-cause"]
            assert cause["stack-trace"] == "checkpointing is not enabled for this job"
        live.get("/jobs/nobody/checkpoints", 404)
