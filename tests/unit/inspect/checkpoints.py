"""Checkpoints of ours in a folder, as a job leaves them there."""

from __future__ import annotations

from pathlib import Path

from msgspec.structs import replace
from tests.unit.task.harness import EPOCH, Harness, orders_pipeline

from moorage.coordinator_process.origin import seal, with_origin
from moorage.ids import Attempt, CheckpointId, JobId
from moorage.messages.barriers import SnapshotKind, SnapshotOptions
from moorage.messages.commands import TriggerCheckpoint
from moorage.naming import metadata_path
from moorage.serde.metadata import decode_metadata, encode_metadata
from moorage.state.operator_state import CheckpointMetadata, CheckpointOrigin

TRIGGERED_MS = 1_763_800_000_000
ORIGIN = CheckpointOrigin(job=JobId("orders"), attempt=Attempt(1), triggered_ms=TRIGGERED_MS)
USERS = 40


def orders_checkpoint(root: Path, checkpoints: int = 2) -> Path:
    """Run the orders pipeline through some checkpoints; the folder of the last one below ``root``.

    Each user orders once before each checkpoint, for 1.5.
    """
    harness = _run(checkpoints)
    _copy(harness, root)
    return root / "orders" / f"chk-{checkpoints}"


def orders_savepoint(root: Path) -> Path:
    """The same after one checkpoint, and then a canonical savepoint: its folder."""
    harness = _run(1)
    folder = "orders/savepoints/savepoint-orders-1"
    harness.checkpoint += 1
    savepoint = CheckpointId(harness.checkpoint)
    harness.send(
        TriggerCheckpoint(
            epoch=EPOCH,
            job=ORIGIN.job,
            attempt=Attempt(harness.attempt),
            checkpoint=savepoint,
            triggered_ms=TRIGGERED_MS,
            base=CheckpointId(0),
            options=SnapshotOptions(kind=SnapshotKind.SAVEPOINT, location=folder),
        )
    )
    harness.run(40)
    harness.finalize(savepoint, notify=False)
    metadata = decode_metadata(harness.storage.read(metadata_path(ORIGIN.job, savepoint)))
    harness.storage.write(f"{folder}/_metadata", encode_metadata(replace(metadata, savepoint=True)))
    _copy(harness, root)
    return root / folder


def _run(checkpoints: int) -> Harness:
    harness = Harness(orders_pipeline())
    harness.started()
    for _ in range(checkpoints):
        harness.produce([(f"user-{number}", 1.5) for number in range(USERS)])
        harness.run(40)
        harness.checkpoint_now()
    return harness


def _copy(harness: Harness, root: Path) -> None:
    for path in harness.storage.paths():
        data = harness.storage.read(path)
        if path.endswith("/_metadata"):
            data = seal(encode_metadata(with_origin(_in_order(decode_metadata(data)), ORIGIN)))
        write(root / path, data)


def _in_order(metadata: CheckpointMetadata) -> CheckpointMetadata:
    """As a coordinator writes it; the harness has subtasks in the order of their acknowledgements."""
    operators = tuple(replace(o, subtasks=dict(sorted(o.subtasks.items()))) for o in metadata.operators)
    return replace(metadata, operators=operators)


def write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def write_metadata(folder: Path, metadata: CheckpointMetadata, version: int = 6) -> Path:
    """With the checksum that it asks for."""
    data = encode_metadata(metadata, version)
    write(folder / "_metadata", seal(data) if metadata.master_states else data)
    return folder
