"""Metadata files that we wrote are loaded by Flink's classes: run by ``make test-flink``, which needs Java and Maven.

Flink's view of each file must be ours to the last field, and what it stores again must be what we wrote.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from tests.compatibility.flink.flink_view import flink_view
from tests.unit.inspect.checkpoints import orders_checkpoint, orders_savepoint
from tests.unit.serde.metadata.strategies import versioned_metadata

from moorage.ids import Attempt, CheckpointId, ExchangeId, OperatorUid
from moorage.serde.metadata import decode_metadata, encode_metadata
from moorage.serde.positions import encode_positions
from moorage.state.handles import (
    NO_OFFSET,
    ByteStreamHandle,
    ChannelContent,
    DistributionMode,
    FileHandle,
    HandleAndLocalPath,
    IncrementalKeyedHandle,
    InputChannelHandle,
    InputHandle,
    KeyGroupsHandle,
    MergedInputChannelHandle,
    OperatorStreamHandle,
    SegmentHandle,
    StateMetaInfo,
)
from moorage.state.key_groups import key_group_range
from moorage.state.operator_ids import operator_id
from moorage.state.operator_state import CheckpointMetadata, MasterState, OperatorState, OperatorSubtaskState
from moorage.state.positions import ExchangePositions, InputPositions

JAVA = Path(__file__).parent / "java"

NUMBER_OF_RANDOM_FILES = 300


def load(folder: Path, files: Iterable[bytes]) -> list[dict[str, Any]]:
    """What Flink makes of each file."""
    paths = []
    for number, data in enumerate(files):
        path = folder / str(number) / "_metadata"
        path.parent.mkdir()
        path.write_bytes(data)
        paths.append(str(path))
    classpath = f"{JAVA}/target/classes:{JAVA}/target/libs/*"
    command = ["java", "-cp", classpath, "moorage.LoadMetadata", *paths]
    loaded = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return [loaded[path] for path in paths]


@pytest.mark.parametrize("version", [2, 3, 4, 5, 6])
def test_flink_loads_a_checkpoint_of_ours(tmp_path: Path, version: int) -> None:
    metadata = our_checkpoint(version)
    data = encode_metadata(metadata, version)
    (loaded,) = load(tmp_path, [data])
    assert loaded["metadata"] == flink_view(version, metadata)
    # Flink no longer writes version 2.
    assert loaded["sameBytes"] == (version > 2)


@pytest.mark.parametrize("written", [orders_checkpoint, orders_savepoint])
def test_flink_loads_what_a_job_of_ours_wrote(tmp_path: Path, written: Callable[[Path], Path]) -> None:
    data = (written(tmp_path / "storage") / "_metadata").read_bytes()
    (tmp_path / "files").mkdir()
    (loaded,) = load(tmp_path / "files", [data])
    # Not the same bytes: our backends give handles no ids, so Flink gives them some.
    assert loaded["metadata"] == flink_view(6, decode_metadata(data))


def test_flink_loads_metadata_of_every_shape(tmp_path: Path) -> None:
    expected: list[tuple[int, CheckpointMetadata]] = []

    @settings(
        max_examples=NUMBER_OF_RANDOM_FILES,
        database=None,
        derandomize=True,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(versioned_metadata)
    def collect(versioned: tuple[int, CheckpointMetadata]) -> None:
        expected.append(versioned)

    collect()
    loaded = load(tmp_path, [encode_metadata(metadata, version) for version, metadata in expected])
    for result, (version, metadata) in zip(loaded, expected, strict=True):
        assert result.get("metadata") == flink_view(version, metadata), result


def our_checkpoint(version: int) -> CheckpointMetadata:
    """As our coordinator would write it; with what the version has room for."""
    uid = OperatorUid("totals")
    path = "orders/chk-12/totals-{}-a1-state"
    subtasks = {
        subtask: OperatorSubtaskState(
            managed_operator=(
                OperatorStreamHandle(
                    {"offsets": StateMetaInfo((0,), DistributionMode.UNION)},
                    ByteStreamHandle("offsets", b"\x01offsets of partitions"),
                ),
            ),
            managed_keyed=tuple(
                KeyGroupsHandle(
                    key_groups=(groups := key_group_range(32, 2, subtask)),
                    offsets=tuple(NO_OFFSET if group % 3 else 100 * group for group in groups.groups()),
                    stream=stream,
                    handle_id=f"{stream.path}",
                )
                for stream in (
                    FileHandle(f"orders/shared/3-{path.format(subtask)}", 5000),
                    FileHandle(path.format(subtask), 200, f"totals-{subtask}-a1-state"),
                    SegmentHandle("orders/chk-12/merged-w+1-3-a1-state.90ab", 17, 40, False, "xxh3-00112233445566aa"),
                    SegmentHandle("orders/shared/12-merged-w+1-4-a1-state.90ab", 0, 9, True, "xxh3-0011223344556677"),
                )
            ),
            raw_keyed=(
                IncrementalKeyedHandle(
                    backend_id="e3b2f9f0-1f55-4b40-9d3c-9f3e6c0a51f5",
                    checkpoint=CheckpointId(12),
                    key_groups=key_group_range(32, 2, subtask),
                    shared=(HandleAndLocalPath("000012.sst", FileHandle("orders/shared/9-x", 70)),),
                    private=(HandleAndLocalPath("CURRENT", ByteStreamHandle("CURRENT", b"MANIFEST")),),
                    metadata=ByteStreamHandle("meta", b"{}"),
                    written_bytes=70,
                    handle_id="sst",
                ),
            ),
            input_channel=_channels(version, subtask),
        )
        for subtask in range(2)
    }
    running = OperatorState(
        operator=operator_id(uid),
        uid=uid,
        name="Totals",
        parallelism=3,
        max_parallelism=32,
        subtasks=subtasks if version == 2 else {**subtasks, 2: OperatorSubtaskState(finished=True)},
        coordinator=None if version == 2 else ByteStreamHandle("coordinator", b"splits"),
    )
    done = OperatorState(
        operator=operator_id(OperatorUid("orders")),
        uid=OperatorUid("orders"),
        name="Orders",
        parallelism=1,
        max_parallelism=1,
        subtasks={},
        fully_finished=version > 2,
    )
    return CheckpointMetadata(
        checkpoint=CheckpointId(12),
        operators=(running, done),
        master_states=(MasterState(name="moorage.origin", version=1, data=b'{"job":"orders"}'),),
        savepoint=version == 5,
    )


def _channels(version: int, subtask: int) -> tuple[InputHandle, ...]:
    """Positions in the exchange log, inline."""
    attempts = (Attempt(1), Attempt(2))
    part = ExchangePositions(ExchangeId("orders--totals"), (4, 4), attempts, (0, 1), (17, 12), (True, False))
    positions = ByteStreamHandle("positions", encode_positions(InputPositions((part,))))
    if version == 2:
        return ()
    single = InputChannelHandle(subtask, 0, 1, (0,), positions.size_bytes, positions)
    if version < 6:
        return (single,)
    return (single, MergedInputChannelHandle(subtask, (ChannelContent(0, 2, (3, 4), 5),), 5, positions))
