"""What reads bytes that others wrote, as functions for fuzzers: `make test` (hypothesis), `make fuzz` (atheris).

A target takes any bytes. It returns when they are good or are refused with an error of ours; whatever else happens (any
other exception, a hang, memory beyond the limit, an answer that contradicts itself) is a finding. Formats with a
checksum are fed sealed as well, or a fuzzer would never get behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from io import BytesIO
from operator import add
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import xxhash

import moorage as mo
from moorage.backends.rocksdb_snapshot import Contents, LocalFile
from moorage.connectors.kafka_source import SplitState, decode_splits, encode_split
from moorage.coordinator_process.origin import origin_of, with_origin
from moorage.errors import CorruptDataError, MetadataError, ObjectMissingError, StateError, UnknownSchemaError
from moorage.ids import Attempt, CheckpointId, ExchangeId, JobId, OperatorId, OperatorUid
from moorage.inspect.checkpoint import OpenCheckpoint
from moorage.inspect.describe import describe
from moorage.inspect.export import ExportError, write_json_lines, write_parquet
from moorage.inspect.files import StateFiles
from moorage.inspect.rocksdb import instance_schemas
from moorage.inspect.table import OperatorTable
from moorage.inspect.verify import FileState, verify
from moorage.serde.control import FAMILIES, decode, encode
from moorage.serde.frames import ColumnCodec, Columns, FrameKind, decode_frame, encode_frame
from moorage.serde.keyed_segments import DELTA, HEAD_BYTES, KeyedSegmentCodec
from moorage.serde.metadata import decode_metadata, encode_metadata, metadata_version
from moorage.serde.positions import decode_marker, decode_positions, encode_marker, encode_positions
from moorage.serde.row_schema import row_schema
from moorage.state.handles import ByteStreamHandle, IncrementalKeyedHandle, KeyGroupsHandle
from moorage.state.key_groups import KeyGroupRange
from moorage.state.operator_state import (
    ORIGIN_STATE,
    CheckpointMetadata,
    CheckpointOrigin,
    MasterState,
    OperatorState,
    OperatorSubtaskState,
)
from moorage.state.positions import CommitMarker, ExchangePositions, InputPositions

TESTS = Path(__file__).parents[1]
FINDINGS = Path(__file__).parent / "findings"
"""Every input that ever showed a bug: ``<target>/<name>``."""


class Target(NamedTuple):
    run: Callable[[bytes], None]
    seeds: Callable[[], Iterable[bytes]]
    """Good inputs, for the fuzzer to vary."""


# --- metadata --------------------------------------------------------------------------------------------------------


def golden_metadata() -> Iterator[bytes]:
    """Files that Flink wrote, in all versions."""
    for file in sorted((TESTS / "compatibility" / "flink").glob("golden*/**/_metadata")):
        yield file.read_bytes()


def metadata(data: bytes) -> None:
    """What can be read can be written, and is then the same."""
    try:
        read = decode_metadata(data, "orders/chk-7")
    except CorruptDataError:
        return
    version = metadata_version(data)
    if version > 1:
        assert encode_metadata(read, version) == data
    for other in range(2, 7):
        with suppress(MetadataError):  # it has no room for that
            encode_metadata(read, other)
    for path in read.paths():
        assert ".." not in path.split("/")
    checkpoint = opened(read)
    with suppress(CorruptDataError):  # where it says to come from makes no sense
        msgspec.json.encode(describe(checkpoint))
        assert not any(check.state is FileState.UNREADABLE for check in verify(checkpoint).damaged)


class Nothing:
    """A storage that has nothing."""

    def size_bytes(self, path: str) -> int:
        raise ObjectMissingError(path)

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        raise ObjectMissingError(path)


def opened(read: CheckpointMetadata) -> OpenCheckpoint:
    files = StateFiles(Nothing(), "/nowhere")
    return OpenCheckpoint(location="here", version=6, size_bytes=0, metadata=read, files=files)


def origin(data: bytes) -> None:
    state = MasterState(name=ORIGIN_STATE, version=1, data=data)
    with suppress(CorruptDataError):
        origin_of(CheckpointMetadata(checkpoint=CheckpointId(1), operators=(), master_states=(state,)))


ORIGIN = CheckpointOrigin(job=JobId("orders"), attempt=Attempt(2), triggered_ms=1_763_800_000_000)


def _origins() -> Iterator[bytes]:
    (state,) = with_origin(CheckpointMetadata(checkpoint=CheckpointId(1), operators=()), ORIGIN).master_states
    yield state.data


# --- positions -------------------------------------------------------------------------------------------------------


def positions(data: bytes) -> None:
    with suppress(CorruptDataError):
        for part in decode_positions(data).exchanges:
            part.start_offsets()


def _positions() -> Iterator[bytes]:
    attempts = (Attempt(1), Attempt(1), Attempt(2))
    part = ExchangePositions(ExchangeId("a--b"), (0, 0, 1), attempts, (0, 1, 0), (5, 3, 7), (7, 0, 4))
    yield encode_positions(InputPositions((part,)))


def marker(data: bytes) -> None:
    with suppress(CorruptDataError):
        assert decode_marker(data).start_offset in decode_marker(data).offsets


def _markers() -> Iterator[bytes]:
    yield encode_marker(
        CommitMarker(
            sink=OperatorUid("results"),
            key_group=4,
            checkpoint=CheckpointId(9),
            attempt=Attempt(2),
            producers=(0, 1),
            offsets=(17, 12),
        )
    )


def _sealed_split(content: bytes) -> bytes:
    return xxhash.xxh3_64_intdigest(content).to_bytes(8, "little") + content


def source_offsets(data: bytes) -> None:
    with suppress(CorruptDataError):
        decode_splits([data])
    with suppress(CorruptDataError):
        decode_splits([_sealed_split(data)])


def _source_offsets() -> Iterator[bytes]:
    split = encode_split(SplitState("orders", 3, 12, None))
    yield from (split, split[8:])


# --- frames and messages ---------------------------------------------------------------------------------------------


def frame(data: bytes) -> None:
    """The header is 20 bytes, then the checksum."""
    sealed = data[:20] + xxhash.xxh3_64_intdigest(data[:20] + data[20:]).to_bytes(8, "little") + data[20:]
    for candidate in (data, sealed):
        with suppress(CorruptDataError):
            read = decode_frame(candidate)
            assert decode_frame(encode_frame(*read)) == read


def _frames() -> Iterator[bytes]:
    for kind in FrameKind:
        good = encode_frame(kind, Attempt(3), 2, 9, 5, b"payload")
        yield from (good, good[:20] + good[28:])


class Order(msgspec.Struct):
    user: str
    amount: float
    tags: list[str] = msgspec.field(default_factory=list)
    more: dict[str, int] = msgspec.field(default_factory=dict)


PLAIN: ColumnCodec[Any, Any] = ColumnCodec()
TYPED: ColumnCodec[str, Order] = ColumnCodec(str, Order)


def columns(data: bytes) -> None:
    for codec in (PLAIN, TYPED):
        try:
            read: Columns[Any, Any] = codec.decode(data)
        except CorruptDataError:
            continue
        assert len(read.keys) == len(read.values) == len(read.timestamps_ms)
        hash(tuple(read.keys))


def _columns() -> Iterator[bytes]:
    yield PLAIN.encode(Columns(["a", (1, ("b",))], [1, {"x": [b"y"]}], [1, 2], [None, [("h", b"")]]))
    yield TYPED.encode(Columns(["ann"], [Order("ann", 1.5, ["x"], {"y": 1})], [7]))


def control(data: bytes) -> None:
    for family in FAMILIES:
        with suppress(CorruptDataError, UnknownSchemaError):
            message: Any = decode(data, family)
            written = encode(message)
            assert encode(decode(written, family)) == written


def _control() -> Iterator[bytes]:
    for line in (TESTS / "unit" / "serde" / "golden_messages.txt").read_text().splitlines():
        yield bytes.fromhex(line.split()[-1])


# --- keyed state -----------------------------------------------------------------------------------------------------


class Total(mo.KeyedState):
    count: int = 0
    total: float = 0.0
    last: list[str] = msgspec.field(default_factory=list)
    more: dict[str, int] = msgspec.field(default_factory=dict)


class Basket(mo.KeyedState):
    orders: int = 0
    items: mo.MapState[str, float] = mo.MapState()
    recent: mo.ListState[int] = mo.ListState(ttl=mo.Ttl(after_ms=60_000))
    sum: mo.ReducingState[float] = mo.ReducingState(add)


class Evolved(mo.KeyedState):
    total: float = 0.0
    added: str = "new"


SEGMENT_CODECS: tuple[KeyedSegmentCodec[Any, Any], ...] = (
    KeyedSegmentCodec("totals", str, Total),
    KeyedSegmentCodec("totals", Any, Total),
    KeyedSegmentCodec("totals", Any, Evolved),
    KeyedSegmentCodec("totals", str, Basket),
)


def _sealed_segment(payload: bytes) -> bytes:
    return len(payload).to_bytes(8, "little") + xxhash.xxh3_64_intdigest(payload).to_bytes(8, "little") + payload


def keyed_segment(data: bytes) -> None:
    for codec in SEGMENT_CODECS:
        for file in (data, _sealed_segment(data)):
            with suppress(CorruptDataError, StateError):
                codec.apply(file, 0, {})


def _keyed_segments() -> Iterator[bytes]:
    rows = {"ann": Total(count=1, total=2.5, last=["x"], more={"y": 1}), "bob": Total()}
    basket = Basket(orders=1)
    basket.items["pear"] = 2.5
    basket.recent.extend([7, 8])
    basket.sum.add(1.5)
    states = SEGMENT_CODECS[3].writer(DELTA)
    states.rows({"ann": Basket(orders=2)}, ["ann", "bob"])
    states.reset(3, ["ann"])
    states.removed_entries(1, ["ann"], ["pear"])
    states.entries(1, ["ann"], ["fig"], [0.5])
    for segment in (
        SEGMENT_CODECS[3].encode_base({"ann": basket}),
        SEGMENT_CODECS[3].encode_base({str(n): basket for n in range(40)}),
        states.finish(),
        SEGMENT_CODECS[0].encode_base(rows),
        SEGMENT_CODECS[0].encode_delta(rows, ["ann", "eve"]),
        SEGMENT_CODECS[1].encode_base({(1, "a"): Total()}),
    ):
        yield from (segment, segment[HEAD_BYTES:])


def rows(data: bytes) -> None:
    """The same without the class that wrote them, and what people get to see of it."""
    for file in (data, _sealed_segment(data)):
        handle = KeyGroupsHandle(KeyGroupRange(0, 0), (0,), ByteStreamHandle("state", file))
        state = OperatorState(
            operator=OperatorId("0" * 32),
            uid=OperatorUid("totals"),
            name=None,
            parallelism=1,
            max_parallelism=1,
            subtasks={0: OperatorSubtaskState(managed_keyed=(handle,))},
        )
        checkpoint = opened(with_origin(CheckpointMetadata(checkpoint=CheckpointId(1), operators=(state,)), ORIGIN))
        with suppress(CorruptDataError):
            write_json_lines(BytesIO(), OperatorTable(checkpoint, "totals"))
        with suppress(CorruptDataError, ExportError):
            write_parquet(BytesIO(), OperatorTable(checkpoint, "totals"))


def rocksdb_contents(data: bytes) -> None:
    """The table of contents of a RocksDB snapshot; its files can't be fuzzed without writing them."""
    with suppress(CorruptDataError):
        handle = IncrementalKeyedHandle(
            backend_id="",
            checkpoint=CheckpointId(1),
            key_groups=KeyGroupRange(0, 0),
            shared=(),
            private=(),
            metadata=ByteStreamHandle("CONTENTS", data),
            written_bytes=0,
        )
        instance_schemas(handle, opened(CheckpointMetadata(checkpoint=CheckpointId(1), operators=())).files)


def _rocksdb_contents() -> Iterator[bytes]:
    schemas = tuple(msgspec.msgpack.encode(row_schema(str, kind)) for kind in (Total, Basket, Evolved))
    files = {"000004.sst": LocalFile(100, 7), "CURRENT": LocalFile(16, 9)}
    yield msgspec.msgpack.encode(Contents(schemas=schemas, state_names=("items", "recent"), files=files))


TARGETS: Mapping[str, Target] = {
    "metadata": Target(metadata, golden_metadata),
    "origin": Target(origin, _origins),
    "positions": Target(positions, _positions),
    "marker": Target(marker, _markers),
    "source_offsets": Target(source_offsets, _source_offsets),
    "frame": Target(frame, _frames),
    "columns": Target(columns, _columns),
    "control": Target(control, _control),
    "keyed_segment": Target(keyed_segment, _keyed_segments),
    "rows": Target(rows, _keyed_segments),
    "rocksdb_contents": Target(rocksdb_contents, _rocksdb_contents),
}
