"""State of the operators of a chain that have no keys: stored whole at every snapshot, dealt out anew on restore."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from moorage.api.functions import CheckpointedFunction, OperatorListState, list_states
from moorage.backends.pieces import StatePiece
from moorage.errors import CorruptDataError, StateError
from moorage.graph.job_graph import OperatorNode
from moorage.ids import OperatorUid
from moorage.state.handles import (
    DistributionMode,
    InputChannelHandle,
    OperatorStreamHandle,
    StateMetaInfo,
    StreamHandle,
)
from moorage.state.operator_state import OperatorSubtaskState
from moorage.state.redistribution import Element, assign_elements
from moorage.task.context import TaskContext
from moorage.task.snapshots import StatePart

Restored = Mapping[OperatorUid, Mapping[str, list[Any]] | None]
"""For each function the elements of its lists; None: the checkpoint does not know it."""


class OperatorStates:
    """Of one subtask. ``functions``: those of its operators that have state."""

    def __init__(self, context: TaskContext, functions: Mapping[OperatorUid, CheckpointedFunction]) -> None:
        self._context = context
        self._functions = functions
        self._encode = msgspec.msgpack.Encoder().encode

    def __contains__(self, uid: object) -> bool:
        return uid in self._functions

    # --- snapshot ----------------------------------------------------------------------------------------------------

    def part(self, node: OperatorNode, channels: tuple[InputChannelHandle, ...] = ()) -> StatePart:
        """The synchronous phase of an operator's snapshot: its lists as they are now. ``channels``: other state that it
        carries. StateError: an element can't be stored."""
        function = self._functions[node.uid]
        function.snapshot_state()
        data = bytearray()
        states: dict[str, StateMetaInfo] = {}
        for name, element_type in list_states(type(function)).items():
            check = msgspec.msgpack.Decoder(element_type).decode
            state: OperatorListState[Any] = getattr(function, name)
            offsets = []
            for element in state:
                offsets.append(len(data))
                try:
                    encoded = self._encode(element)
                    check(encoded)  # what is not of its type is encoded all the same, and could not be restored
                    data += encoded
                except (TypeError, ValueError, OverflowError, RecursionError) as error:
                    what = f"operator {node.uid!r}: an element of {type(function).__name__}.{name}"
                    raise StateError(f"{what} can't be stored: {error}") from error
            states[name] = StateMetaInfo(tuple(offsets), DistributionMode(state.mode))

        def finish(streams: Sequence[StreamHandle]) -> OperatorSubtaskState:
            handles = tuple(OperatorStreamHandle(states, stream) for stream in streams)
            return OperatorSubtaskState(managed_operator=handles, input_channel=channels)

        return StatePart(
            operator=node.operator_id,
            encode=lambda: [StatePiece(node.uid, False, bytes(data))] if data else [],
            finish=finish,
        )

    # --- restore -----------------------------------------------------------------------------------------------------

    def load(self) -> Restored:
        """*Blocking*: read this subtask's share. CorruptDataError, StateError."""
        return {node.uid: self._load(node) for node in self._context.vertex.operators if node.uid in self._functions}

    def adopt(self, restored: Restored) -> None:
        """In the loop, before the first record."""
        for uid, elements in restored.items():
            function = self._functions[uid]
            for name in list_states(type(function)):
                getattr(function, name)[:] = (elements or {}).get(name, [])
            function.initialize_state(restored=elements is not None)

    def _load(self, node: OperatorNode) -> Mapping[str, list[Any]] | None:
        context = self._context
        if context.metadata is None:
            return None
        share = assign_elements(context.metadata, node.operator_id, node.uid, context.parallelism, context.subtask)
        if share is None:
            return None
        types = list_states(type(self._functions[node.uid]))
        streams: dict[StreamHandle, bytes] = {}
        for elements in share.values():
            for stream in {element.stream for element in elements}.difference(streams):
                streams[stream] = context.read_stream(stream)
        return {
            name: [self._decode(node.uid, name, types[name], element, streams[element.stream]) for element in elements]
            for name, elements in share.items()
            if name in types
        }

    def _decode(self, uid: str, name: str, element_type: Any, element: Element, data: bytes) -> Any:
        what = f"operator {uid!r}: an element of its state {name!r}"
        try:
            return msgspec.msgpack.decode(data[element.start : element.end], type=element_type)
        except msgspec.ValidationError as error:
            raise StateError(
                f"{what} doesn't fit its type: {error}. Give it its old type, or start without this state"
            ) from error
        except (ValueError, RecursionError) as error:
            raise CorruptDataError(f"{what} at {element.start}: {error}") from error
