"""Where a checkpoint comes from, inside its ``_metadata``: the registry can be rebuilt from the storage."""

from __future__ import annotations

import msgspec

from moorage.errors import CorruptDataError
from moorage.state.operator_state import CheckpointMetadata, CheckpointOrigin, MasterState

ORIGIN_STATE = "moorage.origin"
_VERSION = 1


def with_origin(metadata: CheckpointMetadata, origin: CheckpointOrigin) -> CheckpointMetadata:
    state = MasterState(name=ORIGIN_STATE, version=_VERSION, data=msgspec.msgpack.encode(origin))
    return msgspec.structs.replace(metadata, master_states=(*metadata.master_states, state))


def origin_of(metadata: CheckpointMetadata) -> CheckpointOrigin | None:
    """None: not written by Moorage. CorruptDataError: it can't be read."""
    state = next((state for state in metadata.master_states if state.name == ORIGIN_STATE), None)
    if state is None:
        return None
    try:
        return msgspec.msgpack.decode(state.data, type=CheckpointOrigin)
    except (ValueError, RecursionError) as error:
        raise CorruptDataError(f"the origin of checkpoint {metadata.checkpoint} can't be read: {error}") from error
