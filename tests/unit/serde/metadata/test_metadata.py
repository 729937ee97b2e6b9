from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from tests.unit.serde.metadata.strategies import FOLDER, versioned_metadata

from moorage.errors import CorruptDataError
from moorage.ids import CheckpointId, OperatorId
from moorage.serde.metadata import decode_metadata, encode_metadata, metadata_version
from moorage.state.handles import ChangelogHandle, FileHandle, KeyedHandle, KeyGroupsHandle
from moorage.state.key_groups import KeyGroupRange
from moorage.state.operator_state import CheckpointMetadata, OperatorState, OperatorSubtaskState

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


def test_a_relative_path_is_resolved_against_the_folder_of_the_file() -> None:
    data = encode_metadata(_keyed(KeyGroupsHandle(GROUPS, (0, 1), FileHandle("savepoint-1/state", 5, "state"))))
    for folder in ("savepoint-1", "moved/savepoint-1"):
        expected = _keyed(KeyGroupsHandle(GROUPS, (0, 1), FileHandle(f"{folder}/state", 5, "state")))
        assert decode_metadata(data, folder) == expected
    assert list(decode_metadata(data).paths()) == ["state"]


def test_a_changelog_that_is_no_chain_of_ours_stays_a_changelog() -> None:
    parts = tuple(KeyGroupsHandle(GROUPS, (0, 1), FileHandle(path, 5)) for path in ("base", "delta"))
    chain = ChangelogHandle(GROUPS, parts, (), 0, 0, CheckpointId(0), "moorage.chain")
    assert decode_metadata(encode_metadata(_keyed(chain))) == _keyed(*parts)
    for changelog in (
        replace(chain, handle_id="another"),
        replace(chain, written_bytes=1),
        replace(chain, checkpoint=None),
        replace(chain, materialized=parts[:1]),
        replace(chain, key_groups=KeyGroupRange(0, 5)),
    ):
        assert decode_metadata(encode_metadata(_keyed(changelog))) == _keyed(changelog)


@pytest.mark.parametrize("version", [2, 3, 4])
def test_names_of_operators_are_left_out_where_there_is_no_room(version: int) -> None:
    written = CheckpointMetadata(
        checkpoint=CheckpointId(1), operators=(replace(OPERATOR, name="Totals", uid="totals"),)
    )
    (read,) = decode_metadata(encode_metadata(written, version)).operators
    assert read == OPERATOR


GROUPS = KeyGroupRange(0, 1)
OPERATOR = OperatorState(
    operator=OperatorId("0123456789abcdef" * 2), uid=None, name=None, parallelism=1, max_parallelism=2, subtasks={}
)


def _keyed(*handles: KeyedHandle) -> CheckpointMetadata:
    state = replace(OPERATOR, subtasks={0: OperatorSubtaskState(managed_keyed=handles)})
    return CheckpointMetadata(checkpoint=CheckpointId(1), operators=(state,))
