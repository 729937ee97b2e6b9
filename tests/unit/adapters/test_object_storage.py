"""Folders and buckets as checkpoint storage, beyond the port's contract."""

from __future__ import annotations

import errno
import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.google_server import GoogleServer
from tests.s3_server import S3Server

from moorage.adapters.object_storage import (
    DirectoryStorage,
    ObjectStorage,
    StorageOptions,
    check_storage,
    open_storage,
    storage_id,
)
from moorage.errors import ObjectMissingError, SettingError, StorageError


def test_an_id_tells_one_storage_from_others(tmp_path: Path, s3: S3Server) -> None:
    bucket = s3.new_bucket()
    urls = [str(tmp_path / "one"), str(tmp_path / "two"), f"s3://{bucket}/one", f"s3://{bucket}/two"]
    first, again = [[storage_id(open_storage(url, s3.options)) for url in urls] for _ in range(2)]
    assert first == again
    assert len(set(first)) == len(urls)


def test_urls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for url in ((tmp_path / "a b").as_uri(), str(tmp_path / "a b"), "a b"):
        storage = open_storage(url)
        assert isinstance(storage, DirectoryStorage)
        storage.write(f"job/{time.time_ns()}", b"x")
    assert len(list((tmp_path / "a b" / "job").iterdir())) == 3
    anonymous = StorageOptions(client={"region": "eu-central-1", "skip_signature": True})
    for url in ("s3://bucket/prefix", "gs://bucket/prefix"):
        assert type(open_storage(url, anonymous if url.startswith("s3") else StorageOptions())) is ObjectStorage
    azure = StorageOptions(client={"account_name": "account", "skip_signature": True})
    assert type(open_storage("az://container/prefix", azure)) is ObjectStorage


@pytest.mark.parametrize(
    "url",
    ["ftp://host/path", "http://127.0.0.1/x", "memory:///", "s3://", "nonsense://x", "file://relative/path", "file://"],
)
def test_a_url_that_is_not_understood_is_named(url: str) -> None:
    with pytest.raises(SettingError, match=url):
        open_storage(url)


def test_an_unknown_option_is_named() -> None:
    with pytest.raises(SettingError, match="colour"):
        open_storage("s3://bucket", StorageOptions(client={"colour": "red"}))


def test_a_folder_that_should_be_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(ObjectMissingError, match=r"there is no folder .*savepoint-1"):
        open_storage(str(tmp_path / "savepoint-1"), create=False)
    assert not list(tmp_path.iterdir())
    (tmp_path / "savepoint-1").mkdir()
    assert list(open_storage(str(tmp_path / "savepoint-1"), create=False).list("job/")) == []
    assert not list((tmp_path / "savepoint-1").iterdir()), "whoever only reads leaves nothing"


# --- the look at the start -------------------------------------------------------------------------------------------


def test_a_storage_that_works_is_left_as_it_was(s3: S3Server, tmp_path: Path) -> None:
    for url, options in ((f"s3://{s3.new_bucket()}/a", s3.options), (tmp_path.as_uri(), StorageOptions())):
        storage = open_storage(url, options)
        check_storage(storage, url)
        assert list(storage.list("_probe/")) == []


def refusal(url: str, options: StorageOptions) -> str:
    with pytest.raises(StorageError) as error:
        check_storage(open_storage(url, options), url)
    message = str(error.value)
    assert "\n" not in message
    return message


def test_a_bucket_that_is_not_there_is_named(s3: S3Server) -> None:
    assert refusal("s3://no-such-bucket/a", s3.options) == (
        "checkpoint storage s3://no-such-bucket/a can't be used: The specified bucket does not exist (NoSuchBucket)"
    )


def test_a_bucket_of_google_that_is_not_there_is_named(google: GoogleServer) -> None:
    assert refusal("gs://no-such-bucket/a", google.options) == (
        "checkpoint storage gs://no-such-bucket/a can't be used: The specified bucket does not exist (NoSuchBucket)"
    )


def test_an_account_of_google_that_is_refused_is_told(google: GoogleServer) -> None:
    url = f"gs://{google.new_bucket()}/a"
    with google.refusing_strangers():
        message = refusal(url, google.options)
    assert message == f"checkpoint storage {url} can't be used: Access denied. (AccessDenied)"


def test_google_is_reached_by_what_the_environment_says(google: GoogleServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("GOOGLE_")]:
        monkeypatch.delenv(name)
    for name, value in google.environment.items():
        monkeypatch.setenv(name, value)
    url = f"gs://{google.new_bucket()}/a"
    check_storage(open_storage(url), url)


def test_credentials_that_are_refused_are_told(s3: S3Server) -> None:
    url = f"s3://{s3.new_bucket()}/a"
    with s3.refusing_strangers():
        message = refusal(url, s3.options)
    assert message == (
        f"checkpoint storage {url} can't be used: The AWS Access Key Id you provided does not exist in our records."
        " (InvalidAccessKeyId)"
    )


def test_an_endpoint_that_does_not_answer_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    nobody = S3Server(f"http://127.0.0.1:{port}").options
    message = refusal("s3://bucket/a", nobody)
    assert message.startswith("checkpoint storage s3://bucket/a can't be used: ")
    assert f"http://127.0.0.1:{port}/bucket/a/_probe/" in message


