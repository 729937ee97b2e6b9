"""Savepoints, stopping and rescaling by REST, over a coordinator on the twins."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest
from tests.unit.cluster.graphs import orders_graph
from tests.unit.cluster.world import running_world
from tests.unit.coordinator_service import flink_shapes
from tests.unit.coordinator_service.flink_shapes import differences
from tests.unit.coordinator_service.live import STORAGE_URL, Live

from moorage.graph.job_graph import CheckpointConfig

STATUS = "/jobs/orders/savepoints"
GRAPH = orders_graph(2, checkpoint=CheckpointConfig(interval_ms=100))


@pytest.fixture
def live() -> Iterator[Live]:
    world = running_world(GRAPH)
    with Live(world, world.coordinators[0]) as running:
        yield running


def test_a_savepoint_into_the_jobs_own_folder(live: Live) -> None:
    asked = live.post("/jobs/orders/savepoints")["request-id"]
    done = live.operation(f"{STATUS}/{asked}")
    assert done["failure-cause"] is None
    assert done["location"].startswith(f"{STORAGE_URL}/orders/savepoints/savepoint-")
    stats = live.get("/jobs/orders/checkpoints")
    latest = stats["latest"]["savepoint"]
    assert list(differences(flink_shapes.COMPLETED_CHECKPOINT, latest)) == []
    assert (latest["is_savepoint"], latest["checkpoint_type"]) == (True, "SAVEPOINT")
    assert (latest["savepointFormat"], latest["external_path"]) == ("CANONICAL", done["location"])


def test_a_native_savepoint_into_a_named_folder(live: Live) -> None:
    body = {"target-directory": "kept", "formatType": "NATIVE", "cancel-job": False}
    done = live.operation(f"{STATUS}/{live.post('/jobs/orders/savepoints', body)['request-id']}")
    assert done["location"].startswith(f"{STORAGE_URL}/kept/savepoint-")
    assert live.get("/jobs/orders/checkpoints")["latest"]["savepoint"]["savepointFormat"] == "NATIVE"
    assert live.get("/jobs/orders")["state"] == "RUNNING"


def test_a_savepoint_that_fails_says_why(live: Live) -> None:
    live.change(lambda: setattr(live.world.workers[0], "acknowledges", False))
    asked = live.post("/jobs/orders/savepoints")["request-id"]
    live.until("/jobs/orders/checkpoints", lambda s: any(entry["is_savepoint"] for entry in s["history"]))
    live.client.patch("/jobs/orders")
    done = live.operation(f"{STATUS}/{asked}")
    assert done["location"] is None
    assert done["failure-cause"]["stack-trace"] == "the job is stopped"
    assert done["failure-cause"]["class"].endswith("CheckpointException")


def test_an_id_is_known_where_it_was_given(live: Live) -> None:
    asked = live.post("/jobs/orders/savepoints")["request-id"]
    assert "there is no request" in live.get(f"/jobs/orders/checkpoints/{asked}", 404)["errors"][0]
    assert "there is no request" in live.get(f"/savepoint-disposal/{asked}", 404)["errors"][0]


def test_a_full_checkpoint_is_no_savepoint(live: Live) -> None:
    asked = live.post("/jobs/orders/checkpoints", {"checkpointType": "FULL"})["request-id"]
    done = live.operation(f"/jobs/orders/checkpoints/{asked}")
    live.freeze()
    assert done["failureCause"] is None
    assert live.get("/jobs/orders/checkpoints")["latest"]["savepoint"] is None


def test_disposal_deletes_a_savepoint_and_refuses_what_is_none(live: Live) -> None:
    taken = live.operation(f"{STATUS}/{live.post('/jobs/orders/savepoints')['request-id']}")
    path = taken["location"].removeprefix(f"{STORAGE_URL}/")
    asked = live.post("/savepoint-disposal", {"savepoint-path": path})["request-id"]
    assert live.operation(f"/savepoint-disposal/{asked}") == {"failure-cause": None}
    live.freeze()
    checkpoint = live.get("/jobs/orders/checkpoints")["latest"]["completed"]["external_path"]
    path = checkpoint.removeprefix(f"{STORAGE_URL}/")
    asked = live.post("/savepoint-disposal", {"savepoint-path": path})["request-id"]
    refused = live.operation(f"/savepoint-disposal/{asked}")
    assert "not a savepoint" in refused["failure-cause"]["stack-trace"]


def test_another_parallelism(live: Live) -> None:
    live.until("/jobs/orders/checkpoints", lambda s: s["counts"]["completed"] >= 1)
    wanted = {name: {"parallelism": {"upperBound": 1}} for name in ("orders", "totals", "results")}
    answer = live.client.put("/jobs/orders/resource-requirements", json=wanted)
    assert (answer.status_code, answer.json()) == (200, {})
    job = live.until("/jobs/orders", lambda job: job["status-counts"]["RUNNING"] == 3)
    assert [vertex["parallelism"] for vertex in job["vertices"]] == [1, 1, 1]


def test_a_parallelism_that_can_not_be_is_refused(live: Live) -> None:
    answer = live.client.put("/jobs/orders/resource-requirements", json={"nobody": {"parallelism": {"upperBound": 1}}})
    assert answer.status_code == 400
    assert "nobody" in answer.json()["errors"][0]


@pytest.mark.parametrize(
    ("path", "body", "state"),
    [
        ("stop", {"drain": False, "formatType": "NATIVE"}, "FINISHED"),
        ("stop", {"drain": True}, "FINISHED"),
        ("savepoints", {"cancel-job": True}, "CANCELED"),
    ],
)
def test_stopping_with_a_savepoint(live: Live, path: str, body: object, state: str) -> None:
    asked = live.post(f"/jobs/orders/{path}", body)["request-id"]
    done = live.operation(f"{STATUS}/{asked}")
    assert done["failure-cause"] is None
    assert done["location"].startswith(f"{STORAGE_URL}/orders/savepoints/savepoint-")
    assert live.get("/jobs/orders")["state"] == state
    latest = live.get("/jobs/orders/checkpoints")["latest"]["savepoint"]
    assert (latest["checkpoint_type"], latest["external_path"]) == ("SYNC_SAVEPOINT", done["location"])


def test_a_job_starts_from_a_savepoint(live: Live) -> None:
    location = live.operation(f"{STATUS}/{live.post('/jobs/orders/stop')['request-id']}")["location"]
    path = location.removeprefix(f"{STORAGE_URL}/")
    submission = {"graph": GRAPH, "restore": {"path": path, "allow_non_restored": True, "mode": "claim"}}
    answer = live.client.post("/jobs", content=msgspec.json.encode(submission))
    assert (answer.status_code, answer.json()) == (201, {"jobid": "orders"})
    stats = live.until("/jobs/orders/checkpoints", lambda s: s["counts"]["restored"] == 1)
    assert stats["latest"]["restored"]["external_path"] == location
    assert stats["latest"]["restored"]["is_savepoint"]
