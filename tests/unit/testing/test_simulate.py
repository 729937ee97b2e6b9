"""The runner of simulations; what a seed does is tests/simulation's business."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from moorage.testing import simulate
from moorage.testing.simulate import SeedFailure, SeedResult, main
from moorage.testing.simulation import SimulationReport


@pytest.fixture(autouse=True)
def _hear_again() -> Iterator[None]:
    """The runner silences its process for good."""
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Seeds that were run; those that end in 3 fail."""
    seeds: list[int] = []

    def run(seed: int) -> SeedResult:
        seeds.append(seed)
        if seed % 10 == 3:
            return SeedFailure(seed, "InvariantError: lost", "Traceback")
        return SimulationReport(seed=seed, turns=1, faults={"kill": 2})

    monkeypatch.setattr(simulate, "simulate_seed", run)
    return seeds


def test_a_run_goes_on_where_its_file_ends(ran: list[int], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "results.jsonl"
    assert main(["--seeds", "5", "--jobs", "1", "--out", str(out)]) == 1
    assert ran == [0, 1, 2, 3, 4]
    with out.open("ab") as file:
        file.write(b'{"seed":5,"rep')  # killed while writing
    capsys.readouterr()
    assert main(["--seeds", "7", "--jobs", "1", "--out", str(out)]) == 1
    assert ran == [0, 1, 2, 3, 4, 5, 6]
    printed = capsys.readouterr().out
    assert "5 of 7 seeds are in the file already" in printed
    assert "6 turns" in printed
    assert "12 x kill" in printed
    assert "1 failed: 3" in printed
    lines = [msgspec.json.decode(line) for line in out.read_bytes().splitlines()]
    assert [line["seed"] for line in lines] == [0, 1, 2, 3, 4, 5, 6]
    assert lines[3]["failure"]["message"] == "InvariantError: lost"
    assert lines[6]["report"]["faults"] == {"kill": 2}


def test_a_finished_run_is_summed_up_again(ran: list[int], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["--start", "4", "--seeds", "3", "--jobs", "1", "--out", str(tmp_path / "results.jsonl")]
    assert main(command) == 0
    assert main(command) == 0
    assert ran == [4, 5, 6]
    assert capsys.readouterr().out.count("6 x kill") == 2


def test_an_interrupted_run_says_what_it_has(
    monkeypatch: pytest.MonkeyPatch, ran: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    run = simulate.simulate_seed

    def interrupted(seed: int) -> SeedResult:
        if seed == 2:
            raise KeyboardInterrupt
        return run(seed)

    monkeypatch.setattr(simulate, "simulate_seed", interrupted)
    assert main(["--seeds", "5", "--jobs", "1"]) == 130
    assert "2 of 5 seeds" in capsys.readouterr().out
