"""What every reader of objects promises, on a folder and on a real S3 server."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.s3_server import S3Server
from tests.unit.inspect.test_rows import TOTALS, Total, base, checkpoint_of

import moorage as mo
from moorage.adapters.object_reader import ObjectReader, open_reader
from moorage.errors import ObjectMissingError, SettingError, StorageError
from moorage.inspect.checkpoint import open_checkpoint
from moorage.inspect.verify import verify


@pytest.fixture(params=["folder", "s3"])
def reader(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectReader:
    """Of a root that has ``a/object`` with ten digits in it, and ``empty``."""
    objects = {"a/object": b"0123456789", "empty": b""}
    if request.param == "folder":
        (tmp_path / "a").mkdir()
        for path, data in objects.items():
            (tmp_path / path).write_bytes(data)
        return open_reader(str(tmp_path))
    s3: S3Server = request.getfixturevalue("s3")
    bucket = s3.new_bucket()
    for path, data in objects.items():
        s3.client.put_object(Bucket=bucket, Key=f"root/{path}", Body=data)
    return open_reader(f"s3://{bucket}/root", s3.options.client)


def test_reads_what_is_there(reader: ObjectReader) -> None:
    assert (reader.size_bytes("a/object"), reader.size_bytes("empty")) == (10, 0)
    assert reader.read_range("a/object", 0, 10) == b"0123456789"
    assert reader.read_range("a/object", 3, 4) == b"3456"
    assert reader.read_range("a/object", 8, 100) == b"89"
    assert reader.read_range("empty", 0, 0) == b""


def test_names_what_is_missing(reader: ObjectReader) -> None:
    for path in ("nothing", "a", "a/object/deeper"):
        with pytest.raises(StorageError, match=f"{path} in "):
            reader.size_bytes(path)
    for call in (lambda: reader.size_bytes("nothing"), lambda: reader.read_range("nothing", 0, 1)):
        with pytest.raises(ObjectMissingError, match=r"nothing in .* does not exist"):
            call()


def test_a_checkpoint_in_a_bucket(s3: S3Server, tmp_path: Path) -> None:
    checkpoint_of(tmp_path, base(TOTALS, {f"user-{n}": Total(count=n) for n in range(20)}))
    bucket = s3.new_bucket()
    for file in tmp_path.rglob("*"):
        if file.is_file():
            key = f"check/points/{file.relative_to(tmp_path)}"
            s3.client.put_object(Bucket=bucket, Key=key, Body=file.read_bytes())
    url = f"s3://{bucket}/check/points/orders/chk-3"
    checkpoint = open_checkpoint(url, options=s3.options.client)
    assert checkpoint.location == f"{url}/_metadata"
    assert verify(checkpoint).whole
    rows = mo.read_state(f"{url}/_metadata", "totals", options=s3.options.client)
    assert sum(row["count"] for row in rows) == sum(range(20))
    with pytest.raises(
        ObjectMissingError, match=r"there is no checkpoint at s3://.*/orders/chk-4: it has no _metadata"
    ):
        open_checkpoint(url.replace("chk-3", "chk-4"), options=s3.options.client)


def test_an_option_that_is_none_is_refused() -> None:
    with pytest.raises(SettingError, match="s3://bucket/x can't be read"):
        open_reader("s3://bucket/x", {"no_such_option": 1})
