"""Every answer has the fields and the types that a real Flink 2.2 gives, and no others but those we name."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.unit.cluster.graphs import JOB, TOTALS, orders_graph
from tests.unit.cluster.world import running_world
from tests.unit.coordinator_service import flink_shapes
from tests.unit.coordinator_service.flink_shapes import FLINK, Maybe, differences
from tests.unit.coordinator_service.live import Live

from moorage.graph.job_graph import CheckpointConfig
from moorage.ids import Attempt, SubtaskId
from moorage.messages.events import SubtaskState

CHECKPOINTS = "/jobs/orders/checkpoints"


@pytest.fixture(scope="module")
def live() -> Iterator[Live]:
    """A job that has completed, failed and restored checkpoints."""
    world = running_world(orders_graph(2, checkpoint=CheckpointConfig(interval_ms=100)))
    with Live(world, world.coordinators[0]) as running:
        running.until(CHECKPOINTS, lambda s: s["counts"]["completed"] >= 1)
        worker = world.workers[0]
        running.change(lambda: setattr(worker, "acknowledges", False))
        running.until(CHECKPOINTS, lambda s: s["counts"]["in_progress"] == 1)

        def fail() -> None:
            worker.acknowledges = True
            worker.report(JOB, Attempt(1), SubtaskId(TOTALS, 0), SubtaskState.FAILED, "boom")

        running.change(fail)
        running.until(CHECKPOINTS, lambda s: s["counts"]["restored"] == 1)
        running.until(CHECKPOINTS, lambda s: s["latest"]["completed"]["id"] > s["latest"]["failed"]["id"])
        running.freeze()
        yield running


@pytest.mark.parametrize("path", [path for path in FLINK if path != CHECKPOINTS])
def test_of_a_path(live: Live, path: str) -> None:
    answer = live.get(path)
    if path == "/jobs/orders":
        assert "inputs" not in answer["plan"]["nodes"][0], "Flink leaves it away at a source"
        answer["plan"]["nodes"][0]["inputs"] = []
    assert list(differences(FLINK[path], answer)) == []


def test_of_statistics(live: Live) -> None:
    answer = live.get(CHECKPOINTS)
    flink = {**FLINK[CHECKPOINTS], "history": []}
    shapes = {
        "completed": flink_shapes.COMPLETED_CHECKPOINT,
        "failed": flink_shapes.FAILED_CHECKPOINT,
        "in_progress": flink_shapes.PENDING_CHECKPOINT,
    }
    history = answer.pop("history")
    answer["history"] = []
    assert list(differences(flink, answer)) == []
    assert answer["latest"]["failed"] is not None
    assert answer["latest"]["restored"] is not None
    assert history
    for entry in history:
        assert list(differences(shapes[entry["className"]], entry)) == []


def test_of_details(live: Live) -> None:
    latest = live.get(CHECKPOINTS)["latest"]
    completed = live.get(f"{CHECKPOINTS}/details/{latest['completed']['id']}")
    failed = live.get(f"{CHECKPOINTS}/details/{latest['failed']['id']}")
    assert completed["tasks"]
    assert list(differences(flink_shapes.COMPLETED_CHECKPOINT, completed)) == []
    assert list(differences(flink_shapes.FAILED_CHECKPOINT, failed)) == []


def test_of_a_vertex_in_a_checkpoint(live: Live) -> None:
    latest = live.get(CHECKPOINTS)["latest"]
    task = live.get(f"{CHECKPOINTS}/details/{latest['completed']['id']}/subtasks/totals")
    assert list(differences(flink_shapes.TASK_DETAILS, task)) == []
    failed = live.get(f"{CHECKPOINTS}/details/{latest['failed']['id']}/subtasks/totals")
    subtasks = {entry["className"]: entry for entry in failed["subtasks"]}
    assert list(differences(flink_shapes.PENDING_SUBTASK, subtasks["pending"])) == []


def test_differences_are_found() -> None:
    flink = {"a": int, "b": [{"c": Maybe(str)}]}
    assert list(differences(flink, {"a": 1, "b": [{"c": None}, {"c": "x"}]})) == []
    assert sorted(differences(flink, {"a": 1.0, "b": [{"c": 2}], "d": 0})) == [
        "/a: 1.0 is no int",
        "/b[0]/c: 2 is no str",
        "/d is not Flink's",
    ]
    assert sorted(differences(flink, {"b": {}})) == ["/a is missing", "/b: {} is no list"]
