"""``make chaos ROUNDS=20``: random SIGKILL and SIGSTOP of real processes under load, judged by the oracle at the end.

    python tests/chaos/kill_loop.py [--rounds 20] [--seed 1] [--workers 2] [--rate 2000] [--backend rocksdb] [--json]

Each round hits something, waits until results of later orders are committed, and goes on for a moment. A stopped
process wakes up after its replacement works: a zombie. Exits with 1 when anything is lost, doubled, corrupt or out of
order.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table
from tests.chaos.battle import Battle

from moorage_cli.embedded.stack import Stack

STOP_S = 8.0
"""Longer than the heartbeat timeout."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rate", type=int, default=2_000)
    parser.add_argument("--backend", choices=("memory", "rocksdb"), default="memory")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    console = Console(stderr=True)
    rounds: list[tuple[str, float, int]] = []
    with (
        tempfile.TemporaryDirectory(prefix="moorage-chaos-") as folder,
        Stack(Path(folder), workers=arguments.workers) as stack,
        Battle(stack, rate=arguments.rate, seed=arguments.seed, backend=arguments.backend) as battle,
    ):
        for number in range(1, arguments.rounds + 1):
            battle.run(rng.uniform(0.2, 3.0))
            what = one_round(rng, stack, battle, arguments.workers)
            seconds = battle.wait_for_last()
            rounds.append((what, seconds, battle.job().attempt))
            console.print(f"{number:4}  {what:<40} {seconds:6.1f} s  attempt {battle.job().attempt}")
        report = battle.finish()
    if arguments.json:
        print(msgspec.json.encode({"rounds": rounds, "oracle": msgspec.to_builtins(report)}).decode())
    else:
        table = Table(title=f"{arguments.rounds} rounds, seed {arguments.seed}")
        for name in ("inputs", "outputs", "lost", "duplicated", "out_of_order", "corrupt"):
            table.add_column(name, justify="right")
        table.add_row(*(f"{getattr(report, name):,}" for name in report.__struct_fields__[:6]))
        Console().print(table)
    return 0 if report.exactly_once else 1


def one_round(rng: random.Random, stack: Stack, battle: Battle, workers: int) -> str:
    """Do harm once; what it was."""
    names = [f"worker-{number}" for number in range(workers)]
    match rng.choice(("worker", "worker", "coordinator", "both", "stop", "stop", "cleaner", "all", "redis", "kafka")):
        case "worker":
            battle.kill(name := rng.choice(names))
            return f"kill {name}"
        case "coordinator":
            battle.kill("coordinator")
            return "kill coordinator"
        case "both":
            battle.kill(name := rng.choice(names), "coordinator")
            return f"kill {name} and coordinator"
        case "cleaner":
            battle.kill("cleaner")
            return "kill cleaner"
        case "stop":
            name = rng.choice([*names, "coordinator"])
            seconds = rng.choice((0.5, STOP_S))
            battle.kill(name, number=signal.SIGSTOP)
            battle.run(seconds)
            stack.kill(name, signal.SIGCONT)
            return f"stop {name} for {seconds} s"
        case "all":
            battle.kill(*names, "coordinator", "cleaner")
            return "kill all services"
        case server:
            battle.kill(server)
            time.sleep(rng.uniform(0.1, 3.0))
            stack.start_server(server)
            return f"kill {server}"


if __name__ == "__main__":
    sys.exit(main())
