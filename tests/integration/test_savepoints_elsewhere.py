"""Savepoints in folders and buckets of their own, on real processes: taken, restored from and disposed of by URL."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from tests.s3_server import S3Server

from moorage.api.loader import load_pipeline
from moorage.cluster.protocol import RestoreFrom
from moorage.ids import TopicPartition
from moorage_cli.client import RestError
from moorage_cli.embedded.stack import Stack
from moorage_cli.kafka import connect, create_missing

PIPELINE = """
import moorage as mo


class Counter(mo.KeyedState):
    count: int = 0

    def process(self, order, ctx):
        self.count += 1
        return {"user": ctx.key, "count": self.count}


pipeline = mo.Pipeline("elsewhere", parallelism=2, checkpoint=mo.CheckpointConfig(interval_ms=200))
(
    pipeline.source("orders", mo.KafkaSource("orders"))
    .key_by("user")
    .process("counts", Counter)
    .sink("results", mo.KafkaSink("totals", key="user"))
)
"""
JOB, USERS, PARTITIONS, TIMEOUT_S = "elsewhere", 20, 2, 60.0


class Story:
    """Each round every user orders once more; the counts tell whether the state came along."""

    def __init__(self, stack: Stack, file: Path) -> None:
        with ExitStack() as stack_of:
            self.log = stack_of.enter_context(closing(connect(stack.bootstrap_servers)))
            self.client = stack_of.enter_context(stack.client())
            self.close = stack_of.pop_all().close
        self.graph = load_pipeline(f"{file}:pipeline").graph
        create_missing(self.log, ["orders", "totals"], PARTITIONS)
        self._rounds = 0

    def submit(self, restore: str | None = None) -> None:
        self.client.submit(self.graph, None if restore is None else RestoreFrom(path=restore))

    def round(self) -> None:
        self._rounds += 1
        users = [f"user-{number}" for number in range(USERS)]
        with closing(self.log.record_writer("orders")) as writer:
            values = [json.dumps({"user": user}).encode() for user in users]
            writer.append_records("orders", [user.encode() for user in users], values, [0] * USERS, None)
            writer.commit()
        expected = Counter({(user, count): 1 for user in users for count in range(1, self._rounds + 1)})
        deadline_s = time.monotonic() + TIMEOUT_S
        while (rows := Counter(self._results())) != expected:
            assert time.monotonic() < deadline_s, rows
            time.sleep(0.2)

    def _results(self) -> Iterator[tuple[str, int]]:
        partitions = [TopicPartition("totals", number) for number in range(PARTITIONS)]
        for message in self.log.read_to_end(partitions, read_committed=True):
            row = json.loads(message.value)
            yield row["user"], row["count"]

    def savepoint(self, directory: str) -> str:
        location = self.client.savepoint(JOB, directory).wait(TIMEOUT_S).location
        assert location is not None
        folder = f"file://{directory}" if directory.startswith("/") else directory.rstrip("/")
        assert location.startswith(f"{folder}/savepoint-")
        return location

    def stop(self, directory: str) -> str:
        location = self.client.stop(JOB, directory).wait(TIMEOUT_S).location
        assert location is not None
        assert location.startswith(f"{directory.rstrip('/')}/savepoint-")
        return location


def names(url: str, s3: S3Server) -> set[str]:
    """Of the files in a folder."""
    parts = urlsplit(url)
    if parts.scheme == "file":
        folder = Path(unquote(parts.path))
        return {path.name for path in folder.iterdir()} if folder.exists() else set()
    found = s3.client.list_objects_v2(Bucket=parts.netloc, Prefix=f"{parts.path.lstrip('/')}/")
    return {item["Key"].rpartition("/")[2] for item in found.get("Contents", ())}


@pytest.mark.kafka
@pytest.mark.timeout(300)
def test_savepoints_in_two_folders_and_a_bucket(tmp_path: Path, s3: S3Server) -> None:
    file = tmp_path / "pipeline.py"
    file.write_text(PIPELINE)
    first, second = (tmp_path / "first folder").as_uri(), f"{(tmp_path / 'second').as_uri()}/"
    bucket = f"s3://{s3.new_bucket()}"
    with Stack(tmp_path / "stack", workers=2, env=s3.environment) as stack:
        story = Story(stack, file)
        with closing(story):
            story.submit()
            story.round()
            kept = story.savepoint(first)
            story.round()
            from_folder = story.stop(second)
            story.submit(from_folder)
            story.round()
            in_bucket = story.savepoint(f"{bucket}/deep/in/it")
            from_bucket = story.stop(bucket)
            story.submit(from_bucket)
            story.round()

            plain = story.savepoint(str(tmp_path / "third"))
            for location in (kept, from_folder, in_bucket, from_bucket, plain):
                assert "_metadata" in names(location, s3), location
            for wrong in ("nowhere://folder", "file:/folder", "a folder"):
                with pytest.raises(RestError, match=re.escape(wrong)):
                    story.savepoint(wrong)
            for location in (kept, in_bucket, plain):
                story.client.dispose(location).wait(TIMEOUT_S)
                assert names(location, s3) == set()
            assert "_metadata" in names(from_folder, s3)
            story.round()
