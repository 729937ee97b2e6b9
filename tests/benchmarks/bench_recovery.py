"""From SIGKILL of a worker to the next committed output, and where the time goes.

    python -m tests.benchmarks.bench_recovery [--kills 8] [--rows 100000] [--rate 2000] [--set state.backend=rocksdb]

Running totals with ``rows`` rows of state and a checkpoint every second, on two workers with room for all of it on one.
The parts are the coordinator's own (``moorage_coordinator_recovery_phase_seconds``).
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import sys
import tempfile
from pathlib import Path

import httpx
import msgspec
from rich.console import Console
from rich.table import Table
from tests.chaos.battle import Battle

from moorage_cli.embedded.stack import Stack

PHASES = ("detection", "decision", "deploy", "restore", "first_commit")
_SUM = re.compile(r'moorage_coordinator_recovery_phase_seconds_sum\{.*phase="(\w+)".*\} ([0-9.e+-]+)')


def phases(stack: Stack) -> dict[str, float]:
    """Seconds so far, by phase."""
    return {name: float(value) for name, value in _SUM.findall(httpx.get(stack.metrics_urls["coordinator"]).text)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=8)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--rate", type=int, default=2_000)
    parser.add_argument("--set", action="append", default=[], dest="settings", metavar="PART.NAME=VALUE")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rounds: list[dict[str, float]] = []
    with (
        tempfile.TemporaryDirectory(prefix="moorage-recovery-") as folder,
        Stack(Path(folder), workers=2) as stack,
        Battle(stack, rate=arguments.rate, users=arguments.rows, settings=arguments.settings) as battle,
    ):
        battle.fill()
        for number in range(arguments.kills):
            battle.run(4)
            before = phases(stack)
            kill = battle.kill(f"worker-{number % 2}")
            total_s = battle.recovered(kill)
            battle.wait(
                lambda known=before: phases(stack).get("first_commit", 0) > known.get("first_commit", 0), "phases"
            )
            after = phases(stack)
            rounds.append({"total": total_s, **{p: after.get(p, 0.0) - before.get(p, 0.0) for p in PHASES}})
            Console(stderr=True).print(f"{number + 1}: {total_s:.2f} s", highlight=False)
        report = battle.finish()
    if arguments.json:
        print(msgspec.json.encode({"rounds": rounds, "oracle": msgspec.to_builtins(report)}).decode())
    else:
        table = Table(title=f"{arguments.kills} kills, {arguments.rows:,} rows, load {os.getloadavg()[0]:.1f}")
        for name in ("part", "median s", "longest s"):
            table.add_column(name, justify="left" if name == "part" else "right")
        for part in (*PHASES, "total"):
            values = [measured[part] for measured in rounds]
            table.add_row(part, f"{statistics.median(values):.2f}", f"{max(values):.2f}")
        Console().print(table)
    return 0 if report.exactly_once else 1


if __name__ == "__main__":
    sys.exit(main())
