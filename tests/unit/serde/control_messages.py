"""Every control message: an example of each, and a strategy for each, built from its struct.

``python -m tests.unit.serde.control_messages`` prints the examples' bytes, as ``golden_messages.txt`` has them.
"""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import strategies as st
from msgspec import inspect

from moorage.graph.job_graph import (
    CheckpointConfig,
    Exchange,
    ExchangeKind,
    JobGraph,
    JobVertex,
    OperatorKind,
    OperatorNode,
    RestartConfig,
    StateConfig,
)
from moorage.messages.barriers import Alignment, Barrier, SnapshotKind, SnapshotOptions
from moorage.messages.cleanup import DiscardCheckpoint, DiscardState, PurgeJob, TrimExchange
from moorage.messages.commands import (
    CancelJob,
    CoordinatorHeartbeat,
    DeployJob,
    JobFates,
    NotifyCheckpointAborted,
    NotifyCheckpointComplete,
    OperatorCommand,
    ReportStatus,
    TriggerCheckpoint,
)
from moorage.messages.events import (
    AcknowledgeCheckpoint,
    CheckpointMetrics,
    DeclineCheckpoint,
    DeclineReason,
    ExchangeProgress,
    OperatorEvent,
    OperatorSnapshot,
    RunningSubtask,
    SinkCommitted,
    SubtaskState,
    SubtaskStateChanged,
    WorkerHeartbeat,
    WorkerLost,
)
from moorage.messages.registry import LineageSegment
from moorage.serde.control import FAMILIES, Family, encode
from moorage.state.handles import (
    ByteStreamHandle,
    ChangelogBytesHandle,
    ChangelogFilesHandle,
    ChangelogHandle,
    ChannelContent,
    DistributionMode,
    FileHandle,
    FileMergingOperatorHandle,
    HandleAndLocalPath,
    IncrementalKeyedHandle,
    InputChannelHandle,
    KeyGroupsHandle,
    MergedInputChannelHandle,
    MergedResultSubpartitionHandle,
    OperatorStreamHandle,
    ResultSubpartitionHandle,
    SegmentHandle,
    StateChange,
    StateMetaInfo,
    StreamAndOffset,
)
from moorage.state.key_groups import KeyGroupRange
from moorage.state.operator_state import OperatorSubtaskState

MESSAGES = {message: family for family in FAMILIES for message in family.messages}
GOLDEN_FILE = Path(__file__).with_name("golden_messages.txt")

_FILE = FileHandle("orders/chk-7/totals-1-a2-state", 1_234_567)
_INLINE = ByteStreamHandle("positions", bytes(range(8)))
_SEGMENT = SegmentHandle("orders/shared/7-totals-1-a2-merged", 4096, 512, shared=True, logical_file="f1")
_RANGE = KeyGroupRange(16, 18)
_KEYED = KeyGroupsHandle(_RANGE, (0, -1, 300), _FILE, handle_id="id-1")
_INCREMENTAL = IncrementalKeyedHandle(
    backend_id="d2f1",
    checkpoint=7,
    key_groups=_RANGE,
    shared=(HandleAndLocalPath("000001.sst", _SEGMENT),),
    private=(HandleAndLocalPath("MANIFEST", _INLINE),),
    metadata=_INLINE,
    written_bytes=-1,
)
_STATES = {"counters": StateMetaInfo((0, 8), DistributionMode.UNION)}
_STATE = OperatorSubtaskState(
    managed_operator=(OperatorStreamHandle(_STATES, _FILE),),
    raw_operator=(FileMergingOperatorHandle(_STATES, _SEGMENT, "task", "shared"),),
    managed_keyed=(_KEYED, _INCREMENTAL),
    raw_keyed=(
        ChangelogHandle(
            key_groups=_RANGE,
            materialized=(_KEYED,),
            changes=(
                ChangelogBytesHandle(_RANGE, 3, 4, (StateChange(16, b"\x00\xff"),), "id-2"),
                ChangelogFilesHandle(_RANGE, (StreamAndOffset(_FILE, 10),), 20, 20, "id-3", None),
            ),
            written_bytes=22,
            materialization=1,
            checkpoint=7,
            handle_id="id-4",
        ),
    ),
    input_channel=(
        InputChannelHandle(1, 0, 5, (0,), 8, _INLINE),
        MergedInputChannelHandle(1, (ChannelContent(0, 5, (0,), 8),), 8, _INLINE),
    ),
    result_subpartition=(
        ResultSubpartitionHandle(1, 0, 2, (0,), 8, _INLINE),
        MergedResultSubpartitionHandle(1, (ChannelContent(0, 2, (0,), 8),), 8, _INLINE),
    ),
)
_GRAPH = JobGraph(
    job="orders",
    pipeline_ref="examples.orders:pipeline",
    max_parallelism=32,
    vertices=(
        JobVertex(
            vertex="source",
            name="Source: orders",
            operators=(
                OperatorNode(
                    uid="source", operator_id="0" * 32, name="orders", kind=OperatorKind.SOURCE, upstream=None
                ),
                OperatorNode(uid="big", operator_id="1" * 32, name="big", kind=OperatorKind.FILTER, upstream="source"),
            ),
            parallelism=2,
            outputs=("source--totals",),
        ),
        JobVertex(
            vertex="totals",
            name="totals",
            operators=(
                OperatorNode(
                    uid="totals", operator_id="2" * 32, name="totals", kind=OperatorKind.PROCESS, upstream=None
                ),
            ),
            parallelism=2,
            inputs=("source--totals",),
        ),
    ),
    exchanges=(
        Exchange(
            exchange="source--totals",
            kind=ExchangeKind.KEYED,
            producer="source",
            producer_operator="big",
            consumer="totals",
            partitions=32,
        ),
    ),
    checkpoint=CheckpointConfig(interval_ms=500),
    restart=RestartConfig(strategy="failure_rate", multiplier=1.25),
    state=StateConfig(backend="rocksdb"),
    fingerprint="9f86d081",
)
_WORKER = "worker-1/0123abcd"

