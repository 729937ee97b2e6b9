"""Metadata files that Flink's own classes wrote (see README.md) are read to the last field, and written back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.compatibility.flink.flink_view import flink_view

from moorage.serde.metadata import decode_metadata, encode_metadata, metadata_version
from moorage.state.operator_ids import operator_id

GOLDEN = sorted((Path(__file__).parent / "golden").iterdir())


@pytest.mark.parametrize("folder", GOLDEN, ids=lambda folder: folder.name)
def test_a_golden_file_is_read_to_the_last_field(folder: Path) -> None:
    data = (folder / "_metadata").read_bytes()
    expected = json.loads((folder / "flink.json").read_text())
    assert flink_view(metadata_version(data), decode_metadata(data)) == expected


@pytest.mark.parametrize("folder", GOLDEN, ids=lambda folder: folder.name)
def test_a_golden_file_is_written_back_byte_for_byte(folder: Path) -> None:
    data = (folder / "_metadata").read_bytes()
    assert encode_metadata(decode_metadata(data), metadata_version(data)) == data


JOBS = [folder for folder in GOLDEN if folder.name.startswith("job-")]


@pytest.mark.parametrize("folder", JOBS, ids=lambda folder: folder.name)
def test_operators_have_the_ids_that_we_compute_from_their_uids(folder: Path) -> None:
    operators = decode_metadata((folder / "_metadata").read_bytes()).operators
    by_uid = {operator.uid: operator.operator for operator in operators if operator.uid is not None}
    assert by_uid == {uid: operator_id(uid) for uid in by_uid}
    assert {"numbers", "count", "lists"} <= by_uid.keys()
