"""Master hooks and operator coordinators through the whole coordinator: stored with checkpoints, restored before the
job starts, kept over leaders."""

from __future__ import annotations

import msgspec
import pytest
from tests.unit.checkpoint.test_master_hooks import Hook
from tests.unit.checkpoint.test_operator_coordinators import Notebook
from tests.unit.cluster.graphs import JOB, OTHER_SOURCE, TOTALS, graph_of_two_parts, orders_graph
from tests.unit.cluster.world import CONFIG, TestCoordinator, World, runs

import moorage as mo
from moorage.api.connectors import KAFKA_SOURCE_KIND
from moorage.checkpoint.notices import CheckpointAborted
from moorage.checkpoint.operator_coordinators import Kinds, OperatorContext
from moorage.checkpoint.reasons import CheckpointFailureReason
from moorage.cluster.coordinator import CoordinatorCore
from moorage.cluster.protocol import Refusal, Refused, SubmitJob
from moorage.connectors.kafka_source_coordinator import OPERATOR_COORDINATORS, KafkaSourceCoordinator, decode_partitions
from moorage.coordinator_process.hooks import HookRunner
from moorage.coordinator_process.process import CoordinatorProcess
from moorage.graph.job_graph import CheckpointConfig, JobGraph, OperatorCoordinatorSpec, RestartConfig
from moorage.ids import Attempt, CheckpointId, OperatorUid, SubtaskId, VertexId, WorkerId
from moorage.messages.commands import CancelJob, DeployJob, OperatorCommand
from moorage.messages.events import OperatorEvent, SubtaskState
from moorage.messages.registry import JobStatus
from moorage.ports import TopicSpec
from moorage.serde.metadata import decode_metadata


def graph() -> JobGraph:
    plain = orders_graph(
        checkpoint=CheckpointConfig(interval_ms=200),
        restart=RestartConfig(strategy="fixed_delay", initial_delay_ms=100, max_attempts=1_000),
    )
    source = plain.vertices[0]
    spec = mo.KafkaSource("input", discovery_interval_ms=1_000).coordinator()
    node = msgspec.structs.replace(source.operators[0], coordinator=spec)
    vertices = (msgspec.structs.replace(source, operators=(node,)), *plain.vertices[1:])
    return msgspec.structs.replace(plain, vertices=vertices)


GRAPH = graph()


class Stage(World):
    """A world whose coordinators have a hook and the coordinators of Kafka sources."""

    def __init__(self, kinds: Kinds = OPERATOR_COORDINATORS) -> None:
        super().__init__()
        self._kinds = kinds
        self.hook = Hook("table")
        self.worker_log.create_topics([TopicSpec("input", 3, {})])
        self.lead()
        for number in (1, 2):
            self.add_worker(f"w{number}")

    def lead(self) -> TestCoordinator:
        coordinator = self.add_coordinator()
        config = msgspec.structs.replace(CONFIG, master_hook_timeout_ms=1_000)
        name = f"coordinator-{len(self.coordinators)}"
        coordinator.core = CoordinatorCore(name, config, lambda: 0.0, self._kinds)
        coordinator.process = CoordinatorProcess(
            coordinator.core,
            registry=self.registry,
            storage=self.storage,
            log=coordinator.log,
            executor=coordinator.executor,
            clock=self.clock,
            hooks=HookRunner([lambda _: self.hook]),
            on_notice=coordinator.notices.append,
            on_reply=lambda number, result: coordinator.on_reply(number, result),
        )
        self.run_until(lambda: coordinator.leads)
        return coordinator

    def told(self) -> list[dict[str, int]]:
        return [decode_partitions(command.payload) for command in self.commands(OperatorCommand)]


@pytest.fixture
def stage() -> Stage:
    stage = Stage()
    stage.run(200)
    stage.coordinators[0].submit(GRAPH)
    stage.run_until(lambda: runs(stage.coordinators[0], GRAPH))
    return stage


def fail_once(stage: Stage) -> None:
    leader = stage.coordinators[-1]
    attempt = leader.job(JOB).attempt
    stage.workers[0].report(JOB, Attempt(attempt), SubtaskId(TOTALS, 0), SubtaskState.FAILED, "boom")
    stage.run_until(lambda: leader.job(JOB).attempt == attempt + 1)


