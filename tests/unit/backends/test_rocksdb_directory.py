"""The local folder of a worker."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from moorage.backends.rocksdb_directory import WorkerDirectory
from moorage.errors import SettingError

_HOLD_A_FOLDER = """
import sys, time
from pathlib import Path
from moorage.backends.rocksdb_directory import WorkerDirectory
directory = WorkerDirectory(Path(sys.argv[1]))
(directory.path / "state").write_text("x")
print(directory.path, flush=True)
time.sleep(60)
"""


def test_two_workers_share_a_parent_and_leave_nothing(tmp_path: Path) -> None:
    first, second = WorkerDirectory(tmp_path / "state"), WorkerDirectory(tmp_path / "state")
    assert first.path != second.path
    (second.path / "file").write_text("x")
    first.close()
    assert (second.path / "file").exists()
    second.close()
    assert list((tmp_path / "state").iterdir()) == []


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_has_is_not(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", _HOLD_A_FOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    theirs = Path(process.stdout.readline().strip())
    WorkerDirectory(tmp_path).close()
    assert (theirs / "state").exists()
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    WorkerDirectory(tmp_path).close()
    assert list(tmp_path.iterdir()) == []


def test_other_files_in_the_parent_stay(tmp_path: Path) -> None:
    (tmp_path / "mine.lock").write_text("x")
    WorkerDirectory(tmp_path).close()
    assert [path.name for path in tmp_path.iterdir()] == ["mine.lock"]


def test_a_parent_that_is_no_folder_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(SettingError, match=r"^MOORAGE_WORKER_STATE_DIR=.*/file: the folder can't be used"):
        WorkerDirectory(tmp_path / "file")
