"""Where checkpoints and savepoints lie."""

from __future__ import annotations

import pytest

from moorage.errors import MoorageError, StorageError
from moorage.locations import Locations, Place
from moorage.ports import CheckpointStorage
from moorage.testing.clocks import ManualClock
from moorage.testing.memory_storage import MemoryStorage

OWN = MemoryStorage(ManualClock())


class Opener:
    def __init__(self) -> None:
        self.opened: dict[str, CheckpointStorage] = {}

    def __call__(self, url: str) -> CheckpointStorage:
        assert url not in self.opened, "opened twice"
        return self.opened.setdefault(url, MemoryStorage(ManualClock()))


@pytest.mark.parametrize("end", ["", "/_metadata"])
@pytest.mark.parametrize("folder", ["orders/chk-7", "savepoint-orders-1", "orders/savepoints/savepoint-1"])
def test_what_is_no_url_lies_in_the_own_storage(folder: str, end: str) -> None:
    place = Locations(OWN).folder(folder + end)
    assert place == Place(OWN, folder)
    assert place.metadata_path == f"{folder}/_metadata"


@pytest.mark.parametrize("end", ["", "/", "/_metadata"])
@pytest.mark.parametrize(
    ("root", "folder"),
    [
        ("s3://bucket/deep/root", "orders/chk-7"),
        ("s3://bucket/savepoints", "savepoint-1"),
        ("s3://bucket", "savepoint-1"),
        ("file:///data/moorage", "orders/chk-12"),
        ("file:///data", "chk-12x"),
        ("az://container/a", "orders/chk-1"),
    ],
)
def test_a_url_is_taken_apart(root: str, folder: str, end: str) -> None:
    opener = Opener()
    locations = Locations(OWN, opener)
    place = locations.folder(f"{root}/{folder}{end}")
    assert place == Place(opener.opened[root], folder)
    assert locations.folder(f"{root}/another").storage is place.storage


@pytest.mark.parametrize(
    "url", ["s3://bucket", "s3://bucket/_metadata", "file:///savepoint", "s3://bucket/../escape/.."]
)
def test_a_url_that_can_not_be_one_is_named(url: str) -> None:
    with pytest.raises(StorageError, match=r"not the folder of a checkpoint|not a path"):
        Locations(OWN, Opener()).folder(url)


def test_who_can_not_open_urls_says_so() -> None:
    with pytest.raises(MoorageError, match="s3://bucket/a can't be opened here"):
        Locations(OWN).folder("s3://bucket/a/savepoint-1")