def test_a_job_that_goes_back_takes_its_hooks_along(stage: Stage) -> None:
    leader = stage.coordinators[0]
    assert stage.hook.calls[0] == "reset"
    stage.run_until(lambda: leader.completed(JOB) >= 2)
    latest = stage.registry.checkpoints(JOB)[-1]
    (state,) = decode_metadata(stage.storage.read(latest.metadata_path)).hook_states
    assert (state.name, state.version, state.data) == ("table", 2, b"4")
    stage.hook.calls.clear()
    fail_once(stage)
    (record,) = stage.registry.jobs()
    assert (record.restored_checkpoint, 8) in stage.hook.calls


def test_a_job_waits_for_a_hook_that_can_not_be_restored_yet(stage: Stage) -> None:
    leader = stage.coordinators[0]
    stage.run_until(lambda: leader.completed(JOB) >= 1)
    stage.hook.answer = OSError("database is locked")
    stage.workers[0].report(JOB, Attempt(1), SubtaskId(TOTALS, 0), SubtaskState.FAILED, "boom")
    stage.run(2_000)
    view = leader.job(JOB)
    assert view.status is JobStatus.RESTARTING
    assert "master hooks" in (view.waiting_for or "")
    stage.hook.answer = 4
    stage.run_until(lambda: runs(leader, GRAPH))


def test_a_hook_that_fails_costs_checkpoints_and_not_the_job(stage: Stage) -> None:
    leader = stage.coordinators[0]
    stage.hook.answer = OSError("database is locked")
    stage.run(5_000)
    aborted = {notice.reason for notice in leader.noticed(CheckpointAborted)}
    assert aborted == {CheckpointFailureReason.HOOK_FAILED}
    assert leader.job(JOB).attempt == 1


def test_partitions_are_told_kept_over_leaders_and_told_again(stage: Stage) -> None:
    stage.run_until(lambda: bool(stage.told()))
    assert stage.told() == [{"input": 3}]
    stage.run_until(lambda: stage.coordinators[0].completed(JOB) >= 1)
    stage.coordinators[0].is_paused = True
    before = len(stage.told())
    stage.hook.calls.clear()
    second = stage.lead()
    stage.run_until(lambda: len(stage.told()) > before)
    assert stage.told()[-1] == {"input": 3}
    assert second.job(JOB).attempt == 1
    assert "reset" not in stage.hook.calls  # the job goes on
    latest = stage.registry.checkpoints(JOB)[-1]
    source = decode_metadata(stage.storage.read(latest.metadata_path)).operators[0]
    assert source.coordinator is not None
    assert decode_partitions(source.coordinator.data) == {"input": 3}


def test_a_job_whose_kind_of_coordinator_is_not_there_is_refused() -> None:
    world = World()
    leader = world.add_coordinator()
    world.run_until(lambda: leader.leads)
    request = leader.ask(lambda number: SubmitJob(number, GRAPH))
    refused = leader.replies[request]
    assert isinstance(refused, Refused)
    assert refused.refusal is Refusal.INVALID
    assert "kafka_source" in refused.message


class _FailsAtFirst(KafkaSourceCoordinator):
    """Can't begin the first attempt."""

    def __init__(self, context: OperatorContext) -> None:
        super().__init__(context)
        self._resets = 0

    def reset(self, checkpoint: CheckpointId | None, state: bytes | None) -> None:
        self._resets += 1
        if self._resets == 1:
            raise RuntimeError("not yet")
        super().reset(checkpoint, state)


def test_an_attempt_that_fails_while_it_starts_is_not_deployed() -> None:
    stage = Stage({KAFKA_SOURCE_KIND: _FailsAtFirst})
    stage.run(200)
    leader = stage.coordinators[0]
    leader.submit(GRAPH)
    stage.run_until(lambda: runs(leader, GRAPH))
    assert [command.attempt for command in stage.commands(CancelJob)] == [1]
    assert {command.attempt for command in stage.commands(DeployJob)} == {2}


def test_a_job_whose_coordinator_can_not_read_its_configuration_is_refused() -> None:
    stage = Stage()
    source = GRAPH.vertices[0]
    spec = OperatorCoordinatorSpec(kind=KAFKA_SOURCE_KIND, config=b"\xc1")
    node = msgspec.structs.replace(source.operators[0], coordinator=spec)
    vertices = (msgspec.structs.replace(source, operators=(node,)), *GRAPH.vertices[1:])
    leader = stage.coordinators[0]
    request = leader.submit(msgspec.structs.replace(GRAPH, vertices=vertices))
    refused = leader.replies[request]
    assert isinstance(refused, Refused)
    assert refused.refusal is Refusal.INVALID
    assert "the coordinator of operator orders can't be made" in refused.message


