"""What a whole job leaves in its storage after a run with faults: every retained checkpoint and savepoint is whole, and
its rows can be read without the pipeline."""

from __future__ import annotations

from pathlib import Path

import moorage as mo
from moorage.inspect.checkpoint import open_checkpoint
from moorage.inspect.describe import describe
from moorage.inspect.verify import verify
from moorage.testing.simulation import Simulation, SimulationConfig


def test_checkpoints_and_savepoints_can_be_inspected(tmp_path: Path) -> None:
    simulation = Simulation(1, SimulationConfig(orders=100, faults_ms=1_500))
    simulation.run()
    retained = [r.metadata_path for j in simulation.registry.jobs() for r in simulation.registry.checkpoints(j.job)]
    assert retained
    for path in simulation.storage.paths():
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(simulation.storage.read(path))
    for path in retained:
        checkpoint = open_checkpoint(str(tmp_path / path))
        assert checkpoint.intact
        assert verify(checkpoint).damaged == []
        report = describe(checkpoint)
        assert not [line for o in report.operators for task in o.subtasks for line in task.unreadable]
        for row in mo.read_state(str(tmp_path / path), "totals"):
            assert row["count"] > 0
