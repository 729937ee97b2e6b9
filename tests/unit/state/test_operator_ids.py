from __future__ import annotations

import pytest

from moorage.ids import OperatorUid
from moorage.state.operator_ids import operator_id


@pytest.mark.parametrize(
    ("uid", "expected"),
    [
        # What the StreamGraphHasherV2 of Flink 2.2.0 gave a map operator with this uid.
        ("orders", "bc4197a480c92c793190a9f8c0afc54c"),
        ("totals", "8eeed16b661251f13cfc6a3c5e75c420"),
        ("results", "b987afdbb8375b6ce5dcc61af8c01898"),
        ("a", "897859f6655555855a890e51483ab5e6"),
        ("", "00000000000000000000000000000000"),
        ("Umsätze", "b22941c5f388ca6a665165252c04645f"),
        ("日本語のキー", "6f5f0e840c377190b4479051ea58ca8e"),
        ("uid-1", "c49f9afd6c708fcc3cdcba1bd00469ba"),
        ("🚢 moorage", "9d230027aee58db4a22a060a17f2852c"),
        ("a longer operator uid, of more than thirty-two bytes", "56082528f57405d85ef475cdc0111fc2"),
    ],
)
def test_an_operator_id_is_the_one_that_flink_computes(uid: str, expected: str) -> None:
    assert operator_id(OperatorUid(uid)) == expected
