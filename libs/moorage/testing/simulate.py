"""Simulate many seeds, or replay one::

    python -m moorage.testing.simulate --seeds 10000 --jobs 2
    python -m moorage.testing.simulate --seeds 100000 --out results.jsonl
    python -m moorage.testing.simulate --seed 4711 --verbose

Ends with 1 when a seed fails; each one is printed with the command that replays it. With ``--out`` the result of every
seed is written to a file as it comes, a JSON object a line: ``{"seed": 7, "report": {...}}`` or
``{"seed": 8, "failure": {...}}``. The same command goes on where the file ends, and sums up all that is in it.
"""

from __future__ import annotations

import argparse
import gc
import logging
import os
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import IO

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from moorage.testing.simulation import Simulation, SimulationReport

_CHUNK = 5

_TELL_INTERVAL_S = 60.0
"""How often to say how far it is, where there is no terminal."""


class SeedFailure(msgspec.Struct, frozen=True):
    """A seed that broke an invariant, or a bug of its own."""

    seed: int
    message: str
    trace: str

    @property
    def replay(self) -> str:
        return f"python -m moorage.testing.simulate --seed {self.seed} --verbose"

    def __str__(self) -> str:
        return f"seed {self.seed}: {self.message}\nreplay it: {self.replay}"


SeedResult = SimulationReport | SeedFailure


class _Line(msgspec.Struct, frozen=True, omit_defaults=True):
    """Of a file of results."""

    seed: int
    report: SimulationReport | None = None
    failure: SeedFailure | None = None


