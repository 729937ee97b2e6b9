"""The cleaner takes apart what ``naming`` put together, and nothing else."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from moorage.ids import Attempt, CheckpointId, JobId, VertexId
from moorage.naming import (
    CONTROL_TOPICS,
    commits_topic,
    exchange_id,
    exchange_topic,
    exclusive_state_path,
    is_job_topic,
    metadata_path,
    parse_storage_path,
    shared_state_path,
)

numbers = st.integers(0, 2**40)


names = st.text("abz019", min_size=1, max_size=8) | st.sampled_from(["a-0-a7-b", "chk-1", "shared", "a_b-c"])


@given(names, numbers, numbers, names, st.integers(0, 300), st.sampled_from(["state", "keyed", "op-merged", "a1"]))
def test_state_files_tell_job_checkpoint_and_attempt(
    job: str, checkpoint: int, attempt: int, vertex: str, subtask: int, name: str
) -> None:
    parts = (JobId(job), CheckpointId(checkpoint), Attempt(attempt), VertexId(vertex), subtask, name)
    for path, is_shared in ((exclusive_state_path(*parts), False), (shared_state_path(*parts), True)):
        parsed = parse_storage_path(path)
        assert parsed is not None
        assert (parsed.job, parsed.checkpoint, parsed.attempt) == (job, checkpoint, attempt)
        assert parsed.shared == is_shared
        assert not parsed.is_metadata


@given(names, numbers)
def test_metadata_is_told_from_state(job: str, checkpoint: int) -> None:
    parsed = parse_storage_path(metadata_path(JobId(job), CheckpointId(checkpoint)))
    assert parsed is not None
    assert (parsed.job, parsed.checkpoint, parsed.attempt, parsed.is_metadata) == (job, checkpoint, None, True)


@given(names, names, names, names)
def test_a_jobs_topics_are_told_from_everything_else(job: str, other: str, producer: str, consumer: str) -> None:
    exchange = exchange_id(VertexId(producer), VertexId(consumer))
    assert is_job_topic(JobId(job), commits_topic(JobId(job)))
    assert is_job_topic(JobId(job), exchange_topic(JobId(job), exchange))
    if other != job:
        assert not is_job_topic(JobId(job), commits_topic(JobId(other)))
        assert not is_job_topic(JobId(job), exchange_topic(JobId(other), exchange))


@given(names | st.just("control"))
def test_control_topics_belong_to_no_job(job: str) -> None:
    assert not any(is_job_topic(JobId(job), topic) for topic in CONTROL_TOPICS)
