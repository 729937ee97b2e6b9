"""The command line as a program: arguments, error lines, exit codes, what goes to which stream."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import moorage

UNREACHABLE = "http://127.0.0.1:1"


def run(*arguments: str, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MOORAGE_")}
    path = os.pathsep.join(str(Path(entry).resolve()) for entry in sys.path if entry)
    return subprocess.run(
        [sys.executable, "-m", "moorage_cli", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=cwd,
        env={**inherited, "PYTHONPATH": path, "NO_COLOR": "1", "COLUMNS": "200", **env},
    )


def test_prints_its_version() -> None:
    result = run("--version")

    assert (result.returncode, result.stdout, result.stderr) == (0, f"moorage {moorage.__version__}\n", "")


def test_lists_its_commands() -> None:
    result = run("--help")

    assert result.returncode == 0
    services, jobs = (
        ("coordinator", "worker", "cleaner"),
        ("submit", "jobs", "cancel", "checkpoints", "checkpoint", "exceptions"),
    )
    for command in ("dev", "demo", *services, "topics", "loadgen", *jobs, "inspect", "clean", "purge"):
        assert f" {command} " in result.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["dev"],
        ["submit"],
        ["jobs", "--nonsense"],
        ["dev", "x:y", "--workers", "0"],
        ["clean"],
        ["clean", "--now", "--dry-run"],
    ],
)
def test_refuses_wrong_arguments_with_2(arguments: list[str]) -> None:
    result = run(*arguments)

    assert result.returncode == 2
    assert result.stdout == ""
    assert "Error" in result.stderr


@pytest.mark.parametrize("arguments", [["jobs"], ["checkpoints", "orders"], ["cancel", "orders"]])
def test_says_in_one_line_who_does_not_answer(arguments: list[str]) -> None:
    result = run(*arguments, MOORAGE_REST_URL=UNREACHABLE)

    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr.startswith(f"moorage: no coordinator answers at {UNREACHABLE}: ")
    assert result.stderr.count("\n") == 1


def test_names_a_pipeline_that_is_not_there() -> None:
    result = run("submit", "nowhere:pipeline", "--rest", UNREACHABLE)

    assert result.returncode == 2
    assert result.stderr.startswith("moorage: module 'nowhere' can't be found")
    assert result.stderr.count("\n") == 1


def test_shows_the_users_own_traceback_first(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("def make():\n    return 1 / 0\n\npipeline = make()\n")

    result = run("submit", "broken:pipeline", "--rest", UNREACHABLE, cwd=tmp_path)

    assert result.returncode == 2
    lines = result.stderr.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[1] == f'  File "{tmp_path / "broken.py"}", line 4, in <module>'
    assert lines[-2] == "ZeroDivisionError: division by zero"
    assert lines[-1] == "moorage: importing broken failed: ZeroDivisionError: division by zero"


def test_finds_a_module_in_the_present_directory_and_then_the_coordinator(tmp_path: Path) -> None:
    (tmp_path / "fine.py").write_text(
        "import moorage as mo\n"
        "pipeline = mo.Pipeline('fine')\n"
        "pipeline.source('in', mo.KafkaSource('in')).sink('out', mo.KafkaSink('out', key=None))\n"
    )

    result = run("submit", "fine:pipeline", "--rest", UNREACHABLE, cwd=tmp_path)

    assert (result.returncode, result.stderr.partition(": ")[2][:36]) == (1, "no coordinator answers at http://127")


@pytest.mark.parametrize("arguments", [["dev", "fine:pipeline"], ["demo"]])
def test_says_which_java_is_needed_when_there_is_none(arguments: list[str], tmp_path: Path) -> None:
    (tmp_path / "fine.py").write_text(
        "import moorage as mo\n"
        "pipeline = mo.Pipeline('fine')\n"
        "pipeline.source('in', mo.KafkaSource('in')).sink('out', mo.KafkaSink('out', key=None))\n"
    )

    result = run(*arguments, cwd=tmp_path, PATH=str(tmp_path), TMPDIR=str(tmp_path), JAVA_HOME="")

    assert result.returncode == 1
    assert "moorage: The embedded Kafka needs Java 17 or newer, and there is no java on PATH." in result.stderr
    assert "Traceback" not in result.stderr


def test_prints_json_for_programs(coordinator_url: str) -> None:
    jobs = run("jobs", "--json", "--rest", coordinator_url)
    checkpoints = run("checkpoints", "orders", "--json", MOORAGE_REST_URL=coordinator_url)

    assert json.loads(jobs.stdout)[0]["state"] == "RUNNING"
    assert json.loads(checkpoints.stdout)["counts"]["completed"] == 1
    assert jobs.stderr == checkpoints.stderr == ""


def test_prints_tables_for_people(coordinator_url: str) -> None:
    jobs = run("jobs", "--rest", coordinator_url)
    checkpoints = run("checkpoints", "orders", "--rest", coordinator_url)

    assert "orders  RUNNING  4 of 4" in " ".join(jobs.stdout.split()).replace(" RUNNING ", "  RUNNING  ")
    assert "Checkpoints: 1 completed, 1 failed, 0 in progress" in checkpoints.stdout
    assert "448 ms" in checkpoints.stdout
    assert "216.7 KiB" in checkpoints.stdout
    assert "6 failed: storage" in checkpoints.stdout


def test_sends_the_token_and_repeats_a_refusal(coordinator_url: str) -> None:
    refused = run("cancel", "orders", "--rest", coordinator_url)
    accepted = run("cancel", "orders", "--rest", coordinator_url, MOORAGE_REST_TOKEN="secret-t")

    assert (refused.returncode, refused.stderr) == (1, "moorage: a bearer token is needed\n")
    assert (accepted.returncode, accepted.stdout) == (0, "orders is being cancelled\n")
