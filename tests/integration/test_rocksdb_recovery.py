"""The main job with its state in RocksDB, on real processes that are killed at random points of their checkpoints."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.chaos.battle import Battle

from moorage_cli.embedded.stack import Stack

ROUNDS = 3


@pytest.mark.kafka
@pytest.mark.timeout(420)
def test_workers_that_are_killed_go_on_from_the_tables_of_the_last_checkpoint(tmp_path: Path) -> None:
    state_dir = tmp_path / "state"
    env = {
        "MOORAGE_COORDINATOR_WORKER_HEARTBEAT_TIMEOUT_MS": "3000",
        "MOORAGE_WORKER_STATE_DIR": str(state_dir),
        "MOORAGE_WORKER_STATE_MEMORY_BYTES": str(16 << 20),
    }
    with (
        Stack(tmp_path / "stack", workers=2, env=env) as stack,
        Battle(stack, settings=["state.backend=rocksdb"]) as battle,
    ):
        battle.run(3)
        assert list(state_dir.glob("rocksdb-*/*/db/CURRENT")), "state lies where the setting says"
        for number in range(ROUNDS):
            battle.recovered(battle.kill(f"worker-{number % 2}"))
            battle.run(1.5)
        battle.recovered(battle.kill("worker-0", "worker-1"))
        report = battle.finish()
        assert list((tmp_path / "stack").rglob("shared/*")), "checkpoints share tables"
    assert report.exactly_once, report
    assert report.inputs == report.outputs > 0
    assert list(state_dir.iterdir()) == [], "a worker that ends leaves nothing"
