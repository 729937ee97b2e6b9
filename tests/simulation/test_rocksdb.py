"""Whole jobs under faults with their state in RocksDB: killed in the middle of snapshots and uploads, restored from
checkpoints at any parallelism. ROCKSDB_SEEDS: how many."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from moorage.backends.rocksdb_environment import RocksDbEnvironment, RocksDbMemory
from moorage.testing.simulation import Simulation, SimulationConfig


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[RocksDbEnvironment]:
    # So little that rows are written and forgotten all the time.
    memory = RocksDbMemory(rocksdb_bytes=8 << 20, rows_bytes=20_000, dirty_rows_max=3)
    environment = RocksDbEnvironment(tmp_path, memory)
    yield environment
    environment.close()


@pytest.mark.parametrize("seed", range(int(os.environ.get("ROCKSDB_SEEDS", "6"))))
def test_no_seed_breaks_an_invariant(seed: int, environment: RocksDbEnvironment) -> None:
    report = Simulation(seed, SimulationConfig(rocksdb=environment)).run()
    assert report.checkpoints > 0
