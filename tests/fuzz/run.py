"""Coverage-guided fuzzing with atheris: `make fuzz SECONDS=60 [TARGET=metadata]`.

Each target runs in a process of its own for its share of the time, from the seeds, the findings and what former runs
found worth keeping (``.cache/fuzz``). The first finding of a target ends it: the input is written to its folder of
findings, where `make test` tries it from then on; mend the bug and commit both.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from hashlib import sha1
from pathlib import Path

import atheris

MEMORY_LIMIT_MB = 2_048
INPUT_LIMIT_BYTES = 1 << 16
TIME_LIMIT_S = 10
CORPUS = Path(__file__).parents[2] / ".cache" / "fuzz"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.run", description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="for all targets together")
    parser.add_argument("--one", action="store_true", help="run the named target here, in this process")
    parser.add_argument("targets", nargs="*", metavar="TARGET")
    arguments = parser.parse_args()
    if arguments.one:
        _fuzz(arguments.targets[0], arguments.seconds)
        return 0
    from tests.fuzz.targets import TARGETS

    names = arguments.targets or list(TARGETS)
    if unknown := set(names) - set(TARGETS):
        parser.error(f"no target is called {', '.join(sorted(unknown))}; there are {', '.join(TARGETS)}")
    seconds = max(1, arguments.seconds // len(names))
    failed = []
    for name in names:
        print(f"--- {name}, {seconds} s", flush=True)
        command = [sys.executable, "-m", "tests.fuzz.run", "--one", f"--seconds={seconds}", name]
        if subprocess.run(command, check=False).returncode:
            failed.append(name)
    print(f"findings: {', '.join(failed) or 'none'}")
    return bool(failed)


def _fuzz(name: str, seconds: int) -> None:
    """Does not return."""
    with atheris.instrument_imports(include=["moorage"]):
        from tests.fuzz.targets import FINDINGS, TARGETS
    target = TARGETS[name]
    corpus, seeds, findings = CORPUS / name, CORPUS / "seeds" / name, FINDINGS / name
    for folder in (corpus, seeds, findings):
        folder.mkdir(parents=True, exist_ok=True)
    for seed in target.seeds():
        (seeds / sha1(seed, usedforsecurity=False).hexdigest()).write_bytes(seed)
    options = [
        f"-max_total_time={seconds}",
        f"-max_len={INPUT_LIMIT_BYTES}",
        f"-rss_limit_mb={MEMORY_LIMIT_MB}",
        f"-timeout={TIME_LIMIT_S}",
        f"-artifact_prefix={findings}/",
        "-print_final_stats=1",
        "-verbosity=0",
    ]
    atheris.Setup([sys.argv[0], *options, str(corpus), str(seeds), str(findings)], target.run)
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