def test_a_graph_that_no_message_can_carry_is_refused_before_it_is_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moorage.cluster.coordinator.check_graph", lambda _: None)  # it refuses what we know of
    stage = Stage()
    leader = stage.coordinators[0]
    config = CheckpointConfig(timeout_ms=2**63)
    request = leader.submit(msgspec.structs.replace(GRAPH, checkpoint=config))
    refused = leader.replies[request]
    assert isinstance(refused, Refused)
    assert refused.refusal is Refusal.INVALID
    assert "can't be sent to workers" in refused.message
    stage.run(1_000)
    assert stage.registry.jobs() == []


def test_hooks_are_closed_when_their_job_ends_and_when_another_leads(stage: Stage) -> None:
    leader = stage.coordinators[0]
    leader.process.stop()
    stage.run_until(lambda: leader.process.is_stopped)
    assert stage.hook.calls.count("close") == 1
    second = stage.lead()
    stage.run_until(lambda: second.completed(JOB) >= 1)
    second.cancel(JOB)
    stage.run_until(lambda: stage.hook.calls.count("close") == 2)
    assert second.job(JOB).status is JobStatus.CANCELED


def test_a_part_that_restarts_takes_its_operator_coordinators_along_and_nothing_else() -> None:
    made: list[Notebook] = []

    def make(context: OperatorContext) -> Notebook:
        made.append(Notebook(context))
        return made[-1]

    plain = graph_of_two_parts(
        checkpoint=CheckpointConfig(interval_ms=200), restart=RestartConfig(initial_delay_ms=100)
    )
    spec = OperatorCoordinatorSpec(kind="notebook", config=b"")
    vertices = tuple(
        msgspec.structs.replace(v, operators=(msgspec.structs.replace(v.operators[0], coordinator=spec),))
        if v.is_source
        else v
        for v in plain.vertices
    )
    graph = msgspec.structs.replace(plain, vertices=vertices)
    stage = Stage({"notebook": make})
    stage.run(200)
    leader = stage.coordinators[0]
    leader.submit(graph)
    stage.run_until(lambda: leader.completed(JOB) >= 1)
    first, other = made[-2:]
    assert [notebook.context.operator for notebook in (first, other)] == ["orders", "other-orders"]
    latest = stage.registry.checkpoints(JOB)[-1].checkpoint
    for notebook in (first, other):
        notebook.heard.clear()
    stage.hook.calls.clear()
    worker = next(w for w in stage.workers if SubtaskId(TOTALS, 0) in w.subtasks(JOB))
    for w in stage.workers:
        w.acknowledges = False
    worker.report(JOB, Attempt(1), SubtaskId(TOTALS, 0), SubtaskState.FAILED, "boom")
    stage.run_until(lambda: leader.job(JOB).status is JobStatus.RESTARTING)
    owner = next(w for w in stage.workers if SubtaskId(OTHER_SOURCE, 0) in w.subtasks(JOB))
    owner.say(event(owner.worker, OTHER_SOURCE, b"while it restarts"))
    stage.run_until(lambda: leader.job(JOB).attempt == 2 and runs(leader, graph))
    owner.say(event(owner.worker, OTHER_SOURCE, b"afterwards"))
    stage.run(100)
    assert "close" in first.heard
    assert [heard for heard in first.heard if isinstance(heard, tuple) and heard[0] == "reset"] == [
        ("reset", latest, b"fresh")
    ]
    assert [heard for heard in other.heard if isinstance(heard, tuple) and heard[0] != "aborted"] == [
        ("event", 0, b"while it restarts"),
        ("event", 0, b"afterwards"),
    ]
    assert "close" not in other.heard
    restored = [call for call in stage.hook.calls if isinstance(call, tuple) and len(call) == 2 and call[0] == latest]
    assert not restored, "hooks go back with the whole job only"
    stage.run(100)
    other.context.send(None, b"a word")
    first.context.send(None, b"a word")
    stage.run(100)
    words = [c for c in stage.commands(OperatorCommand) if c.payload == b"a word"]
    assert [(c.vertex, c.attempt) for c in words] == [("other-orders", 1), ("orders", 2)]


def event(worker: WorkerId, vertex: VertexId, payload: bytes) -> OperatorEvent:
    return OperatorEvent(
        worker=worker,
        job=JOB,
        attempt=Attempt(1),
        vertex=vertex,
        subtask=0,
        operator=OperatorUid(vertex),
        payload=payload,
    )
