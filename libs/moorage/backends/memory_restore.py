"""Rows of the memory backend out of the chains of a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, NamedTuple, TypeVar

import msgspec

from moorage.backends.memory_snapshot import Chain, Segment
from moorage.errors import CorruptDataError, StateError
from moorage.serde.keyed_segments import BASE, HEAD_BYTES, KeyedSegmentCodec, read_head
from moorage.state.handles import NO_OFFSET, ByteStreamHandle, KeyedHandle, KeyGroupsHandle, StreamHandle
from moorage.state.key_groups import KeyGroupRange

K = TypeVar("K")
R = TypeVar("R", bound=msgspec.Struct)
A = TypeVar("A")
B = TypeVar("B")


class RestoredRows(Generic[K, R], NamedTuple):
    """Loaded in a thread, adopted by the loop."""

    rows: dict[int, dict[K, R]]
    chains: dict[int, Chain]
    files: dict[int, StreamHandle]
    used_bytes: dict[int, int]
    """Of each file."""


def load_rows(
    codec: KeyedSegmentCodec[K, R],
    key_groups: KeyGroupRange,
    handles: Sequence[KeyedHandle],
    read: Callable[[StreamHandle], bytes],
    threads: int,
) -> RestoredRows[K, R]:
    """*Blocking*: read and decode some key groups out of the chains of any number of earlier subtasks: the files, then
    the key groups, ``threads`` of each at a time; one thread goes in their order. CorruptDataError, StateError."""
    places: dict[int, list[tuple[int, int]]] = {group: [] for group in key_groups.groups()}
    files: dict[int, StreamHandle] = {}
    for number, handle in enumerate(handles):
        if not isinstance(handle, KeyGroupsHandle):
            raise StateError(
                f"operator {codec.operator!r}: the memory backend can't restore from a {type(handle).__name__};"
                " start from a canonical savepoint, or with the backend that wrote it"
            )
        for group in handle.key_groups.intersection(key_groups).groups():
            offset = handle.offsets[group - handle.key_groups.start]
            if offset != NO_OFFSET:
                places[group].append((number, offset))
                files[number] = handle.stream
    contents = dict(zip(files, _each(read, files.values(), threads), strict=True))

    def load_group(group: int) -> tuple[dict[K, R], Chain]:
        return _load_group(codec, places[group], contents, files)

    loaded = dict(zip(places, _each(load_group, places, threads), strict=True))
    used_bytes = dict.fromkeys(files, 0)
    for _, chain in loaded.values():
        for segment in chain:
            used_bytes[segment.file] += segment.stored_bytes
    return RestoredRows(
        {group: rows for group, (rows, _) in loaded.items()},
        {group: chain for group, (_, chain) in loaded.items()},
        files,
        used_bytes,
    )


def _load_group(
    codec: KeyedSegmentCodec[K, R],
    places: Sequence[tuple[int, int]],
    contents: Mapping[int, bytes],
    files: Mapping[int, StreamHandle],
) -> tuple[dict[K, R], Chain]:
    rows: dict[K, R] = {}
    chain: list[Segment] = []
    for number, offset in places:
        try:
            kind = codec.apply(contents[number], offset, rows)
        except CorruptDataError as error:
            raise CorruptDataError(f"{_identity(files[number])}: {error}") from error
        if kind == BASE:
            chain = []
        stored_bytes = HEAD_BYTES + read_head(contents[number], offset).payload_bytes
        chain.append(Segment(number, offset, stored_bytes, _size(codec, rows) if kind == BASE else 0))
    return rows, tuple(chain)


def _each(call: Callable[[A], B], items: Iterable[A], threads: int) -> list[B]:
    if threads == 1:
        return list(map(call, items))
    with ThreadPoolExecutor(threads, thread_name_prefix="restore") as pool:
        return list(pool.map(call, items))


def _size(codec: KeyedSegmentCodec[K, R], rows: Mapping[K, R]) -> int:
    entries = (len(getattr(row, state.name)._entries) for row in rows.values() for state in codec.states)  # noqa: SLF001 - what backends keep
    return len(rows) + sum(entries)


def _identity(stream: StreamHandle) -> str:
    return stream.name if isinstance(stream, ByteStreamHandle) else stream.path
