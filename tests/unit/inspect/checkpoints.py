"""Checkpoints of ours in a folder, as a job leaves them there."""

from __future__ import annotations

from pathlib import Path

from tests.unit.task.harness import Harness, orders_pipeline

from moorage.coordinator_process.origin import seal, with_origin
from moorage.ids import Attempt, JobId
from moorage.serde.metadata import decode_metadata, encode_metadata
from moorage.state.operator_state import CheckpointMetadata, CheckpointOrigin

TRIGGERED_MS = 1_763_800_000_000
ORIGIN = CheckpointOrigin(job=JobId("orders"), attempt=Attempt(1), triggered_ms=TRIGGERED_MS)
USERS = 40


def orders_checkpoint(root: Path, checkpoints: int = 2) -> Path:
    """Run the orders pipeline through some checkpoints; the folder of the last one below ``root``.

    Each user orders once before each checkpoint, for 1.5.
    """
    harness = Harness(orders_pipeline())
    harness.started()
    for _ in range(checkpoints):
        harness.produce([(f"user-{number}", 1.5) for number in range(USERS)])
        harness.run(40)
        harness.checkpoint_now()
    for path in harness.storage.paths():
        data = harness.storage.read(path)
        if path.endswith("/_metadata"):
            data = seal(encode_metadata(with_origin(decode_metadata(data), ORIGIN)))
        write(root / path, data)
    return root / "orders" / f"chk-{checkpoints}"


def write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def write_metadata(folder: Path, metadata: CheckpointMetadata, version: int = 6) -> Path:
    """With the checksum that it asks for."""
    data = encode_metadata(metadata, version)
    write(folder / "_metadata", seal(data) if metadata.master_states else data)
    return folder