EXAMPLES: dict[type[msgspec.Struct], msgspec.Struct] = {
    type(message): message
    for message in (
        DeployJob(
            epoch=4,
            job="orders",
            attempt=2,
            graph=_GRAPH,
            slots=(_WORKER, "worker-2/4567ef01"),
            lineage=(LineageSegment(1, 7, {"source": 1, "totals": 1}), LineageSegment(2, None, {"source": 2})),
            restore_checkpoint=7,
            restore_path="orders/chk-7/_metadata",
            restore_checksum=2**64 - 1,
            base_checkpoint_id=0,
        ),
        CancelJob(epoch=4, job="orders", attempt=2, vertices=("totals",)),
        TriggerCheckpoint(
            epoch=4,
            job="orders",
            attempt=2,
            checkpoint=8,
            triggered_ms=1_763_800_000_000,
            base=7,
            options=SnapshotOptions(kind=SnapshotKind.SUSPEND, native=True, location="savepoints/savepoint-1"),
        ),
        OperatorCommand(
            epoch=4, job="orders", attempt=2, vertex="source", operator="source", subtask=None, payload=b"p"
        ),
        NotifyCheckpointComplete(epoch=4, job="orders", attempt=2, checkpoint=8),
        NotifyCheckpointAborted(epoch=4, job="orders", attempt=2, checkpoint=9),
        CoordinatorHeartbeat(
            epoch=4,
            sent_ms=1_763_800_000_001,
            jobs=(JobFates(job="orders", attempt=2, last_id=9, pending=(9,), completed=(6, 7, 8), complete_from=6),),
        ),
        ReportStatus(epoch=5),
        WorkerHeartbeat(
            worker=_WORKER,
            epoch=4,
            slots=2,
            subtasks=(
                RunningSubtask(
                    job="orders",
                    attempt=2,
                    vertex="totals",
                    subtask=1,
                    state=SubtaskState.RUNNING,
                    records_in=4,
                    records_out=3,
                    bytes_in=2,
                    bytes_out=1,
                ),
                RunningSubtask(
                    job="orders", attempt=2, vertex="source", subtask=1, state=SubtaskState.FINISHED, deployed=3
                ),
            ),
            sent_ms=1_763_800_000_002,
            leaving=True,
            host="node-1",
            metrics_port=9102,
            cpu_cores=8,
            memory_bytes=34_359_738_368,
        ),
        SubtaskStateChanged(
            worker=_WORKER,
            job="orders",
            attempt=2,
            vertex="totals",
            subtask=1,
            state=SubtaskState.FAILED,
            failure="KeyError: 'größe'",
        ),
        AcknowledgeCheckpoint(
            worker=_WORKER,
            job="orders",
            attempt=2,
            vertex="totals",
            subtask=1,
            checkpoint=8,
            metrics=CheckpointMetrics(start_delay_ms=1, alignment_ms=64, written_bytes=1_000_000, state_bytes=2**40),
            operators=(
                OperatorSnapshot(operator="2" * 32, state=_STATE),
                OperatorSnapshot(operator="3" * 32, state=OperatorSubtaskState(finished=True)),
            ),
        ),
        DeclineCheckpoint(
            worker=_WORKER,
            job="orders",
            attempt=2,
            vertex="totals",
            subtask=1,
            checkpoint=8,
            reason=DeclineReason.STORAGE,
            detail="disk full",
        ),
        SinkCommitted(
            worker=_WORKER,
            job="orders",
            attempt=2,
            vertex="results",
            subtask=0,
            sink="results",
            checkpoint=8,
            committed_ms=1_763_800_000_003,
        ),
        OperatorEvent(
            worker=_WORKER, job="orders", attempt=2, vertex="source", subtask=1, operator="source", payload=b"\x00"
        ),
        WorkerLost(worker=_WORKER, reason="killed by signal 9", ended_ms=1_763_800_000_004),
        ExchangeProgress(
            job="orders",
            attempt=2,
            exchange="source--totals",
            consumer=1,
            partitions=(16, 16, 17),
            producers=(0, 1, 0),
            positions=(64, 0, 8_192),
        ),
        DiscardCheckpoint(epoch=4, job="orders", checkpoint=5),
        DiscardState(epoch=4, job="orders", checkpoint=9, paths=("orders/chk-9/totals-1-a2-state",)),
        TrimExchange(epoch=4, job="orders"),
        PurgeJob(epoch=4, job="orders", submitted_ms=1_700_000_000_000),
        Barrier(
            checkpoint=8,
            triggered_ms=1_763_800_000_000,
            base=7,
            options=SnapshotOptions(alignment=Alignment.TIMEOUT, aligned_timeout_ms=300),
        ),
    )
}