class ResultsFile:
    """The results of a run that may be stopped and gone on with, as long as the code stays the same."""

    def __init__(self, path: Path) -> None:
        """What is in the file is in ``known``. A last line that was cut off is written anew."""
        self.known: dict[int, SeedResult] = {}
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        whole = [line for line in lines if line.endswith(b"\n")]
        for line in whole:
            decoded = msgspec.json.decode(line, type=_Line)
            result = decoded.report or decoded.failure
            if result is not None:
                self.known[decoded.seed] = result
        self._file: IO[bytes] = path.open("ab")
        self._file.truncate(sum(map(len, whole)))

    def add(self, result: SeedResult) -> None:
        if isinstance(result, SeedFailure):
            line = _Line(result.seed, failure=result)
        else:
            line = _Line(result.seed, report=result)
        self._file.write(msgspec.json.encode(line) + b"\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def simulate_seed(seed: int) -> SeedResult:
    """One run. Whatever it raises is the result."""
    collects = gc.isenabled()
    gc.disable()  # a tenth of the time goes into looking for garbage of which there is next to none before the end
    try:
        return Simulation(seed).run()
    except Exception as error:  # noqa: BLE001 - an invariant or a bug: both fail the seed
        return SeedFailure(seed, f"{type(error).__name__}: {error}", traceback.format_exc())
    finally:
        if collects:
            gc.enable()


def simulate(seeds: Sequence[int], jobs: int) -> Iterator[SeedResult]:
    """The results of all seeds, in order, by ``jobs`` processes."""
    if jobs == 1:
        yield from map(simulate_seed, seeds)
        return
    with ProcessPoolExecutor(jobs, initializer=_prepare_process) as pool:
        try:
            yield from pool.map(simulate_seed, seeds, chunksize=_CHUNK)
        finally:
            pool.shutdown(cancel_futures=True)


def _prepare_process() -> None:
    logging.disable()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ^C is for the one that shares the work out


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m moorage.testing.simulate", description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=300, help="how many (default %(default)s)")
    parser.add_argument("--start", type=int, default=0, help="the first one (default %(default)s)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default %(default)s)")
    parser.add_argument("--out", type=Path, help="file of results; seeds that are in it already are not run again")
    parser.add_argument("--until-failure", action="store_true", help="end with the first seed that fails")
    parser.add_argument("--seed", type=int, help="replay this one")
    parser.add_argument("--verbose", action="store_true", help="with --seed: say what happens, in virtual ms")
    options = parser.parse_args(arguments)
    if options.seed is not None:
        return _replay(options.seed, verbose=options.verbose)
    seeds = range(options.start, options.start + options.seeds)
    results = None if options.out is None else ResultsFile(options.out)
    try:
        return _run(seeds, options.jobs, results, until_failure=options.until_failure)
    finally:
        if results is not None:
            results.close()


def _replay(seed: int, *, verbose: bool) -> int:
    console = Console(highlight=False, soft_wrap=True)
    if verbose:
        logging.basicConfig(level=logging.DEBUG, format="%(message)s", stream=sys.stdout)
        logging.raiseExceptions = False  # `| head` closes the pipe
    else:
        logging.disable()
    result = simulate_seed(seed)
    if isinstance(result, SeedFailure):
        console.print(result.trace, markup=False)
        console.print(str(result), markup=False, style="red")
        return 1
    console.print(str(result), markup=False)
    return 0


def _run(seeds: range, jobs: int, results: ResultsFile | None, *, until_failure: bool) -> int:
    logging.disable()
    tally = _Tally(len(seeds))
    known = {} if results is None else results.known
    for seed in seeds:
        if seed in known:
            tally.add(known[seed])
    left = [seed for seed in seeds if seed not in known]
    tally.start()
    interrupted = False
    with tally.progress:
        try:
            for result in simulate(left, jobs):
                if results is not None:
                    results.add(result)
                tally.add(result)
                if until_failure and tally.failures:
                    break
        except KeyboardInterrupt:
            interrupted = True
    tally.tell_end()
    return 130 if interrupted else min(1, len(tally.failures))


class _Tally:
    """What came out so far, and how to say it."""

    def __init__(self, seeds: int) -> None:
        self.console = Console(highlight=False, soft_wrap=True)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self.progress = Progress(*columns, console=self.console, disable=not self.console.is_terminal)
        self.failures: list[SeedFailure] = []
        self._seeds = seeds
        self._task = self.progress.add_task("simulating", total=seeds, rate="")
        self._reports: list[SimulationReport] = []
        self._known = 0
        self._started_s = self._told_s = time.monotonic()

    @property
    def _done(self) -> int:
        return len(self._reports) + len(self.failures)

    @property
    def _rate(self) -> float:
        """Seeds per second."""
        return (self._done - self._known) / max(time.monotonic() - self._started_s, 0.001)

    def start(self) -> None:
        """What was added up to now was known before."""
        self._known = self._done
        self._started_s = self._told_s = time.monotonic()
        if self._known:
            self.console.print(f"{self._known} of {self._seeds} seeds are in the file already", markup=False)

    def add(self, result: SeedResult) -> None:
        if isinstance(result, SeedFailure):
            self.failures.append(result)
            self.console.print(str(result), markup=False, style="red")
            self.progress.update(self._task, description=f"simulating ({len(self.failures)} failed)")
        else:
            self._reports.append(result)
        self.progress.update(self._task, completed=self._done, rate=f"{self._rate:.1f}/s")
        if not self.console.is_terminal and time.monotonic() - self._told_s >= _TELL_INTERVAL_S:
            self._told_s = time.monotonic()
            left_min = (self._seeds - self._done) / max(self._rate, 0.001) / 60
            self.console.print(
                f"{self._done} of {self._seeds} seeds, {len(self.failures)} failed, {self._rate:.1f} seeds/s,"
                f" {left_min:.0f} min left",
                markup=False,
            )

    def tell_end(self) -> None:
        ran = self._done - self._known
        times = os.times()
        cpu_s = times.user + times.system + times.children_user + times.children_system
        took = f"{time.monotonic() - self._started_s:.0f} s"
        if ran:
            took += f", {cpu_s / ran:.2f} CPU s a seed"
        self.console.print(f"{self._done} of {self._seeds} seeds in {took}: {summary(self._reports)}", markup=False)
        if self.failures:
            failed = " ".join(str(failure.seed) for failure in self.failures)
            self.console.print(f"{len(self.failures)} failed: {failed}", style="red")


def summary(reports: Iterable[SimulationReport]) -> str:
    """What happened in all runs together, in one line."""
    totals: Counter[str] = Counter()
    for report in reports:
        totals.update(report.counts())
    return ", ".join(f"{count} {what}" for what, count in totals.items())


if __name__ == "__main__":
    sys.exit(main())
