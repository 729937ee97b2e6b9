"""A checkpoint as data, for people and programs: what `moorage inspect` prints, with or without ``--json``.

The words are Flink's, the units stand last. Fields that have nothing to say are left out of JSON.
"""

from __future__ import annotations

from typing import Any

import msgspec


class StreamPart(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where bytes lie."""

    kind: str
    """``inline``: in the metadata; ``file``; ``segment`` of a merged file."""
    size_bytes: int
    path: str | None = None
    offset: int | None = None
    shared: bool = False
    name: str | None = None
    """In the folder of an incremental backend."""


class ListPart(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An operator's list state."""

    mode: str
    elements: int


class HandlePart(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A state handle. Which of the fields are there depends on ``kind``."""

    role: str
    """What it is for: a field of OperatorSubtaskState, or ``materialized``."""
    kind: str
    """Which handle of ``moorage.state.handles``: its tag."""
    size_bytes: int
    key_groups: tuple[int, int] | None = None
    """First and last."""
    key_groups_present: int | None = None
    """Of how many key groups the stream holds something."""
    canonical: bool = False
    backend: str | None = None
    """The backend instance that wrote it."""
    checkpoint: int | None = None
    """Which checkpoint wrote it."""
    written_bytes: int | None = None
    """What that checkpoint wrote of it, the rest is shared."""
    states: dict[str, ListPart] | None = None
    channel: str | None = None
    """Gate and channel, or result partition and subpartition."""
    materialized: tuple[HandlePart, ...] = ()
    changes: tuple[StreamPart, ...] = ()
    streams: tuple[StreamPart, ...] = ()


class PositionPart(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The next frame that a channel of an exchange delivers."""

    exchange: str
    partition: int
    attempt: int
    producer: int
    offset: int
    open: bool
    """Frames up to the barrier of this checkpoint are in flight behind the offset."""


class SourceOffset(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The next record that a source reads of a partition."""

    topic: str
    partition: int
    offset: int
    end: int | None = None
    """Where a bounded source stops."""


class SubtaskPart(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    subtask: int
    finished: bool = False
    state_bytes: int = 0
    handles: tuple[HandlePart, ...] = ()
    source_offsets: tuple[SourceOffset, ...] = ()
    positions: tuple[PositionPart, ...] = ()
    unreadable: tuple[str, ...] = ()
    """Why offsets or positions are missing here."""


class OperatorPart(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    operator: str
    uid: str | None
    name: str | None
    parallelism: int
    max_parallelism: int
    state_bytes: int
    fully_finished: bool = False
    coordinator_bytes: int | None = None
    subtasks: tuple[SubtaskPart, ...] = ()


class MasterStatePart(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    name: str
    version: int
    size_bytes: int


class Origin(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    job: str
    attempt: int
    triggered_ms: int


class CheckpointReport(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    location: str
    metadata_version: int
    metadata_bytes: int
    checkpoint: int
    written_by: str
    """``Moorage`` or ``Flink``."""
    origin: Origin | None
    savepoint: bool
    properties: dict[str, Any]
    state_bytes: int
    """Of everything that the checkpoint refers to."""
    files: int
    """Objects besides ``_metadata``."""
    inline_bytes: int
    master_states: tuple[MasterStatePart, ...]
    operators: tuple[OperatorPart, ...]
