"""A worker whose storage can't be used does not start, and says why in one line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.google_server import GoogleServer
from tests.s3_server import S3Server


def start_with(url: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    nowhere = {"MOORAGE_KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:9", "MOORAGE_METRICS_PORT": "0"}
    return subprocess.run(
        [sys.executable, "-m", "moorage_worker"],
        env={**os.environ, **nowhere, **environment, "MOORAGE_CHECKPOINT_DIR": url},
        capture_output=True,
        text=True,
        timeout=150,
    )


def test_a_wrong_bucket(s3: S3Server) -> None:
    done = start_with("s3://no-such-bucket/a", dict(s3.environment))
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.endswith(
        "checkpoint storage s3://no-such-bucket/a can't be used: The specified bucket does not exist (NoSuchBucket)"
    )


def test_wrong_credentials(s3: S3Server) -> None:
    url = f"s3://{s3.new_bucket()}/a"
    with s3.refusing_strangers():
        done = start_with(url, dict(s3.environment))
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert f"checkpoint storage {url} can't be used: The AWS Access Key Id you provided does not exist" in line


def test_a_wrong_bucket_of_google(google: GoogleServer) -> None:
    done = start_with("gs://no-such-bucket/a", dict(google.environment))
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.endswith(
        "checkpoint storage gs://no-such-bucket/a can't be used: The specified bucket does not exist (NoSuchBucket)"
    )


def test_a_folder_that_can_not_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = start_with(str(tmp_path / "file" / "storage"), {})
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.endswith("file/storage can't be used: Not a directory")
