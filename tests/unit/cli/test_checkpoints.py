"""The commands about checkpoints and failures, as a program and as what they draw."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from rich.console import Console, RenderableType
from tests.unit.cli.answers import ANSWERS, CHECKPOINTS
from tests.unit.cli.test_app import run

import moorage_cli.checkpoints
from moorage.config import CommandLineSettings, load
from moorage.errors import SettingError
from moorage_cli.checkpoint_view import failure_lines, slowest_table, statistics_view, summary_line
from moorage_cli.checkpoints import _watch
from moorage_cli.client import (
    CheckpointCounts,
    CheckpointStatistics,
    CheckpointSummary,
    CoordinatorClient,
    CoordinatorUnreachableError,
    SubtaskCheckpoint,
)
from moorage_cli.screen import Screen


def drawn(view: RenderableType, width: int = 100) -> str:
    console = Console(width=width, force_terminal=False)
    with console.capture() as captured:
        console.print(view)
    return captured.get()


def checkpoint(number: int, failure: str | None = None) -> CheckpointSummary:
    return CheckpointSummary(
        id=number,
        status="COMPLETED" if failure is None else "FAILED",
        is_savepoint=False,
        trigger_timestamp=0,
        end_to_end_duration=48,
        checkpointed_size=10,
        state_size=20,
        num_subtasks=4,
        num_acknowledged_subtasks=4,
        failure_message=failure,
    )


def statistics(*history: CheckpointSummary) -> CheckpointStatistics:
    counts = CheckpointCounts(restored=0, total=len(history), in_progress=0, completed=len(history), failed=0)
    return CheckpointStatistics(counts=counts, history=history)


# --- as a program ----------------------------------------------------------------------------------------------------


def test_takes_a_checkpoint_and_waits_for_it(coordinator_url: str) -> None:
    result = run("checkpoint", "orders", "--rest", coordinator_url)
    assert (result.returncode, result.stderr) == (0, "")
    assert "Checkpoint 7  COMPLETED" in result.stdout
    assert "file:/checkpoints/orders/chk-7" in result.stdout
    as_json = run("checkpoint", "orders", "--full", "--json", "--rest", coordinator_url)
    assert json.loads(as_json.stdout) == {
        "id": 7,
        "duration_ms": 448,
        "external_path": "file:/checkpoints/orders/chk-7",
    }


def test_a_checkpoint_that_has_left_the_history_was_completed_all_the_same(coordinator_url: str) -> None:
    result = run("checkpoint", "brief", "--rest", coordinator_url)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == "checkpoint 7 of brief was completed; it has left the history already\n"
    as_json = run("checkpoint", "brief", "--json", "--rest", coordinator_url)
    assert json.loads(as_json.stdout) == {"id": 7, "duration_ms": None, "external_path": None}


def test_the_exit_code_tells_of_a_checkpoint_that_failed(coordinator_url: str) -> None:
    result = run("checkpoint", "broken", "--rest", coordinator_url)
    assert (result.returncode, result.stdout, result.stderr) == (1, "", "moorage: disk full\n")


def test_shows_one_checkpoint_with_its_slowest_subtasks(coordinator_url: str) -> None:
    result = run("checkpoints", "orders", "--id", "7", "--rest", coordinator_url)
    assert result.returncode == 0
    assert "Not acknowledged: totals/1" in result.stdout
    rows = [line.split() for line in result.stdout.splitlines()]
    slowest = [row for row in rows if row and "/" in row[0] and not row[0].startswith("file:")]
    assert [row[:3] for row in slowest] == [
        ["totals/0", "448", "ms"],
        ["orders/1", "25", "ms"],
        ["orders/0", "20", "ms"],
    ]


def test_shows_who_took_part_in_the_coordinator_and_what_came_in_vain(coordinator_url: str) -> None:
    result = run("checkpoints", "orders", "--id", "7", "--rest", coordinator_url)
    rows = [line.split() for line in result.stdout.splitlines()]
    assert any(row[:2] == ["master", "hooks"] and row[-4:] == ["3", "ms", "12", "B"] for row in rows), result.stdout
    assert any(row[:1] == ["orders"] and row[-4:] == ["7", "ms", "30", "B"] for row in rows), result.stdout
    assert ["totals", "not", "yet"] in rows, result.stdout
    assert "Acknowledgements that did not count: 2 duplicate, 1 late" in result.stdout


def test_prints_all_that_the_coordinator_tells_as_json(coordinator_url: str) -> None:
    history = run("checkpoints", "orders", "--json", "--rest", coordinator_url)
    one = run("checkpoints", "orders", "--id", "7", "--json", "--rest", coordinator_url)
    assert json.loads(history.stdout) == ANSWERS[CHECKPOINTS]
    assert json.loads(one.stdout) == ANSWERS[f"{CHECKPOINTS}/details/7"]


def test_repeats_what_the_coordinator_says_of_an_unknown_checkpoint(coordinator_url: str) -> None:
    result = run("checkpoints", "orders", "--id", "9", "--rest", coordinator_url)
    assert (result.returncode, result.stderr) == (1, f"moorage: there is no {CHECKPOINTS}/details/9\n")


def test_watching_and_json_exclude_each_other(coordinator_url: str) -> None:
    assert run("checkpoints", "orders", "--watch", "--json", "--rest", coordinator_url).returncode == 2


def test_watches_until_it_is_interrupted(coordinator_url: str) -> None:
    path = os.pathsep.join(str(Path(entry).resolve()) for entry in sys.path if entry)
    command = [sys.executable, "-m", "moorage_cli", "checkpoints", "orders", "--watch", "--rest", coordinator_url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path}) as watch:
        assert watch.stdout is not None
        line = watch.stdout.readline()
        watch.send_signal(signal.SIGINT)
        assert watch.wait(timeout=10) == 0
    assert "1 completed, 1 failed, 0 in progress; last 7" in line


def test_tells_why_attempts_ended_and_how_often(coordinator_url: str) -> None:
    result = run("exceptions", "orders", "--rest", coordinator_url)
    assert result.returncode == 0
    first, cause, second, lost = result.stdout.splitlines()
    assert first.endswith("attempt 4  totals/0  on worker-0/ab")
    assert cause == "  totals/0 failed: KeyError: 'amount'"
    assert "attempt 3  on worker-0/ab  (2 times since" in second
    assert lost == "  worker worker-0/ab is lost: no heartbeat"
    traces = run("exceptions", "orders", "--traces", "--rest", coordinator_url)
    assert "    Traceback (most recent call last):" in traces.stdout
    as_json = run("exceptions", "orders", "--json", "--rest", coordinator_url)
    assert [entry["attempt"] for entry in json.loads(as_json.stdout)] == [4, 3]


def test_an_address_needs_no_scheme(coordinator_url: str) -> None:
    address = coordinator_url.removeprefix("http://")
    assert run("jobs", "--rest", address).returncode == 0
    assert run("jobs", MOORAGE_REST_URL=f"127.0.0.1:1,{address}").returncode == 0
    with pytest.raises(SettingError, match="MOORAGE_REST_URL"):
        load(CommandLineSettings, {"MOORAGE_REST_URL": "ftp://x"})


# --- what is drawn ---------------------------------------------------------------------------------------------------


def test_reasons_of_failures_stand_below_the_table_once_each() -> None:
    reason = "the checkpoint was not complete within its timeout: 2 subtasks did not acknowledge"
    history = (checkpoint(5, reason), checkpoint(4), checkpoint(3, reason), checkpoint(2, "storage"))
    assert [line.plain for line in failure_lines(history)] == [f"3, 5 failed: {reason}", "2 failed: storage"]
    wide = msgspec.structs.replace(
        checkpoint(1_006), status="IN_PROGRESS", is_savepoint=True, checkpointed_size=10**6, state_size=10**6
    )
    narrow = drawn(statistics_view(statistics(wide, *history)), width=80)
    assert "1006 sp" in narrow
    table, _, below = narrow.partition("3, 5 failed:")
    assert all(len(line) <= 80 for line in table.splitlines())
    assert "\u2026" not in table, "no column is cut"
    assert " ".join(below.split()).startswith(reason)


def test_the_newest_part_of_the_history() -> None:
    view = drawn(statistics_view(statistics(checkpoint(3), checkpoint(2), checkpoint(1)), newest=1))
    assert "Checkpoints: 3 completed" in view
    assert sum("COMPLETED" in line for line in view.splitlines()) == 1


def test_a_line_without_completed_checkpoints_has_no_durations() -> None:
    assert summary_line(statistics()) == "0 completed, 0 failed, 0 in progress"


def test_the_slowest_subtasks_are_few() -> None:
    many = [SubtaskCheckpoint(vertex="v", index=n, ack_timestamp=1, end_to_end_duration=n) for n in range(100)]
    assert [row for row in drawn(slowest_table(many)).split() if row.startswith("v/")] == [
        f"v/{n}" for n in (99, 98, 97, 96, 95)
    ]


def test_watching_survives_a_coordinator_that_goes(
    coordinator_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It asks on, and says once that nobody answers."""
    asked = 0

    class Flaky(CoordinatorClient):
        def checkpoints(self, job: str) -> CheckpointStatistics:
            nonlocal asked
            asked += 1
            if asked in (2, 3):
                raise CoordinatorUnreachableError("nobody there")
            if asked == 5:
                raise KeyboardInterrupt
            return super().checkpoints(job)

    monkeypatch.setattr(moorage_cli.checkpoints, "WATCH_INTERVAL_S", 0.0)
    screen = Screen(Console(file=sys.stdout), line_interval_s=0.0)
    with Flaky(coordinator_url) as client, pytest.raises(KeyboardInterrupt):
        _watch(client, "orders", screen)
    lines = capsys.readouterr().out.splitlines()
    assert ["nobody there" in line for line in lines] == [False, True, False]
