"""Simulate many seeds, or replay one::

    python -m moorage.testing.simulate --seeds 10000 --jobs 2
    python -m moorage.testing.simulate --seed 4711 --verbose

Ends with 1 when a seed fails; each one is printed with the command that replays it.
"""

from __future__ import annotations

import argparse
import gc
import logging
import os
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from moorage.testing.simulation import Simulation, SimulationReport

_CHUNK = 5


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
    with ProcessPoolExecutor(jobs, initializer=logging.disable) as pool:
        try:
            yield from pool.map(simulate_seed, seeds, chunksize=_CHUNK)
        finally:
            pool.shutdown(cancel_futures=True)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m moorage.testing.simulate", description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=300, help="how many (default %(default)s)")
    parser.add_argument("--start", type=int, default=0, help="the first one (default %(default)s)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default %(default)s)")
    parser.add_argument("--until-failure", action="store_true", help="end with the first seed that fails")
    parser.add_argument("--seed", type=int, help="replay this one")
    parser.add_argument("--verbose", action="store_true", help="with --seed: say what happens, in virtual ms")
    options = parser.parse_args(arguments)
    if options.seed is not None:
        return _replay(options.seed, verbose=options.verbose)
    seeds = range(options.start, options.start + options.seeds)
    return _run(seeds, options.jobs, until_failure=options.until_failure)


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


def _run(seeds: range, jobs: int, *, until_failure: bool) -> int:
    logging.disable()
    console = Console(highlight=False, soft_wrap=True)
    started = time.monotonic()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    failures: list[SeedFailure] = []
    reports: list[SimulationReport] = []
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("simulating", total=len(seeds))
        for result in simulate(seeds, jobs):
            if isinstance(result, SeedFailure):
                failures.append(result)
                progress.console.print(str(result), markup=False, style="red")
                progress.update(task, description=f"simulating ({len(failures)} failed)")
                if until_failure:
                    break
            else:
                reports.append(result)
            progress.advance(task)
    console.print(f"{len(seeds)} seeds in {time.monotonic() - started:.0f} s: {summary(reports)}", markup=False)
    if failures:
        console.print(f"{len(failures)} failed: {' '.join(str(f.seed) for f in failures)}", style="red")
    return 1 if failures else 0


def summary(reports: Iterable[SimulationReport]) -> str:
    """What happened in all runs together, in one line."""
    totals: Counter[str] = Counter()
    for report in reports:
        totals.update(report.counts())
    return ", ".join(f"{count} {what}" for what, count in totals.items())


if __name__ == "__main__":
    sys.exit(main())
