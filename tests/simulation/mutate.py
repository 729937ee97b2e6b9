"""Put each deliberate fault of ``mutations/`` into a copy of the library, and see which seed notices it::

    python -m tests.simulation.mutate --seeds 2000

A fault that no seed notices is one that nobody would notice: then the simulation must learn something. A patch that
does not apply any more must be made anew, or go with the code that it was for.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import moorage
from moorage.serde.schemas import schemas_folder

LIBRARY = Path(moorage.__file__).parent
PATCHES = sorted(Path(__file__).parent.glob("mutations/*.patch"))
HARD = sorted(Path(__file__).parent.glob("mutations/hard/*.patch"))
"""Not seen to be caught within a hundred seeds: unit tests catch them, or nothing but patience will."""


class Caught(NamedTuple):
    seed: int
    message: str


def mutate(patch: Path, seeds: int, start: int = 0) -> Caught | None:
    """The first of ``seeds`` seeds that notices the fault; None: none does."""
    with tempfile.TemporaryDirectory(prefix="moorage-mutation-") as folder:
        shutil.copytree(LIBRARY, Path(folder, "libs", "moorage"), ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree(schemas_folder(), Path(folder, "schemas"))
        subprocess.run(["git", "apply", str(patch)], cwd=folder, check=True)
        command = [sys.executable, "-m", "moorage.testing.simulate", "--jobs", "1", "--until-failure"]
        done = subprocess.run(
            [*command, "--seeds", str(seeds), "--start", str(start)],
            env={**os.environ, "PYTHONPATH": str(Path(folder, "libs")), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
        )
    if done.returncode == 0:
        return None
    found = re.search(r"^seed (\d+): (.*)$", done.stdout, re.MULTILINE)
    if found is None:
        raise RuntimeError(f"{patch.stem} breaks the simulation itself:\n{done.stdout}\n{done.stderr}")
    return Caught(int(found[1]), found[2])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, default=2_000, help="at most so many for each (default %(default)s)")
    parser.add_argument("--only", default="", help="those whose name has this in it")
    options = parser.parse_args()
    missed = 0
    for patch in (*PATCHES, *HARD):
        if options.only in patch.stem:
            started = time.monotonic()
            caught = mutate(patch, options.seeds)
            missed += caught is None
            what = (
                f"missed by {options.seeds} seeds" if caught is None else f"seed {caught.seed}: {caught.message:.100}"
            )
            print(f"{patch.stem}: {what} ({time.monotonic() - started:.0f} s)", flush=True)
    return min(missed, 1)


if __name__ == "__main__":
    sys.exit(main())