_INT64 = st.integers(-(2**63), 2**63 - 1)
_UINT64 = st.integers(0, 2**64 - 1)
_UINT64_FIELDS = {"restore_checksum"}


@cache
def messages(message: type[msgspec.Struct]) -> st.SearchStrategy[Any]:
    """Any message of this type that can be said in Avro: whole numbers have 64 bits, floats are numbers."""
    return _values(inspect.type_info(message), _INT64)


def _values(kind: inspect.Type, integers: st.SearchStrategy[int]) -> st.SearchStrategy[Any]:
    match kind:
        case inspect.NoneType():
            return st.none()
        case inspect.BoolType():
            return st.booleans()
        case inspect.IntType():
            return integers
        case inspect.FloatType():
            return st.floats(allow_nan=False)
        case inspect.StrType():
            return st.text(max_size=10)
        case inspect.BytesType():
            return st.binary(max_size=200)
        case inspect.EnumType(cls=cls):
            return st.sampled_from(cls)
        case inspect.LiteralType(values=values):
            return st.sampled_from(values)
        case inspect.VarTupleType(item_type=item):
            return st.lists(_values(item, integers), max_size=2).map(tuple)
        case inspect.DictType(key_type=key, value_type=value):
            return st.dictionaries(_values(key, integers), _values(value, integers), max_size=2)
        case inspect.UnionType(types=types):
            return st.one_of(*(_values(branch, integers) for branch in types))
        case inspect.StructType(cls=cls, fields=fields):
            return st.builds(
                cls,
                **{
                    field.name: _values(field.type, _UINT64 if field.name in _UINT64_FIELDS else _INT64)
                    for field in fields
                },
            )
        case _:
            raise TypeError(f"no strategy for {kind}")


def family_of(message: type[msgspec.Struct]) -> Family[Any]:
    return MESSAGES[message]


if __name__ == "__main__":
    for example in EXAMPLES.values():
        sys.stdout.write(f"{type(example).__name__} {encode(example).hex()}\n")
