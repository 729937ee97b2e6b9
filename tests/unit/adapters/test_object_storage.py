"""A directory as checkpoint storage, beyond the port's contract."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import pytest

from moorage.adapters.object_storage import DirectoryStorage, ObjectStorage, open_storage
from moorage.errors import SettingError, StorageError


def test_urls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for url in ((tmp_path / "a b").as_uri(), str(tmp_path / "a b"), "a b"):
        storage = open_storage(url)
        assert isinstance(storage, DirectoryStorage)
        storage.write(f"job/{time.time_ns()}", b"x")
    assert len(list((tmp_path / "a b" / "job").iterdir())) == 3
    assert type(open_storage("s3://bucket/prefix", {"region": "eu-central-1", "skip_signature": True})) is ObjectStorage


@pytest.mark.parametrize("url", ["ftp://host/path", "s3://", "nonsense://x", "file://relative/path", "file://"])
def test_a_url_that_is_not_understood_is_named(url: str) -> None:
    with pytest.raises(SettingError, match=url):
        open_storage(url)


def test_an_unknown_option_is_named() -> None:
    with pytest.raises(SettingError, match="colour"):
        open_storage("s3://bucket", {"colour": "red"})


def test_a_place_that_can_not_be_a_directory_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file/storage can't be used: Not a directory"):
        DirectoryStorage(tmp_path / "file" / "storage")


def test_a_full_disk_is_told_with_the_path_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = DirectoryStorage(tmp_path)

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StorageError, match=r"can't write job/chk-1/_metadata in .*: No space left on device"):
            storage.write("job/chk-1/_metadata", b"x")
    assert list(tmp_path.rglob("*")) == [tmp_path / ".tmp"]
    storage.write("job/chk-1/_metadata", b"y")
    assert storage.read("job/chk-1/_metadata") == b"y"


def test_file_and_folders_are_synced_before_anybody_hears_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = DirectoryStorage(tmp_path)
    story: list[str] = []
    real_fsync, real_link = os.fsync, os.link

    def fsync(descriptor: int) -> None:
        story.append("sync " + str(Path(f"/proc/self/fd/{descriptor}").readlink().relative_to(tmp_path)))
        real_fsync(descriptor)

    def link(source: Path, target: Path) -> None:
        story.append(f"link {target.relative_to(tmp_path)}")
        real_link(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "link", link)
    storage.write("job/chk-1/_metadata", b"x")
    temporary, *rest = story
    assert temporary.startswith("sync .tmp/")
    assert rest == ["link job/chk-1/_metadata", "sync job/chk-1", "sync job", "sync ."]


def test_empty_folders_go_with_their_last_file(tmp_path: Path) -> None:
    storage = DirectoryStorage(tmp_path)
    storage.write("job/chk-1/_metadata", b"x")
    storage.write("job/chk-2/_metadata", b"x")
    storage.delete(["job/chk-1/_metadata"])
    assert [path.name for path in (tmp_path / "job").iterdir()] == ["chk-2"]


def test_what_a_crash_left_behind_goes_after_an_hour(tmp_path: Path) -> None:
    DirectoryStorage(tmp_path)
    old, young = tmp_path / ".tmp" / "old", tmp_path / ".tmp" / "young"
    for file in (old, young):
        file.write_bytes(b"half")
    an_hour_ago_s = time.time() - 3_601
    os.utime(old, (an_hour_ago_s, an_hour_ago_s))
    storage = DirectoryStorage(tmp_path)
    assert not old.exists()
    assert young.exists()
    assert list(storage.list("job/")) == []