def test_a_folder_that_can_not_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    assert refusal(str(tmp_path), StorageOptions()) == (
        f"checkpoint storage {tmp_path} can't be used: No space left on device"
    )


def test_a_bucket_that_vanishes_does_not_pass_for_a_missing_object(s3: S3Server) -> None:
    storage = open_storage("s3://no-such-bucket/a", s3.options)
    calls: list[Callable[[], object]] = [
        lambda: storage.read("job/chk-1/_metadata"),
        lambda: storage.read_range("job/chk-1/_metadata", 0, 1),
        lambda: storage.delete(["job/chk-1/_metadata"]),
    ]
    for call in calls:
        with pytest.raises(StorageError, match="bucket does not exist") as error:
            call()
        assert not isinstance(error.value, ObjectMissingError)


# --- uploads that nobody finished ------------------------------------------------------------------------------------


def test_unfinished_uploads_to_s3_are_found_and_aborted(s3: S3Server) -> None:
    bucket = s3.new_bucket()
    storage = open_storage(f"s3://{bucket}/check/points", s3.options)
    for key in ("check/points/job/shared/1-a-0-a1-x", "check/points/job-2/shared/1-a-0-a1-x", "elsewhere"):
        s3.client.create_multipart_upload(Bucket=bucket, Key=key)
    (found,) = storage.unfinished_uploads("job/")
    assert found.path == "job/shared/1-a-0-a1-x"
    assert found.started_ms > 0
    storage.abort_uploads([found])
    storage.abort_uploads([found])
    assert storage.unfinished_uploads("job/") == []
    assert len(s3.client.list_multipart_uploads(Bucket=bucket)["Uploads"]) == 2


def test_without_boto3_it_says_what_to_do(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    storage = open_storage(f"s3://{s3.new_bucket()}", s3.options)
    with pytest.raises(StorageError, match=r"without boto3: install moorage\[s3\]"):
        storage.unfinished_uploads("job/")


def test_unfinished_files_are_found_and_removed(tmp_path: Path) -> None:
    storage = DirectoryStorage(tmp_path)
    storage.write("job/chk-1/_metadata", b"x")
    names = [f"job.{'01' * 16}", f"job-2.{'01' * 16}", "job.txt"]
    for name in names:
        (tmp_path / ".tmp" / name).write_bytes(b"half")
    (found,) = storage.unfinished_uploads("job/")
    assert abs(found.started_ms - time.time() * 1_000) < 60_000
    storage.abort_uploads([found])
    storage.abort_uploads([found])
    assert {file.name for file in (tmp_path / ".tmp").iterdir()} == set(names[1:])


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
    (tmp_path / ".tmp").mkdir()
    old, young = tmp_path / ".tmp" / f"job.{'0a' * 16}", tmp_path / ".tmp" / f"job.{'1b' * 16}"
    foreign, folder = tmp_path / ".tmp" / "draft.txt", tmp_path / ".tmp" / f"folder.{'2c' * 16}"
    for file in (old, young, foreign):
        file.write_bytes(b"half")
    folder.mkdir()
    an_hour_ago_s = time.time() - 3_601
    for path in (old, foreign, folder):
        os.utime(path, (an_hour_ago_s, an_hour_ago_s))
    storage = DirectoryStorage(tmp_path)
    assert not old.exists()
    assert young.exists()
    assert foreign.exists(), "somebody else's"
    assert folder.exists()
    assert list(storage.list("job/")) == []


# --- links ---------------------------------------------------------------------------------------------------------


def test_links_lead_nowhere(tmp_path: Path) -> None:
    outside, root = tmp_path / "outside", tmp_path / "root"
    outside.mkdir()
    (outside / "secret").write_bytes(b"password")
    storage = open_storage(str(root))
    storage.write("job/real", b"x")
    (root / "job" / "folder").symlink_to(outside)
    (root / "job" / "file").symlink_to(outside / "secret")
    (root / "up").symlink_to("..")
    ways_out = ("job/folder/secret", "job/file", "up/outside/secret", "up/root/job/folder/secret")
    for path in ways_out:
        for read in (storage.read, lambda path: storage.read_range(path, 0, 1)):
            with pytest.raises(StorageError, match=f"can't read {path} in .*root: a symbolic link leads out"):
                read(path)
    for path in ("job/folder/new", "job/folder/below/new", "up/new"):
        with pytest.raises(StorageError, match="can't write"):
            storage.write(path, b"x")
    for path in ("job/folder/secret", "up/outside/secret"):
        with pytest.raises(StorageError, match="can't delete"):
            storage.delete(["job/real", path])
    assert [info.path for info in storage.list("job/")] == ["job/real"]
    for prefix in ("up/", "job/folder/"):
        with pytest.raises(StorageError, match="can't list"):
            list(storage.list(prefix))
    storage.delete([info.path for info in storage.list("job/")])
    assert [file.name for file in outside.iterdir()] == ["secret"]
    assert (outside / "secret").read_bytes() == b"password"


def test_the_folder_itself_may_be_a_link_and_links_may_stay_inside(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "root").symlink_to(tmp_path / "disk")
    storage = open_storage(str(tmp_path / "root"))
    storage.write("job/a", b"x")
    (tmp_path / "disk" / "other").symlink_to("job")
    assert storage.read("job/a") == storage.read("other/a") == b"x"
    storage.delete(["job/a"])
    assert list(storage.list("job/")) == []
