"""What S3 answers when it is busy, and what big objects cost: a real S3 server behind a proxy that misbehaves."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
from tests.s3_server import S3Server

from moorage.adapters.object_storage import ObjectStorage, StorageOptions, check_storage, open_storage
from moorage.adapters.object_storage.bucket import MULTIPART_FROM_BYTES
from moorage.errors import ObjectExistsError, StorageError
from moorage.ports import Upload

_HOP_BY_HOP = ("transfer-encoding", "connection", "content-length", "content-encoding", "date", "server")


class BusyProxy:
    """Answers ``busy`` requests with 503 Slow Down, and hands the others on."""

    def __init__(self, endpoint: str) -> None:
        self.busy = 0
        self.lost_answers = 0
        """So many requests are carried out, and answered with 500."""
        self.methods: list[str] = []
        self.conditional = True
        """False: like a store that does not know conditional puts."""
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                proxy.methods.append(self.command)
                if proxy.busy > 0:
                    proxy.busy -= 1
                    self.answer(503, {}, b"<Error><Code>SlowDown</Code><Message>Reduce your rate</Message></Error>")
                    return
                headers = {k: v for k, v in self.headers.items() if k.lower() != "host"}
                if not proxy.conditional:
                    headers = {k: v for k, v in headers.items() if k.lower() != "if-none-match"}
                response = httpx.request(self.command, endpoint + self.path, headers=headers, content=body)
                if proxy.lost_answers > 0:
                    proxy.lost_answers -= 1
                    self.answer(500, {}, b"")
                    return
                self.answer(response.status_code, response.headers, response.content)

            def answer(self, status: int, headers: Any, content: bytes) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    if name.lower() not in _HOP_BY_HOP:
                        self.send_header(name, value)
                self.send_header("content-length", headers.get("content-length", str(len(content))))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_any  # noqa: N815

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def proxy(s3: S3Server) -> Iterator[BusyProxy]:
    proxy = BusyProxy(s3.endpoint)
    try:
        yield proxy
    finally:
        proxy.close()


@pytest.fixture
def storage(s3: S3Server, proxy: BusyProxy) -> ObjectStorage:
    client = {**s3.options.client, "endpoint": proxy.endpoint}
    options = StorageOptions(retries=3, retry_timeout_ms=20_000, client=client)
    return open_storage(f"s3://{s3.new_bucket()}/a", options)


@contextmanager
def busy(proxy: BusyProxy, requests: int) -> Iterator[None]:
    proxy.busy = requests
    yield
    assert proxy.busy == 0
    proxy.busy = 0


def test_a_store_that_is_busy_for_a_moment_is_asked_again(storage: ObjectStorage, proxy: BusyProxy) -> None:
    with busy(proxy, 2):
        storage.write("job/x", b"content")
    with busy(proxy, 2):
        assert storage.read("job/x") == b"content"
    with busy(proxy, 2):
        assert storage.read_range("job/x", 3, 4) == b"tent"
    with busy(proxy, 2):
        assert [info.path for info in storage.list("job/")] == ["job/x"]
    with busy(proxy, 1):
        storage.delete(["job/x"])
    assert list(storage.list("job/")) == []


def test_a_store_that_stays_busy_is_told_in_one_line(storage: ObjectStorage, proxy: BusyProxy) -> None:
    proxy.busy = 100
    with pytest.raises(StorageError, match=r"^can't write job/x in s3://.*: Reduce your rate \(SlowDown\)$"):
        storage.write("job/x", b"content")
    assert len(proxy.methods) == 4, "one try and three more"


def test_a_write_whose_answer_was_lost_is_told_as_there_already(storage: ObjectStorage, proxy: BusyProxy) -> None:
    """The store can't know who asks again. Names of state files tell their content, so it is taken for written."""
    proxy.lost_answers = 1
    with pytest.raises(ObjectExistsError):
        storage.write("job/x", b"content")
    assert storage.read("job/x") == b"content"


def test_a_store_that_overwrites_is_refused_at_the_start(storage: ObjectStorage, proxy: BusyProxy) -> None:
    check_storage(storage, "s3://bucket/a")
    proxy.conditional = False
    with pytest.raises(StorageError, match=r"^checkpoint storage s3://bucket/a can't be used: it overwrites an object"):
        check_storage(storage, "s3://bucket/a")
    assert list(storage.list("_probe/")) == []


def test_a_storage_is_not_refused_for_an_answer_that_was_lost(storage: ObjectStorage, proxy: BusyProxy) -> None:
    proxy.lost_answers = 1
    check_storage(storage, "s3://bucket/a")
    assert list(storage.list("_probe/")) == []


def test_a_big_object_goes_in_parts_although_the_store_is_busy(storage: ObjectStorage, proxy: BusyProxy) -> None:
    size_bytes = MULTIPART_FROM_BYTES + (5 << 20)
    chunk = bytes(range(256)) * 4096
    with busy(proxy, 2):
        storage.write("job/big", Upload(size_bytes, (chunk for _ in range(size_bytes // len(chunk)))))
    assert proxy.methods.count("POST") == 2, "begun and completed"
    assert proxy.methods.count("PUT") >= 3, "in parts"
    assert storage.read_range("job/big", size_bytes - 256, 256) == chunk[:256]


def test_a_big_object_takes_little_memory(s3: S3Server) -> None:
    """128 MiB, four parts of 8 MiB at a time: in a process of its own, whose peak is looked at."""
    url = f"s3://{s3.new_bucket()}/a"
    program = f"""
import resource, sys
from moorage.adapters.object_storage import open_storage
from moorage.ports import Upload
def peak_mb(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
storage = open_storage({url!r})
storage.write("job/small", b"x")
before = peak_mb()
storage.write("job/big", Upload(128 << 20, (bytes(1 << 20) for _ in range(128))))
print(peak_mb() - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], env={"PATH": "", **s3.environment}, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 80
