"""Jobs and checkpoints to clean, for the tests of this folder: source -> totals -> results (an exactly-once sink)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import xxhash

from moorage.graph.job_graph import (
    CheckpointConfig,
    Exchange,
    ExchangeKind,
    JobGraph,
    JobVertex,
    OperatorKind,
    OperatorNode,
    RestartConfig,
)
from moorage.ids import Attempt, CheckpointId, JobId, OperatorUid, TopicPartition, VertexId, WorkerId
from moorage.messages.registry import CheckpointRecord, JobRecord, JobStatus
from moorage.naming import (
    CLEANUP_TOPIC,
    commits_topic,
    exchange_id,
    exchange_topic,
    exclusive_state_path,
    merged_state_path,
    metadata_path,
    shared_state_path,
)
from moorage.ports import CheckpointStorage, TopicSpec
from moorage.serde.metadata import encode_metadata
from moorage.serde.positions import encode_positions
from moorage.state.handles import (
    ByteStreamHandle,
    FileHandle,
    InputChannelHandle,
    KeyGroupsHandle,
    SegmentHandle,
    StreamHandle,
)
from moorage.state.key_groups import KeyGroupRange
from moorage.state.operator_ids import operator_id
from moorage.state.operator_state import CheckpointMetadata, OperatorState, OperatorSubtaskState
from moorage.state.positions import CommitMarker, ExchangePositions, InputPositions

JOB = JobId("orders")
SOURCE, TOTALS, RESULTS = VertexId("source"), VertexId("totals"), VertexId("results")
SINK = OperatorUid("results")
KEYED, OUTPUT = exchange_id(SOURCE, TOTALS), exchange_id(TOTALS, RESULTS)
PARTITIONS = 2
KEYED_LOG = tuple(TopicPartition(exchange_topic(JOB, KEYED), partition) for partition in range(PARTITIONS))
OUTPUT_LOG = tuple(TopicPartition(exchange_topic(JOB, OUTPUT), partition) for partition in range(PARTITIONS))
COMMITS_LOG = tuple(TopicPartition(commits_topic(JOB), partition) for partition in range(PARTITIONS))
TOPICS = (
    TopicSpec(CLEANUP_TOPIC, 1, {}),
    TopicSpec(KEYED_LOG[0].topic, PARTITIONS, {}),
    TopicSpec(OUTPUT_LOG[0].topic, PARTITIONS, {}),
    TopicSpec(COMMITS_LOG[0].topic, PARTITIONS, {}),
)


def _operator(uid: str, kind: OperatorKind) -> OperatorNode:
    operator = OperatorUid(uid)
    return OperatorNode(uid=operator, operator_id=operator_id(operator), name=uid, kind=kind, upstream=None)


GRAPH = JobGraph(
    job=JOB,
    pipeline_ref="examples.orders:pipeline",
    max_parallelism=PARTITIONS,
    vertices=(
        JobVertex(
            vertex=SOURCE,
            name=SOURCE,
            operators=(_operator("source", OperatorKind.SOURCE),),
            parallelism=1,
            outputs=(KEYED,),
        ),
        JobVertex(
            vertex=TOTALS,
            name=TOTALS,
            operators=(_operator("totals", OperatorKind.PROCESS),),
            parallelism=1,
            inputs=(KEYED,),
            outputs=(OUTPUT,),
        ),
        JobVertex(
            vertex=RESULTS,
            name=RESULTS,
            operators=(_operator("results", OperatorKind.SINK_COMMITTER),),
            parallelism=1,
            inputs=(OUTPUT,),
        ),
    ),
    exchanges=(
        Exchange(
            exchange=KEYED,
            kind=ExchangeKind.KEYED,
            producer=SOURCE,
            producer_operator=OperatorUid("source"),
            consumer=TOTALS,
            partitions=PARTITIONS,
        ),
        Exchange(
            exchange=OUTPUT,
            kind=ExchangeKind.FORWARD,
            producer=TOTALS,
            producer_operator=OperatorUid("totals"),
            consumer=RESULTS,
            partitions=PARTITIONS,
        ),
    ),
    checkpoint=CheckpointConfig(),
    restart=RestartConfig(),
    fingerprint="f",
)


def job_record(
    *, attempt: int = 1, status: JobStatus = JobStatus.RUNNING, base: int = 0, submitted_ms: int = 1
) -> JobRecord:
    return JobRecord(
        job=JOB,
        graph=GRAPH,
        status=status,
        attempt=Attempt(attempt),
        submitted_ms=submitted_ms,
        base_checkpoint_id=CheckpointId(base),
    )


def exclusive(checkpoint: int, name: str = "state", attempt: int = 1) -> str:
    return exclusive_state_path(JOB, CheckpointId(checkpoint), Attempt(attempt), TOTALS, 0, name)


def shared(checkpoint: int, name: str = "chain", attempt: int = 1) -> str:
    return shared_state_path(JOB, CheckpointId(checkpoint), Attempt(attempt), TOTALS, 0, name)


def merged(checkpoint: int, *, shared: bool, attempt: int = 1) -> str:
    """A file with state of all subtasks of a worker."""
    return merged_state_path(JOB, CheckpointId(checkpoint), Attempt(attempt), WorkerId("w-1/ab"), 3, 7, shared=shared)


def metadata(checkpoint: int) -> str:
    return metadata_path(JOB, CheckpointId(checkpoint))


def checkpoint_metadata(
    checkpoint: int, sizes: Mapping[str, int], positions: Sequence[int] | None = None
) -> CheckpointMetadata:
    """Refers to these files and has these positions, one per partition of the keyed exchange."""
    vector = () if positions is None else (_input_channel(positions),)
    state = OperatorSubtaskState(
        managed_keyed=tuple(
            KeyGroupsHandle(KeyGroupRange(0, 0), (0,), stream)
            for path, size in sorted(sizes.items())
            for stream in _streams(path, size)
        ),
        input_channel=vector,
    )
    operator = OperatorState(
        operator=operator_id(OperatorUid("totals")),
        uid=OperatorUid("totals"),
        name="totals",
        parallelism=1,
        max_parallelism=PARTITIONS,
        subtasks={0: state},
    )
    return CheckpointMetadata(checkpoint=CheckpointId(checkpoint), operators=(operator,))


def _streams(path: str, size: int) -> Iterable[StreamHandle]:
    """Of a merged file two segments, of any other file the whole."""
    if "merged" not in path:
        return (FileHandle(path, size),)
    return (SegmentHandle(path, 0, size, "/shared/" in path), SegmentHandle(path, size, size, "/shared/" in path))


def _input_channel(positions: Sequence[int]) -> InputChannelHandle:
    exchange = ExchangePositions(
        KEYED,
        tuple(range(PARTITIONS)),
        (Attempt(1),) * PARTITIONS,
        (0,) * PARTITIONS,
        tuple(positions),
        (CheckpointId(0),) * PARTITIONS,
    )
    data = encode_positions(InputPositions((exchange,)))
    return InputChannelHandle(
        subtask=0, gate=0, channel=0, offsets=(0,), size_bytes=len(data), stream=ByteStreamHandle("positions", data)
    )


def write_metadata(
    storage: CheckpointStorage,
    checkpoint: int,
    files: Iterable[str],
    positions: Sequence[int] | None = None,
    *,
    attempt: int = 1,
    base: int = 0,
    kind: str = "checkpoint",
) -> CheckpointRecord:
    """Write the ``_metadata`` of a checkpoint that refers to ``files``; the record to register."""
    data = encode_metadata(checkpoint_metadata(checkpoint, dict.fromkeys(files, 1), positions))
    storage.write(metadata(checkpoint), data)
    return CheckpointRecord(
        checkpoint=CheckpointId(checkpoint),
        attempt=Attempt(attempt),
        kind="savepoint" if kind == "savepoint" else "checkpoint",
        metadata_path=metadata(checkpoint),
        metadata_bytes=len(data),
        metadata_checksum=xxhash.xxh3_64_intdigest(data),
        base=CheckpointId(base),
        triggered_ms=0,
        completed_ms=0,
        state_bytes=0,
    )


def commit_marker(checkpoint: int, partition: int, offset: int, *, attempt: int = 1) -> CommitMarker:
    return CommitMarker(
        sink=SINK,
        key_group=partition,
        checkpoint=CheckpointId(checkpoint),
        attempt=Attempt(attempt),
        producers=(0,),
        offsets=(offset,),
    )
