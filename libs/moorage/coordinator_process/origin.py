"""Where a checkpoint comes from, inside its ``_metadata``: the registry can be rebuilt from the storage.

The state starts with a mark and the checksum of the whole file (with zeros in the checksum's place), because a registry
that is lost takes its own checksums along.
"""

from __future__ import annotations

import msgspec
import xxhash

from moorage.errors import CorruptDataError
from moorage.state.operator_state import ORIGIN_STATE, CheckpointMetadata, CheckpointOrigin, MasterState

_VERSION = 1
_MARK = bytes.fromhex("f1c7a3e09b5d4c6e8d2f7b31a54e60d9")
_NO_CHECKSUM = bytes(8)
_START = len(_MARK) + len(_NO_CHECKSUM)


def with_origin(metadata: CheckpointMetadata, origin: CheckpointOrigin) -> CheckpointMetadata:
    """To be encoded, and then sealed."""
    data = _MARK + _NO_CHECKSUM + msgspec.msgpack.encode(origin)
    state = MasterState(name=ORIGIN_STATE, version=_VERSION, data=data)
    return msgspec.structs.replace(metadata, master_states=(*metadata.master_states, state))


def origin_of(metadata: CheckpointMetadata) -> CheckpointOrigin | None:
    """None: not written by Moorage. CorruptDataError: it can't be read."""
    state = next((state for state in metadata.master_states if state.name == ORIGIN_STATE), None)
    if state is None:
        return None
    if not state.data.startswith(_MARK):
        raise CorruptDataError(f"the origin of checkpoint {metadata.checkpoint} has no mark")
    try:
        return msgspec.msgpack.decode(state.data[_START:], type=CheckpointOrigin)
    except (ValueError, RecursionError) as error:
        raise CorruptDataError(f"the origin of checkpoint {metadata.checkpoint} can't be read: {error}") from error


def seal(data: bytes) -> bytes:
    """Put the checksum into the encoded metadata of ``with_origin``."""
    position = data.index(_MARK) + len(_MARK)
    return b"".join((data[:position], _checksum(data), data[position + len(_NO_CHECKSUM) :]))


def is_ours(data: bytes, metadata: CheckpointMetadata) -> bool:
    """Did Moorage write the file? Damage takes the name of the state away, or the mark in it, but not both."""
    return _MARK in data or any(state.name == ORIGIN_STATE for state in metadata.master_states)


def is_intact(data: bytes) -> bool:
    """Is it what was sealed?"""
    position = data.find(_MARK) + len(_MARK)
    end = position + len(_NO_CHECKSUM)
    if position < len(_MARK):
        return False
    return _checksum(b"".join((data[:position], _NO_CHECKSUM, data[end:]))) == data[position:end]


def _checksum(data: bytes) -> bytes:
    return xxhash.xxh3_64_intdigest(data).to_bytes(len(_NO_CHECKSUM), "little")
