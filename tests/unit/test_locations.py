"""Objects by relative path or by URL."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from moorage.adapters.object_storage import open_storage
from moorage.errors import ObjectMissingError, StorageError
from moorage.locations import LocatedStorage
from moorage.naming import split_url
from moorage.ports import CheckpointStorage
from moorage.testing.clocks import ManualClock
from moorage.testing.memory_storage import MemoryStorage


class World:
    def __init__(self) -> None:
        self.own = MemoryStorage(ManualClock())
        self.opened: dict[str, MemoryStorage] = {}
        self.storage: CheckpointStorage = LocatedStorage(self.own, self.open)

    def open(self, url: str, *, create: bool) -> CheckpointStorage:
        assert url not in self.opened, "opened twice"
        return self.opened.setdefault(url, MemoryStorage(ManualClock()))


def test_a_path_means_the_checkpoint_storage() -> None:
    world = World()
    world.storage.write("orders/chk-1/_metadata", b"content")
    assert world.own.paths() == ["orders/chk-1/_metadata"]
    assert world.storage.read("orders/chk-1/_metadata") == b"content"
    assert world.storage.read_range("orders/chk-1/_metadata", 3, 4) == b"tent"
    assert [info.path for info in world.storage.list("orders/")] == ["orders/chk-1/_metadata"]
    upload = world.own.begin_upload("orders/x")
    assert world.storage.unfinished_uploads("orders/") == [upload]
    world.storage.abort_uploads([upload])
    world.storage.delete(["orders/chk-1/_metadata"])
    assert world.own.paths() == []
    assert not world.opened


def test_a_url_means_another_one() -> None:
    world = World()
    folder = "s3://bucket/save/points/savepoint-1"
    for name in ("_metadata", "totals-0-a1-totals"):
        world.storage.write(f"{folder}/{name}", name.encode())
    assert world.own.paths() == []
    assert list(world.opened) == ["s3://bucket/save/points"]
    assert world.storage.read(f"{folder}/_metadata") == b"_metadata"
    assert world.storage.read_range(f"{folder}/_metadata", 1, 4) == b"meta"
    found = [info.path for info in world.storage.list(f"{folder}/")]
    assert sorted(found) == [f"{folder}/_metadata", f"{folder}/totals-0-a1-totals"]
    world.own.write("orders/x", b"")
    world.storage.delete([*found, "orders/x"])
    assert list(world.storage.list(f"{folder}/")) == []
    assert world.own.paths() == []
    with pytest.raises(ObjectMissingError):
        world.storage.read(f"{folder}/_metadata")


@pytest.mark.parametrize(
    ("root", "path"),
    [
        ("s3://bucket/root/orders", "chk-7/_metadata"),
        ("s3://bucket", "savepoint-1/_metadata"),
        ("s3://bucket", "savepoint-1"),
        ("file:///data/save%20points", "savepoint-1/_metadata"),
        ("file:///data", "_metadata"),
        ("az://container", "a/b"),
    ],
)
def test_a_url_is_taken_apart(root: str, path: str) -> None:
    split = split_url(f"{root}/{path}")
    assert "/".join(split) == f"{root}/{path}"
    assert split[1].count("/") <= 1
    assert split[0].count("/") >= 2


@pytest.mark.parametrize(
    "url",
    ["s3://bucket", "s3://bucket/", "s3://bucket/a//b", "s3://bucket/a/../b", "s3://bucket/a b/c", "s3://b/a/#"]
    + [f"file:///a/{up}/b/c/d" for up in ("..", ".", "%2e%2e", "%2E.", "x/%2e%2e%2Fy")],
)
def test_a_url_that_names_nothing_is_refused(url: str) -> None:
    world = World()
    calls: list[Callable[[], object]] = [
        lambda: world.storage.read(url),
        lambda: world.storage.write(url, b"x"),
        lambda: world.storage.delete([url]),
    ]
    for call in calls:
        with pytest.raises(StorageError, match=r"does not name an object|not a path"):
            call()


def test_a_folder_that_lies_elsewhere_is_moved(tmp_path: Path) -> None:
    storage = LocatedStorage(MemoryStorage(ManualClock()), open_storage)
    before, after = (tmp_path / "a b" / "savepoint-1", tmp_path / "elsewhere" / "savepoint-1")
    storage.write(f"{before.as_uri()}/_metadata", b"content")
    assert [file.name for file in before.iterdir()] == ["_metadata"]
    after.parent.mkdir()
    before.rename(after)
    assert storage.read(f"{after.as_uri()}/_metadata") == b"content"


def test_only_a_write_makes_a_folder(tmp_path: Path) -> None:
    storage = LocatedStorage(MemoryStorage(ManualClock()), open_storage)
    folder = tmp_path / "savepoints" / "savepoint-1"
    url = f"{folder.as_uri()}/_metadata"
    for read in (storage.read, lambda path: storage.read_range(path, 0, 1)):
        with pytest.raises(ObjectMissingError):
            read(url)
    assert list(storage.list(f"{folder.as_uri()}/")) == []
    storage.delete([url])
    assert list(tmp_path.iterdir()) == []
    storage.write(url, b"content")
    assert storage.read(url) == b"content"


def test_a_folder_that_went_after_it_was_read_is_made_again_by_a_write(tmp_path: Path) -> None:
    storage = LocatedStorage(MemoryStorage(ManualClock()), open_storage)
    folder = tmp_path / "savepoints"
    folder.mkdir()
    url = f"{folder.as_uri()}/savepoint-1/_metadata"
    with pytest.raises(ObjectMissingError):
        storage.read(url)
    assert list(folder.iterdir()) == []
    folder.rmdir()
    storage.write(url, b"content")
    assert storage.read(url) == b"content"
