"""States of operators and of their subtasks (Flink: OperatorState, OperatorSubtaskState).

Version 1 knows no operators, only job vertices: chains of operators. A vertex becomes one operator with the id of the
vertex, and its managed and raw operator state are the handles of all operators of the chain, in its order.
"""

from __future__ import annotations

import re

from moorage.errors import CorruptDataError, MetadataError
from moorage.ids import OperatorId, OperatorUid
from moorage.serde.metadata.binary import INT_BYTES, LONG_BYTES, Reader, Writer
from moorage.serde.metadata.channels import read_inputs, read_outputs, write_channels
from moorage.serde.metadata.keyed import read_keyed, write_keyed
from moorage.serde.metadata.layouts import Layout
from moorage.serde.metadata.operator_handles import read_operator_handle, write_operator_handle
from moorage.serde.metadata.streams import NO_STATE, read_coordinator_state, write_coordinator_state
from moorage.state.handles import OperatorHandle
from moorage.state.operator_state import OperatorState, OperatorSubtaskState

OPERATOR_BYTES = 2 * LONG_BYTES + 3 * INT_BYTES
"""The least that an operator takes."""

_OPERATOR_ID = re.compile(r"[0-9a-f]{32}")
_FULLY_FINISHED = -1
_CHAIN_LENGTH = 1
_DURATION = -1
_FINISHED_STATE = OperatorSubtaskState(finished=True)


def read_operator(reader: Reader, layout: Layout) -> OperatorState:
    name = reader.text("name of an operator") if layout.names else ""
    uid = reader.text("uid of an operator") if layout.names else ""
    operator = OperatorId(reader.take(2 * LONG_BYTES, "operator id").hex())
    try:
        return _read_operator(reader, layout, operator, name, uid)
    except CorruptDataError as error:
        raise CorruptDataError(f"operator {uid or operator}: {error}") from error


def _read_operator(reader: Reader, layout: Layout, operator: OperatorId, name: str, uid: str) -> OperatorState:
    parallelism, max_parallelism = reader.index("parallelism"), reader.index("max parallelism")
    if parallelism > max_parallelism:
        raise reader.corrupt(f"parallelism {parallelism} is above max parallelism {max_parallelism}")
    coordinator = None
    if not layout.legacy_fields:
        coordinator = read_coordinator_state(reader)
    elif (chain_length := reader.index("chain length")) != _CHAIN_LENGTH and not layout.chains:
        raise reader.corrupt(f"chain length can't be {chain_length}")
    subtasks = _read_subtasks(reader, layout, parallelism)
    if subtasks is None and coordinator is not None:
        raise reader.corrupt("it is fully finished and yet has a coordinator state")
    return OperatorState(
        operator=operator,
        uid=OperatorUid(uid) if uid else None,
        name=name or None,
        parallelism=parallelism,
        max_parallelism=max_parallelism,
        subtasks=subtasks or {},
        coordinator=coordinator,
        fully_finished=subtasks is None,
    )


def write_operator(writer: Writer, state: OperatorState, layout: Layout) -> None:
    try:
        _write_operator(writer, state, layout)
    except MetadataError as error:
        raise MetadataError(f"operator {state.uid or state.operator}: {error}") from error


def _write_operator(writer: Writer, state: OperatorState, layout: Layout) -> None:
    if layout.names:
        writer.text(_not_empty(state.name))
        writer.text(_not_empty(state.uid))
    if not _OPERATOR_ID.fullmatch(state.operator):
        raise MetadataError(f"operator id {state.operator!r} is not 32 hex digits")
    writer.raw(bytes.fromhex(state.operator))
    if state.parallelism > state.max_parallelism:
        raise MetadataError(f"parallelism {state.parallelism} is above max parallelism {state.max_parallelism}")
    writer.index(state.parallelism)
    writer.index(state.max_parallelism)
    if not layout.legacy_fields:
        write_coordinator_state(writer, state.coordinator)
    elif state.coordinator is not None:
        raise MetadataError(f"metadata version {layout.version} has no room for a coordinator state")
    else:
        writer.int32(_CHAIN_LENGTH)
    if not state.fully_finished:
        _write_subtasks(writer, state, layout)
    elif layout.legacy_fields:
        raise MetadataError(f"metadata version {layout.version} has no room for a finished operator")
    elif state.subtasks or state.coordinator is not None:
        raise MetadataError("it is fully finished and yet has state")
    else:
        writer.int32(_FULLY_FINISHED)


