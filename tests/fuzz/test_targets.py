"""Every target takes its seeds, every finding of the past, and what hypothesis makes of the seeds."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.fuzz.targets import FINDINGS, TARGETS

INTERESTING_BYTES = [0, 1, 0x7F, 0x80, 0xFF, 0x91, 0xC1, 0xDD]


@pytest.mark.parametrize("name", TARGETS)
def test_seeds(name: str) -> None:
    target = TARGETS[name]
    seeds = list(target.seeds())
    assert seeds
    for seed in seeds:
        target.run(seed)


@pytest.mark.parametrize("finding", sorted(FINDINGS.glob("*/*")), ids=lambda path: f"{path.parent.name}-{path.name}")
def test_findings_of_the_past(finding: Path) -> None:
    TARGETS[finding.parent.name].run(finding.read_bytes())


@st.composite
def damaged(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """A seed with some bytes changed, left out, doubled, or cut off."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, 4))):
        if not data:
            break
        start = draw(st.integers(0, len(data) - 1))
        end = draw(st.integers(start, min(len(data), start + 16)))
        match draw(st.integers(0, 3)):
            case 0:
                data[start] = draw(st.sampled_from(INTERESTING_BYTES) | st.integers(0, 255))
            case 1:
                del data[start:end]
            case 2:
                data[start:start] = data[start:end] + draw(st.binary(max_size=4))
            case _:
                del data[start:]
    return bytes(data)


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_seeds(name: str) -> None:
    target = TARGETS[name]

    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
    @given(damaged(list(target.seeds())) | st.binary(max_size=64))
    def run(data: bytes) -> None:
        target.run(data)

    run()
