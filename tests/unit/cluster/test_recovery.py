"""Where the time of a recovery goes is told phase by phase."""

from __future__ import annotations

from tests.unit.cluster.graphs import JOB, TOTALS, orders_graph
from tests.unit.cluster.world import CONFIG, EVENTS, STEP_MS, TestCoordinator, World, running_world, runs

from moorage.cluster.protocol import RecoveryPhaseEnded
from moorage.cluster.recovery import Phase
from moorage.graph.job_graph import CheckpointConfig, RestartConfig
from moorage.ids import Attempt, SubtaskId
from moorage.messages.events import SubtaskState, WorkerLost
from moorage.serde import control

GRAPH = orders_graph(
    checkpoint=CheckpointConfig(interval_ms=200),
    restart=RestartConfig(strategy="fixed_delay", initial_delay_ms=300, max_attempts=1_000),
)


def _phases(leader: TestCoordinator) -> dict[str, int]:
    return {notice.phase: notice.duration_ms for notice in leader.noticed(RecoveryPhaseEnded)}


def _recover(world: World) -> dict[str, int]:
    leader = world.coordinators[0]
    world.run_until(lambda: leader.job(JOB).attempt == 2 and runs(leader, GRAPH))
    world.run_until(lambda: Phase.FIRST_COMMIT.value in _phases(leader))
    return _phases(leader)


def _running() -> World:
    world = running_world(GRAPH)
    world.run_until(lambda: world.coordinators[0].completed(JOB) >= 2)
    return world


def test_every_phase_of_a_recovery_is_told() -> None:
    world = _running()
    world.workers[1].is_alive = False
    phases = _recover(world)
    assert list(phases) == [phase.value for phase in Phase]
    assert phases["detection"] >= CONFIG.worker_timeout_ms
    assert 300 <= phases["decision"] <= 300 + 4 * STEP_MS
    assert phases["deploy"] <= 4 * STEP_MS
    assert phases["restore"] <= 4 * STEP_MS
    assert 0 < phases["first_commit"] <= 1_000


def test_a_supervisor_shortens_the_detection() -> None:
    world = _running()
    world.workers[1].is_alive = False
    ended_ms = world.clock.wall_ms()
    world.run(2 * STEP_MS)
    lost = WorkerLost(worker=world.workers[1].worker, reason="was killed by SIGKILL", ended_ms=ended_ms)
    world.cluster.append(EVENTS, control.encode(lost))
    phases = _recover(world)
    assert phases["detection"] <= 4 * STEP_MS
    assert "was killed by SIGKILL" in (world.coordinators[0].job(JOB).failure or "")


def test_a_reported_failure_needs_no_detection() -> None:
    world = _running()
    world.workers[0].report(JOB, Attempt(1), SubtaskId(TOTALS, 0), SubtaskState.FAILED, "boom")
    assert _recover(world)["detection"] == 0


def test_a_first_start_is_no_recovery() -> None:
    world = _running()
    assert not _phases(world.coordinators[0])
