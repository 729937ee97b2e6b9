"""Metadata files that Flink's own classes wrote (see README.md) are read to the last field, and written back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.compatibility.flink.flink_view import flink_view

from moorage.serde.metadata import decode_metadata, encode_metadata, metadata_version

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
