"""Whole jobs under faults: 500 seeds, in chunks that pytest-xdist can spread. `make simulate SEEDS=10000` runs more."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from tests.simulation.regressions import SEEDS

from moorage.testing.simulate import SeedFailure, simulate_seed

COUNT = 500
CHUNK = 10


@pytest.mark.parametrize("first", range(0, COUNT, CHUNK))
def test_no_seed_breaks_an_invariant(first: int) -> None:
    results = [simulate_seed(seed) for seed in range(first, first + CHUNK)]
    failures = [str(result) for result in results if isinstance(result, SeedFailure)]
    assert not failures, "\n".join(failures)


@pytest.mark.parametrize("seed", [seed for seed in SEEDS if seed >= COUNT])
def test_seeds_that_found_a_bug_once(seed: int) -> None:
    result = simulate_seed(seed)
    assert not isinstance(result, SeedFailure), str(result)
    assert result.checkpoints > 0


def test_a_seed_replays_exactly() -> None:
    """In another process too, where sets have another order."""

    def replay(hash_seed: str) -> str:
        command = [sys.executable, "-m", "moorage.testing.simulate", "--seed", "17"]
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout

    first = replay("1")
    assert "digest=" in first
    assert "faults={'" in first
    assert replay("2") == first
