"""What every ``ports.CheckpointStorage`` promises: the twin, a directory, an object store, a real S3 server
and Google's API; Azure's in ``azure_storage``."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from obstore.store import MemoryStore
from tests.google_server import GoogleServer
from tests.s3_server import S3Server

from moorage.adapters.object_storage import ObjectStorage, open_storage
from moorage.adapters.object_storage.bucket import MULTIPART_FROM_BYTES
from moorage.errors import CorruptDataError, ObjectExistsError, ObjectMissingError, StorageError
from moorage.ports import CheckpointStorage, Upload
from moorage.testing.clocks import ManualClock
from moorage.testing.memory_storage import MemoryStorage


@pytest.fixture(params=["memory", "directory", "object store", "s3", "google"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> CheckpointStorage:
    match request.param:
        case "memory":
            return MemoryStorage(ManualClock(wall_start_ms=time.time_ns() // 1_000_000))
        case "directory":
            return open_storage((tmp_path / "check points").as_uri())
        case "s3":
            s3: S3Server = request.getfixturevalue("s3")
            return open_storage(f"s3://{s3.new_bucket()}/check/points", s3.options)
        case "google":
            google: GoogleServer = request.getfixturevalue("google")
            return open_storage(f"gs://{google.new_bucket()}/check/points", google.options)
        case _:
            return ObjectStorage(MemoryStore(), "memory:///")


def test_what_was_written_is_read(storage: CheckpointStorage) -> None:
    contents = {"job/chk-1/_metadata": b"m", "job/shared/1-orders-0-a1-rows.v1": b"\0\xff" * 500_000, "job/e": b""}
    for path, data in contents.items():
        storage.write(path, data)
    for path, data in contents.items():
        read = storage.read(path)
        assert type(read) is bytes
        assert read == data


def test_an_object_is_written_once(storage: CheckpointStorage) -> None:
    storage.write("job/chk-1/_metadata", b"first")
    with pytest.raises(ObjectExistsError, match="job/chk-1/_metadata"):
        storage.write("job/chk-1/_metadata", b"second")
    assert storage.read("job/chk-1/_metadata") == b"first"


def test_of_many_who_create_one_succeeds(storage: CheckpointStorage) -> None:
    def create(writer: int) -> int | None:
        try:
            storage.write(path, b"%d" % writer)
        except ObjectExistsError:
            return None
        return writer

    with ThreadPoolExecutor(8) as threads:
        for round_ in range(20):
            path = f"job/chk-{round_}/_metadata"
            winners = [writer for writer in threads.map(create, range(16)) if writer is not None]
            assert len(winners) == 1
            assert storage.read(path) == b"%d" % winners[0]


@pytest.mark.parametrize("size_bytes", [0, 100_000, MULTIPART_FROM_BYTES + 1])
def test_a_big_object_is_written_from_chunks(storage: CheckpointStorage, size_bytes: int) -> None:
    data = random.Random(size_bytes).randbytes(size_bytes)

    def upload() -> Upload:
        return Upload(size_bytes, (data[start : start + 70_000] for start in range(0, size_bytes, 70_000)))

    storage.write("job/shared/1-orders-0-a1-big", upload())
    assert storage.read("job/shared/1-orders-0-a1-big") == data
    with pytest.raises(ObjectExistsError, match="job/shared/1-orders-0-a1-big"):
        storage.write("job/shared/1-orders-0-a1-big", upload())


def test_big_bytes_are_written_once_too(storage: CheckpointStorage) -> None:
    data = b"0123456789abcdef" * ((MULTIPART_FROM_BYTES >> 4) + 1)
    storage.write("job/chk-1/big", data)
    with pytest.raises(ObjectExistsError, match="job/chk-1/big"):
        storage.write("job/chk-1/big", data)
    assert storage.read("job/chk-1/big") == data


def test_what_fails_on_the_way_leaves_no_object(storage: CheckpointStorage) -> None:
    def chunks() -> Iterator[bytes]:
        yield bytes(1000)
        raise OSError("the local disk is gone")

    with pytest.raises((OSError, StorageError), match="the local disk is gone"):
        storage.write("job/chk-1/big", Upload(MULTIPART_FROM_BYTES, chunks()))
    assert list(storage.list("job/")) == []
    storage.write("job/chk-1/big", b"second try")
    assert storage.read("job/chk-1/big") == b"second try"


def test_ranges_are_read_alone(storage: CheckpointStorage) -> None:
    storage.write("job/chk-1/merged", bytes(range(200)))
    assert storage.read_range("job/chk-1/merged", 0, 200) == bytes(range(200))
    assert storage.read_range("job/chk-1/merged", 7, 3) == b"\x07\x08\x09"
    assert storage.read_range("job/chk-1/merged", 199, 1) == b"\xc7"


@pytest.mark.parametrize(("offset", "length"), [(199, 2), (200, 1), (5_000, 10)])
def test_a_range_beyond_the_end_is_no_data(storage: CheckpointStorage, offset: int, length: int) -> None:
    storage.write("job/chk-1/merged", bytes(200))
    with pytest.raises(CorruptDataError, match=r"job/chk-1/merged .*has 200 bytes"):
        storage.read_range("job/chk-1/merged", offset, length)


def test_a_missing_object_is_named(storage: CheckpointStorage) -> None:
    for path in ("job/chk-1/_metadata", "job"):
        with pytest.raises(ObjectMissingError, match=path):
            storage.read(path)
        with pytest.raises(ObjectMissingError, match=path):
            storage.read_range(path, 0, 1)


def test_list_finds_what_lies_below_a_prefix(storage: CheckpointStorage) -> None:
    before_ms = time.time_ns() // 1_000_000 - 5_000
    paths = {f"job/chk-{n}/orders-{m}-a1-rows" for n in range(8) for m in range(20)}
    for path in paths | {"job-2/chk-1/_metadata", "jo/chk-1/_metadata"}:
        storage.write(path, b"abc")
    found = list(storage.list("job/"))
    assert {info.path for info in found} == paths
    assert len(found) == len(paths)
    assert {info.size_bytes for info in found} == {3}
    assert all(before_ms < info.modified_ms < before_ms + 60_000 for info in found)
    assert {info.path for info in storage.list("job/chk-7/")} == {f"job/chk-7/orders-{m}-a1-rows" for m in range(20)}
    assert list(storage.list("nobody/")) == []


def test_delete_tolerates_what_is_gone(storage: CheckpointStorage) -> None:
    paths = [f"job/chk-1/orders-{n}-a1-rows" for n in range(20)]
    for path in paths[::2]:
        storage.write(path, b"x")
    storage.write("job/chk-2/_metadata", b"kept")
    storage.delete(paths)
    storage.delete(paths)
    storage.delete([])
    assert [info.path for info in storage.list("job/")] == ["job/chk-2/_metadata"]
    storage.write(paths[0], b"again")
    assert storage.read(paths[0]) == b"again"


def test_writing_and_deleting_in_one_place_at_once(storage: CheckpointStorage) -> None:
    def come_and_go(worker: int) -> None:
        for n in range(30):
            path = f"job/chk-1/orders-{worker}-a{n}-rows"
            storage.write(path, b"x")
            list(storage.list("job/"))
            storage.delete([path])

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(come_and_go, range(4)))
    assert list(storage.list("job/")) == []


@pytest.mark.parametrize(
    "path",
    [
        "../escaped",
        "job/../../escaped",
        "/etc/escaped",
        "job//x",
        "job/./x",
        "",
        "a\\..\\b",
        ".tmp/x",
        "job/x#1",
        "job/%2e%2e",
    ],
)
def test_no_path_leads_out(storage: CheckpointStorage, path: str) -> None:
    calls: list[Callable[[], object]] = [
        lambda: storage.write(path, b"x"),
        lambda: storage.read(path),
        lambda: storage.read_range(path, 0, 1),
        lambda: storage.unfinished_uploads(path + "/"),
        lambda: list(storage.list(path + "/")),
        lambda: storage.delete([path]),
    ]
    for call in calls:
        with pytest.raises(StorageError, match="not a path"):
            call()
