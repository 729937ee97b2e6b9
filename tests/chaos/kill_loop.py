"""``make chaos ROUNDS=20``: real processes killed, stopped and changed at random under load; an oracle judges it.

    python -m tests.chaos.kill_loop [--rounds 20] [--seed 1] [--workers 2] [--rate 2000] [--json]
        [--set checkpoint.unaligned=true] [--rescale] [--savepoints] [--failpoints] [--hogs 2]

Each round does one thing, waits until results of later orders are committed, says what the oracle has seen so far, and
goes on for a moment. A stopped
worker or coordinator wakes up after its replacement works: a zombie; Kafka and Redis just hang. ``--rescale`` goes 2,
3, 1, 4 and around; ``--savepoints`` takes savepoints, and stops the job with one and starts it again from there;
``--failpoints`` has a worker kill itself at a named point, again and again for some seconds; ``--hogs`` are processes
that do nothing but use the CPU. Exits with 1 when anything is lost, doubled, corrupt or out of order.
"""

from __future__ import annotations

import argparse
import itertools
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table
from tests.chaos.battle import Battle

from moorage.testing.oracle import OracleReport
from moorage_cli.embedded.stack import Stack

STOP_S = 8.0
"""Longer than the heartbeat timeout."""
FAILING_S = 4.0
FAILPOINTS = (
    "after-barrier-before-snapshot",
    "after-snapshot-before-upload",
    "after-flush-before-ack",
    "before-sink-commit",
    "after-sink-commit",
    "after-claim-before-fence",
    "after-fence-before-markers",
)
PARALLELISMS = (3, 1, 4, 2)
KILLS = ("worker", "worker", "coordinator", "both", "stop", "stop", "cleaner", "all", "redis", "kafka")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rate", type=int, default=2_000)
    parser.add_argument("--set", action="append", default=[], dest="settings", metavar="PART.NAME=VALUE")
    parser.add_argument("--rescale", action="store_true")
    parser.add_argument("--savepoints", action="store_true")
    parser.add_argument("--failpoints", action="store_true")
    parser.add_argument("--hogs", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    console = Console(stderr=True)
    rounds: list[Round] = []
    actions = [
        *KILLS,
        *(["rescale"] * 4 if arguments.rescale else []),
        *(["savepoint", "restore", "restore"] if arguments.savepoints else []),
        *(["failpoint"] * 3 if arguments.failpoints else []),
    ]
    with (
        tempfile.TemporaryDirectory(prefix="moorage-chaos-") as folder,
        hogs(arguments.hogs),
        Stack(Path(folder), workers=arguments.workers) as stack,
        Battle(stack, rate=arguments.rate, seed=arguments.seed, settings=arguments.settings) as battle,
    ):
        harm = Harm(rng, stack, battle, arguments.workers)
        for number in range(1, arguments.rounds + 1):
            battle.run(rng.uniform(0.2, 3.0))
            what = harm.do(rng.choice(actions))
            seconds = battle.wait_for_last()
            done = Round(what=what, seconds=seconds, attempt=battle.job().attempt, so_far=battle.oracle.report())
            rounds.append(done)
            console.print(f"{number:4}  {done}", highlight=False, soft_wrap=True)
        report = battle.finish()
    if arguments.json:
        print(msgspec.json.encode({"rounds": rounds, "oracle": report}).decode())
    else:
        Console().print(summary(rounds))
        table = Table(title=f"{arguments.rounds} rounds, seed {arguments.seed}")
        for name in ("inputs", "outputs", "lost", "duplicated", "out_of_order", "corrupt"):
            table.add_column(name, justify="right")
        table.add_row(*(f"{getattr(report, name):,}" for name in report.__struct_fields__[:6]))
        Console().print(table)
    return 0 if report.exactly_once else 1


class Round(msgspec.Struct, frozen=True, kw_only=True):
    what: str
    seconds: float
    """Until results of later orders were committed."""
    attempt: int
    so_far: OracleReport
    """What is lost can only be known in the end: until then it may be under way."""

    @property
    def wrong(self) -> int:
        """Results that should not be there, since the beginning."""
        return self.so_far.duplicated + self.so_far.out_of_order + self.so_far.corrupt

    def __str__(self) -> str:
        seen = self.so_far
        return (
            f"{self.what:<44} {self.seconds:6.1f} s  attempt {self.attempt:<4}"
            f" {seen.inputs:>9,} in {seen.outputs:>9,} out "
            f" doubled {seen.duplicated}, out of order {seen.out_of_order}, corrupt {seen.corrupt}"
        )


def summary(rounds: list[Round]) -> Table:
    """Per kind of round how often, how long until new results were committed, and in how many something went wrong."""
    table = Table(title="until results of later orders were committed")
    for name in ("round", "times", "median s", "longest s", "wrong", "rate"):
        table.add_column(name, justify="left" if name == "round" else "right")
    kinds: dict[str, list[tuple[float, bool]]] = {}
    before = 0
    for done in rounds:
        kinds.setdefault(re.sub(r"-?\d[\d.]*", "", done.what), []).append((done.seconds, done.wrong > before))
        before = done.wrong
    everything = [result for results in kinds.values() for result in results]
    for kind, results in [*sorted(kinds.items()), ("all", everything)]:
        seconds = [duration for duration, _ in results]
        wrong = sum(is_wrong for _, is_wrong in results)
        table.add_row(
            kind,
            str(len(results)),
            f"{statistics.median(seconds):.1f}",
            f"{max(seconds):.1f}",
            str(wrong),
            f"{wrong / len(results):.1%}",
        )
    return table


@contextmanager
def hogs(number: int) -> Iterator[None]:
    """Processes that use the CPU that others want."""
    with ExitStack() as stack:
        for _ in range(number):
            process = stack.enter_context(subprocess.Popen([sys.executable, "-c", "while True: pass"]))
            stack.callback(process.kill)
        yield


class Harm:
    """What can be done to a running job."""

    def __init__(self, rng: random.Random, stack: Stack, battle: Battle, workers: int) -> None:
        self._rng = rng
        self._stack = stack
        self._battle = battle
        self._workers = [f"worker-{number}" for number in range(workers)]
        self._parallelisms = itertools.cycle(PARALLELISMS)

    def do(self, action: str) -> str:
        """Do it once; what it was, in words."""
        rng, stack, battle, workers = self._rng, self._stack, self._battle, self._workers
        match action:
            case "worker":
                battle.kill(name := rng.choice(workers))
                return f"kill {name}"
            case "coordinator":
                battle.kill("coordinator")
                return "kill coordinator"
            case "both":
                battle.kill(name := rng.choice(workers), "coordinator")
                return f"kill {name} and coordinator"
            case "cleaner":
                battle.kill("cleaner")
                return "kill cleaner"
            case "stop":
                name = rng.choice([*workers, *workers, "coordinator", "coordinator", "cleaner", "redis", "kafka"])
                seconds = rng.choice((0.5, STOP_S))
                battle.kill(name, number=signal.SIGSTOP)
                battle.run(seconds)
                stack.kill(name, signal.SIGCONT)
                return f"stop {name} for {seconds} s"
            case "all":
                battle.kill(*workers, "coordinator", "cleaner")
                return "kill all services"
            case "rescale":
                battle.rescale(parallelism := next(self._parallelisms))
                return f"rescale to {parallelism}"
            case "savepoint":
                battle.savepoint()
                return "take a savepoint"
            case "restore":
                battle.stop_and_restore()
                return "stop with a savepoint, restore"
            case "failpoint":
                return self._fail_at(rng.choice(FAILPOINTS), rng.choice(workers))
            case server:
                battle.kill(server)
                time.sleep(rng.uniform(0.1, 3.0))
                stack.start_server(server)
                return f"kill {server}"

    def _fail_at(self, point: str, worker: str) -> str:
        self._stack.restart(worker, {"MOORAGE_FAILPOINT": point})
        self._battle.run(FAILING_S)
        self._battle.mark(f"{worker} at {point}")
        self._stack.restart(worker)
        return f"{worker} dies {point}"


if __name__ == "__main__":
    sys.exit(main())
