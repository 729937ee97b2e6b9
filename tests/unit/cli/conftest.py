from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from tests.unit.cli.answers import ANSWERS, POSTS


class _Coordinator(BaseHTTPRequestHandler):
    """Canned answers over real HTTP; cancelling needs the token ``secret``."""

    def do_GET(self) -> None:
        if self.path in ANSWERS:
            self._answer(200, ANSWERS[self.path])
        else:
            self._answer(404, {"errors": [f"there is no {self.path}"]})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self._answer(202, POSTS[self.path])

    def do_PATCH(self) -> None:
        if self.headers["authorization"] == "Bearer secret-t":
            self._answer(202, {})
        else:
            self._answer(401, {"errors": ["a bearer token is needed"]})

    def _answer(self, status: int, body: object) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as in the base class
        pass


@pytest.fixture
def coordinator_url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Coordinator) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()
