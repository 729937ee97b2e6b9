"""What checkpoints may refer to; the model test is the promise that the cleaner rests on."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from moorage.ids import Attempt, CheckpointId, JobId, VertexId, WorkerId
from moorage.naming import exclusive_state_path, merged_state_path, shared_state_path
from moorage.state.shared_registry import SharedStateRegistry

JOB = JobId("orders")


def shared(checkpoint: int, name: str = "rows", job: str = "orders") -> str:
    return shared_state_path(JobId(job), CheckpointId(checkpoint), Attempt(1), VertexId("totals"), 0, name)


def own(checkpoint: int) -> str:
    return exclusive_state_path(JOB, CheckpointId(checkpoint), Attempt(1), VertexId("totals"), 0, "offsets")


def merged(checkpoint: int) -> str:
    return merged_state_path(JOB, CheckpointId(checkpoint), Attempt(1), WorkerId("w/1"), 1, 7, shared=True)


def foreign(registry: SharedStateRegistry, checkpoint: int, base: int, *paths: str) -> list[str]:
    return registry.foreign(paths, CheckpointId(checkpoint), CheckpointId(base))


def test_a_checkpoint_may_refer_to_what_was_written_for_it() -> None:
    registry = SharedStateRegistry(JOB)
    assert foreign(registry, 5, 0, shared(5), own(5), merged(5)) == []


def test_without_a_base_it_may_refer_to_nothing_else() -> None:
    registry = SharedStateRegistry(JOB)
    registry.completed(CheckpointId(4), [shared(4)])
    assert foreign(registry, 5, 0, shared(5), shared(4)) == [shared(4)]


def test_it_may_refer_to_what_its_base_refers_to() -> None:
    registry = SharedStateRegistry(JOB)
    registry.completed(CheckpointId(3), [shared(2), shared(3)])
    registry.completed(CheckpointId(4), [shared(3), merged(4)])
    assert foreign(registry, 5, 4, shared(5), shared(3), merged(4)) == []
    assert foreign(registry, 5, 4, shared(2)) == [shared(2)], "the base has left it behind"
    assert foreign(registry, 5, 4, shared(4)) == [shared(4)], "written for the base, but no part of it"


def test_files_of_another_job_or_of_nobody_are_foreign() -> None:
    registry = SharedStateRegistry(JOB)
    registry.completed(CheckpointId(4), [shared(4)])
    paths = [shared(5, job="other"), "somewhere/else", "s3://bucket/savepoint-1/rows"]
    assert foreign(registry, 5, 4, *paths) == sorted(paths)


def test_what_is_subsumed_is_forgotten() -> None:
    registry = SharedStateRegistry(JOB)
    registry.completed(CheckpointId(3), [shared(2), shared(3)])
    registry.completed(CheckpointId(4), [shared(3)])
    assert registry.subsumed(CheckpointId(4)) == {shared(2)}
    assert len(registry) == 1
    assert registry.subsumed(CheckpointId(4)) == frozenset()
    assert foreign(registry, 5, 4, shared(3)) == []
    registry.validate()


def test_files_of_an_acknowledgement_that_nobody_wants() -> None:
    registry = SharedStateRegistry(JOB)
    registry.completed(CheckpointId(4), [merged(4)])
    assert registry.unreferenced([merged(4), own(4), own(5)]) == [own(4), own(5)]


def test_a_new_leader_believes_names_until_a_checkpoint_completes() -> None:
    registry = SharedStateRegistry(JOB)
    assert foreign(registry, 9, 8, shared(3), shared(8)) == []
    assert foreign(registry, 9, 7, shared(8)) == [shared(8)], "written after the base"
    assert foreign(registry, 9, 8, shared(3, job="other")) == [shared(3, job="other")]
    registry.completed(CheckpointId(9), [shared(8), shared(9)])
    assert foreign(registry, 10, 9, shared(3)) == [shared(3)]


SAVEPOINTS = [
    ("s3://bucket/savepoint-1/_metadata", "s3://bucket/savepoint-1/rows"),
    ("orders/savepoints/savepoint-1/_metadata", "orders/savepoints/savepoint-1/rows"),
    ("other/chk-3/_metadata", shared(2, job="other")),
]


@pytest.mark.parametrize(("metadata_path", "path"), SAVEPOINTS)
def test_the_first_checkpoint_after_a_restore_without_claim_must_be_full(metadata_path: str, path: str) -> None:
    registry = SharedStateRegistry(JOB)
    assert foreign(registry, 1, 0, shared(1), path) == [path]


@pytest.mark.parametrize(("metadata_path", "path"), SAVEPOINTS)
def test_claimed_files_are_the_jobs_own(metadata_path: str, path: str) -> None:
    registry = SharedStateRegistry(JOB)
    registry.claim(metadata_path)
    assert foreign(registry, 1, 0, shared(1), path) == []
    assert foreign(registry, 1, 0, "s3://bucket/savepoint-12/rows") == ["s3://bucket/savepoint-12/rows"]
    registry.completed(CheckpointId(1), [shared(1)])
    assert foreign(registry, 2, 1, path) == [path], "the job has left it behind: it may be gone"


@pytest.mark.parametrize(("metadata_path", "path"), SAVEPOINTS)
def test_a_new_leader_knows_what_was_claimed(metadata_path: str, path: str) -> None:
    registry = SharedStateRegistry(JOB)
    registry.claim(metadata_path)
    assert foreign(registry, 9, 8, shared(8), path) == []


@pytest.mark.parametrize("location", ["s3://bucket/savepoint-1", "orders/savepoints/savepoint-1"])
def test_a_savepoint_refers_to_nothing_outside_of_its_folder(location: str) -> None:
    registry = SharedStateRegistry(JOB)
    registry.completed(CheckpointId(4), [shared(4)])
    paths = [f"{location}/rows", shared(4), shared(5), f"{location}-2/rows"]
    assert registry.foreign(paths, CheckpointId(5), CheckpointId(4), location) == sorted(paths[1:])


class Promise(RuleBasedStateMachine):
    """Checkpoints that build on one another, some of them with what they must not refer to. Whatever is completed holds
    the promise, and nothing that holds it is refused."""

    def __init__(self) -> None:
        super().__init__()
        self.registry = SharedStateRegistry(JOB)
        self.manifests: dict[int, set[str]] = {}
        self.last = 0
        self.every: set[str] = set()

    @rule(data=st.data(), retained=st.integers(1, 3))
    def complete(self, data: st.DataObject, retained: int) -> None:
        self.last += 1
        base = max(self.manifests, default=0)
        new = {shared(self.last), own(self.last)}
        kept = set(data.draw(st.sets(st.sampled_from(sorted(self.manifests[base]))))) if base else set()
        stray = set(data.draw(st.sets(st.sampled_from(sorted(self.every)), max_size=2))) if self.every else set()
        wrong = stray - new - self.manifests.get(base, set())
        refused = self.registry.foreign(new | kept | stray, CheckpointId(self.last), CheckpointId(base))
        assert refused == sorted(wrong)
        if refused:
            self.every |= new
            return
        self.manifests[self.last] = new | kept | stray
        self.every |= new
        self.registry.completed(CheckpointId(self.last), self.manifests[self.last])
        for old in sorted(self.manifests)[:-retained]:
            del self.manifests[old]
        before = set(self.registry._last_used)
        gone = self.registry.subsumed(CheckpointId(min(self.manifests)))
        needed = set().union(*self.manifests.values())
        assert gone == before - needed

    @precondition(lambda self: self.manifests)
    @rule()
    def abort(self) -> None:
        self.last += 1

    @invariant()
    def holds(self) -> None:
        self.registry.validate()
        assert set(self.registry._last_used) == set().union(*self.manifests.values())
        assert self.registry.unreferenced(self.every) == sorted(self.every - set(self.registry._last_used))


TestPromise = Promise.TestCase
TestPromise.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
