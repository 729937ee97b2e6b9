"""Operator ids: what the state of an operator is filed under in a checkpoint, computed as Flink does."""

from __future__ import annotations

import mmh3

from moorage.ids import OperatorId, OperatorUid


def operator_id(uid: OperatorUid) -> OperatorId:
    """32 hex digits: murmur3-128 (x64, seed 0) of the UTF-8 bytes of the uid.

    Equal to Flink's ``StreamGraphHasherV2`` for operators with a uid, so that state written by the one is found by the
    other under the same name.
    """
    return OperatorId(mmh3.hash_bytes(uid.encode()).hex())
