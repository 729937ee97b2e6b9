"""`moorage inspect` as a program."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.compute as pc
from pyarrow import parquet
from tests.unit.cli.test_app import run
from tests.unit.inspect.checkpoints import USERS, orders_checkpoint, write_metadata
from tests.unit.inspect.test_rows import TOTALS, Total, base, checkpoint_of

from moorage.coordinator_process.origin import with_origin
from moorage.ids import Attempt, CheckpointId, JobId, OperatorUid
from moorage.state.handles import FileHandle, KeyGroupsHandle
from moorage.state.key_groups import KeyGroupRange
from moorage.state.operator_ids import operator_id
from moorage.state.operator_state import (
    CheckpointMetadata,
    CheckpointOrigin,
    OperatorState,
    OperatorSubtaskState,
)

GOLDEN = Path(__file__).parents[2] / "compatibility" / "flink" / "golden"


def test_shows_a_checkpoint_of_ours(tmp_path: Path) -> None:
    folder = orders_checkpoint(tmp_path)
    result = run("inspect", str(folder), "--verify")
    assert (result.returncode, result.stderr) == (0, "")
    for words in (
        "Checkpoint 2 of orders",
        "written by    Moorage, attempt 1, triggered 2025-11-22 08:26:40+00:00",
        f"{folder}/_metadata (version 6, ",
        " totals                            2 (at most 8)  2 subtasks  ",
        " bc4197a480c92c793190a9f8c0afc54c ",
        "managed keyed: key groups, ",
        "key groups 4 to 7",
        "next offsets: orders[",
        "exchange orders--totals: 8 channels of 4 partitions, 0 in flight",
        "whole: ",
    ):
        assert words in result.stdout
    assert "producer 1 of attempt 1" not in result.stdout
    assert "producer 1 of attempt 1" in run("inspect", str(folder), "--full").stdout


def test_shows_a_checkpoint_of_flink() -> None:
    result = run("inspect", str(GOLDEN / "job-heap-master-hook"))
    assert (result.returncode, result.stderr) == (0, "")
    for words in ("Checkpoint 2\n", "written by    Flink", "hook (version 7, 11 B)", "'union' (union, 1 elements)"):
        assert words in result.stdout


def test_prints_json_for_programs(tmp_path: Path) -> None:
    result = run("inspect", str(orders_checkpoint(tmp_path)), "--json", "--verify")
    document = json.loads(result.stdout)
    assert document["origin"] == {"job": "orders", "attempt": 1, "triggered_ms": 1_763_800_000_000}
    offsets = [split["offset"] for task in document["operators"][0]["subtasks"] for split in task["source_offsets"]]
    assert sum(offsets) == 2 * USERS
    assert {check["state"] for check in document["verification"]["files"]} == {"whole"}


def test_says_with_its_exit_code_that_files_are_damaged(tmp_path: Path) -> None:
    folder = orders_checkpoint(tmp_path)
    for file in (tmp_path / "orders" / "shared").glob("2-*-0-*"):
        file.unlink()
    result = run("inspect", str(folder), "--verify")
    assert result.returncode == 1
    assert "missing: orders/shared/2-totals-0-a1-totals" in result.stdout
    assert result.stderr == f"moorage: {folder}/_metadata: 1 of its files are not whole\n"
    document = json.loads(run("inspect", str(folder), "--verify", "--json").stdout)
    assert {check["state"] for check in document["verification"]["files"]} == {"whole", "missing"}


def test_names_what_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "_metadata").write_bytes(b"PAR1")
    for location, code, words in (
        (str(tmp_path), 1, "it does not start with the magic number of Flink's metadata"),
        (str(tmp_path / "nothing"), 1, "nothing does not exist"),
        ("gopher://x/chk-1", 2, "gopher://x/chk-1 can't be read"),
    ):
        result = run("inspect", location)
        assert (result.returncode, result.stdout, result.stderr.count("\n")) == (code, "", 1)
        assert words in result.stderr


def test_prints_and_exports_rows(tmp_path: Path) -> None:
    users = {f"user-{n}": Total(count=n) for n in range(30)}
    checkpoint_of(tmp_path, base(TOTALS, users))
    folder = str(tmp_path / "orders" / "chk-3")
    result = run("inspect", folder, "--rows", "totals")
    assert (result.returncode, result.stderr) == (0, "")
    assert {row["key"]: row["count"] for row in map(json.loads, result.stdout.splitlines())} == {
        user: total.count for user, total in users.items()
    }
    file = tmp_path / "totals.parquet"
    result = run("inspect", folder, "--rows", "totals", "--output", str(file))
    assert (result.returncode, result.stdout) == (0, "")
    assert result.stderr == f"30 rows of totals in {file}\n"
    assert pc.sum(parquet.read_table(file)["count"]).as_py() == sum(range(30))
    for arguments, code, words in (
        (["--rows", "nothing"], 1, "no operator 'nothing'; it has totals"),
        (["--output", "x.parquet"], 2, "use one of --rows OPERATOR and --as-version VERSION"),
        (["--rows", "totals", "--as-version", "3"], 2, "use one of --rows OPERATOR and --as-version VERSION"),
        (["--as-version", "3"], 2, "--as-version needs --output FILE"),
        (["--rows", "totals", "--output", "x.csv"], 2, "must end in .parquet"),
    ):
        result = run("inspect", folder, *arguments)
        assert (result.returncode, result.stdout) == (code, "")
        assert words in result.stderr


def test_nothing_in_a_file_is_obeyed_by_the_terminal_or_taken_for_markup(tmp_path: Path) -> None:
    evil = "[/red]\x1b]0;owned\x07\x9b2J"
    handle = KeyGroupsHandle(KeyGroupRange(0, 0), (0,), FileHandle(f"orders/{evil}", 5))
    state = OperatorState(
        operator=operator_id(OperatorUid("totals")),
        uid=OperatorUid(evil),
        name=evil,
        parallelism=1,
        max_parallelism=1,
        subtasks={0: OperatorSubtaskState(managed_keyed=(handle,))},
    )
    metadata = CheckpointMetadata(checkpoint=CheckpointId(3), operators=(state,))
    origin = CheckpointOrigin(job=JobId(evil), attempt=Attempt(1), triggered_ms=1 << 62)
    folder = str(write_metadata(tmp_path / "orders" / "chk-3", with_origin(metadata, origin)))
    for arguments, code in (((), 0), (("--full",), 0), (("--verify",), 1), (("--rows", "nothing"), 1)):
        result = run("inspect", folder, *arguments)
        assert result.returncode == code
        assert result.stderr.count("\n") == code
        assert not {"\x1b", "\x07", "\x9b"} & {*result.stdout, *result.stderr}
    assert f"{1 << 62} ms after 1970" in run("inspect", folder).stdout
