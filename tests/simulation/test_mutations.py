"""The simulation can fail: each fault of ``mutations/`` is caught within a few seeds.

Which seed catches one is luck, so more are allowed than were needed. ``mutate`` reports which.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.simulation.mutate import PATCHES, mutate

from moorage.testing.simulate import main
from moorage.testing.simulation import Simulation

SEEDS = 300


@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.stem)
def test_a_fault_is_caught(patch: Path) -> None:
    caught = mutate(patch, SEEDS)
    assert caught is not None, f"{SEEDS} seeds did not notice that {patch.stem.replace('-', ' ')}"
    print(caught)


def test_a_failing_seed_is_printed_with_how_to_replay_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(self: Simulation) -> bool:
        raise AssertionError(f"seed {self.seed} is told to fail")

    monkeypatch.setattr(Simulation, "_is_finished", fail)
    assert main(["--seeds", "3", "--jobs", "1", "--until-failure"]) == 1
    printed = capsys.readouterr().out
    assert "seed 0: AssertionError: seed 0 is told to fail" in printed
    assert "replay it: python -m moorage.testing.simulate --seed 0 --verbose" in printed
    assert "1 failed: 0" in printed
    assert main(["--seed", "0"]) == 1
    assert "Traceback" in capsys.readouterr().out
