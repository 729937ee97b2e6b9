from __future__ import annotations

from contextlib import suppress

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.unit.serde.metadata.strategies import FOLDER, versioned_metadata

from moorage.errors import CorruptDataError
from moorage.serde.metadata import decode_metadata, encode_metadata, metadata_version
from moorage.state.operator_state import CheckpointMetadata

slow = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


@slow
@given(versioned_metadata)
def test_what_is_written_is_read(versioned: tuple[int, CheckpointMetadata]) -> None:
    version, expected = versioned
    data = encode_metadata(expected, version)
    assert metadata_version(data) == version
    assert decode_metadata(data, FOLDER) == expected


@slow
@given(versioned_metadata, st.data())
def test_what_can_be_read_is_written_back_byte_for_byte_and_the_rest_is_corrupt(
    versioned: tuple[int, CheckpointMetadata], data: st.DataObject
) -> None:
    version, written = versioned
    file = bytearray(encode_metadata(written, version))
    for _ in range(data.draw(st.integers(1, 3))):
        position = data.draw(st.integers(8, len(file) - 1))
        file[position] = data.draw(st.one_of(st.sampled_from([0, 1, 0x7F, 0xFF]), st.integers(0, 255)))
    with suppress(CorruptDataError):
        assert encode_metadata(decode_metadata(bytes(file), FOLDER), version) == file
