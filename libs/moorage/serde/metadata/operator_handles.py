"""Handles of an operator's list states (Flink: OperatorStateHandle)."""

from __future__ import annotations

from enum import IntEnum

from moorage.serde.metadata.binary import INT_BYTES, TEXT_BYTES, Reader, Writer
from moorage.serde.metadata.streams import read_segment, read_stream, write_segment, write_stream
from moorage.state.handles import (
    DistributionMode,
    FileMergingOperatorHandle,
    OperatorHandle,
    OperatorStreamHandle,
    StateMetaInfo,
)

_MODES = (DistributionMode.SPLIT, DistributionMode.UNION, DistributionMode.BROADCAST)


class _Type(IntEnum):
    OPERATOR = 4
    FILE_MERGING_OPERATOR = 17


def read_operator_handle(reader: Reader) -> OperatorHandle:
    code = reader.byte("type of an operator state handle")
    if code not in tuple(_Type):
        raise reader.corrupt(f"operator state handle of type {code}")
    states = _read_states(reader)
    if code == _Type.OPERATOR:
        return OperatorStreamHandle(states, read_stream(reader))
    task_owned_folder = reader.path("task owned folder of merged files")
    shared_folder = reader.path("shared folder of merged files")
    empty = reader.flag(reader.byte("flag of a merged state"), "flag of a merged state")
    segment = read_segment(reader)
    if empty != (segment is None):
        raise reader.corrupt("a merged operator state contradicts itself: it is empty, or it has a segment")
    return FileMergingOperatorHandle(states, segment, task_owned_folder, shared_folder)


def write_operator_handle(writer: Writer, handle: OperatorHandle) -> None:
    match handle:
        case OperatorStreamHandle():
            writer.byte(_Type.OPERATOR)
            _write_states(writer, handle.states)
            write_stream(writer, handle.stream)
        case FileMergingOperatorHandle():
            writer.byte(_Type.FILE_MERGING_OPERATOR)
            _write_states(writer, handle.states)
            writer.path(handle.task_owned_folder)
            writer.path(handle.shared_folder)
            writer.byte(handle.stream is None)
            write_segment(writer, handle.stream)


def _read_states(reader: Reader) -> dict[str, StateMetaInfo]:
    states: dict[str, StateMetaInfo] = {}
    for _ in range(reader.count("operator states", TEXT_BYTES + 1 + INT_BYTES)):
        name = reader.text("name of an operator state")
        if name in states:
            raise reader.corrupt(f"operator state {name!r} is there twice")
        mode = reader.choice(reader.byte("distribution mode"), "distribution mode", _MODES)
        states[name] = StateMetaInfo(reader.int64s("offsets of an operator state"), mode)
    return states


def _write_states(writer: Writer, states: dict[str, StateMetaInfo]) -> None:
    writer.int32(len(states))
    for name, state in states.items():
        writer.text(name)
        writer.byte(_MODES.index(state.mode))
        writer.int64s(state.offsets)