def _not_empty(text: str | None) -> str:
    if text == "":
        raise MetadataError("an empty name or uid can't be told from none")
    return text or ""


def _read_subtasks(reader: Reader, layout: Layout, parallelism: int) -> dict[int, OperatorSubtaskState] | None:
    """None: the operator is fully finished."""
    count = reader.int32("number of subtask states")
    if count == _FULLY_FINISHED and not layout.legacy_fields:
        return None
    if not 0 <= count <= parallelism:
        raise reader.corrupt(f"{count} subtask states are announced for a parallelism of {parallelism}")
    subtasks: dict[int, OperatorSubtaskState] = {}
    for _ in range(count):
        index = reader.int32("subtask index")
        finished = index < 0 and not layout.legacy_fields
        if finished:
            index = -(index + 1)
        if not 0 <= index < parallelism or index in subtasks:
            raise reader.corrupt(f"subtask {index} is there twice or beyond the parallelism of {parallelism}")
        try:
            subtasks[index] = _FINISHED_STATE if finished else _read_subtask(reader, layout)
        except CorruptDataError as error:
            raise CorruptDataError(f"subtask {index}: {error}") from error
    return subtasks


def _write_subtasks(writer: Writer, state: OperatorState, layout: Layout) -> None:
    writer.int32(len(state.subtasks))
    for index, subtask in state.subtasks.items():
        if not 0 <= index < state.parallelism:
            raise MetadataError(f"subtask {index} is beyond the parallelism of {state.parallelism}")
        try:
            if not subtask.finished:
                writer.int32(index)
                _write_subtask(writer, subtask, layout)
            elif layout.legacy_fields:
                raise MetadataError(f"metadata version {layout.version} has no room for a finished subtask")
            elif subtask != _FINISHED_STATE:
                raise MetadataError("it is finished and yet has state")
            else:
                writer.int32(-(index + 1))
        except MetadataError as error:
            raise MetadataError(f"subtask {index}: {error}") from error


def _read_subtask(reader: Reader, layout: Layout) -> OperatorSubtaskState:
    if layout.legacy_fields:
        if (duration := reader.int64("duration")) != _DURATION:
            raise reader.corrupt(f"duration can't be {duration}")
        legacy_states = reader.count("legacy states", 1)
        if not all(layout.chains and reader.took(NO_STATE) for _ in range(legacy_states)):
            raise reader.corrupt("legacy state (of Flink's Checkpointed interface) is not supported")
    managed_operator = _read_operator_handles(reader, layout, "managed operator states")
    raw_operator = _read_operator_handles(reader, layout, "raw operator states")
    managed_keyed, raw_keyed = read_keyed(reader), read_keyed(reader)
    channels = not layout.legacy_fields
    return OperatorSubtaskState(
        managed_operator=managed_operator,
        raw_operator=raw_operator,
        managed_keyed=managed_keyed,
        raw_keyed=raw_keyed,
        input_channel=read_inputs(reader, typed=layout.typed_channels) if channels else (),
        result_subpartition=read_outputs(reader, typed=layout.typed_channels) if channels else (),
    )


def _write_subtask(writer: Writer, state: OperatorSubtaskState, layout: Layout) -> None:
    if layout.legacy_fields:
        writer.int64(_DURATION)
        writer.int32(0)
    _write_operator_handles(writer, state.managed_operator, "managed_operator")
    _write_operator_handles(writer, state.raw_operator, "raw_operator")
    write_keyed(writer, state.managed_keyed)
    write_keyed(writer, state.raw_keyed)
    if not layout.legacy_fields:
        write_channels(writer, state.input_channel, typed=layout.typed_channels)
        write_channels(writer, state.result_subpartition, typed=layout.typed_channels)
    elif state.input_channel or state.result_subpartition:
        raise MetadataError(f"metadata version {layout.version} has no room for channel state")


def _read_operator_handles(reader: Reader, layout: Layout, what: str) -> tuple[OperatorHandle, ...]:
    count = reader.count(what, 1)
    if count > 1 and not layout.chains:
        raise reader.corrupt(f"there are {count} {what}, but can be only one")
    return tuple(read_operator_handle(reader) for _ in range(count) if not (layout.chains and reader.took(NO_STATE)))


def _write_operator_handles(writer: Writer, handles: tuple[OperatorHandle, ...], what: str) -> None:
    if len(handles) > 1:
        raise MetadataError(f"{what} has {len(handles)} handles, but there is room for one")
    writer.int32(len(handles))
    for handle in handles:
        write_operator_handle(writer, handle)
