"""Google's object store as obstore speaks to it, on this machine.

obstore uses Google's XML API, which is S3's with headers of its own. No emulator that the package registries have
serves that API (of fake-gcs-server, only a fork does). So moto's S3 stands behind a door that speaks the difference:
preconditions, generations, what the deletion of a missing object says, and who is let in.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from moto.server import DomainDispatcherApplication, create_backend_app
from tests.s3_server import REGION, S3Server
from werkzeug.serving import make_server
from werkzeug.test import EnvironBuilder, run_wsgi_app

from moorage.adapters.object_storage import StorageOptions

_ERROR = "<?xml version='1.0' encoding='UTF-8'?><Error><Code>{}</Code><Message>{}</Message></Error>"
_SIGNED = f"AWS4-HMAC-SHA256 Credential=google/20260101/{REGION}/s3/aws4_request, SignedHeaders=host, Signature=x"
"""By which moto knows that S3 is meant."""

Start = Callable[..., Any]


class GoogleServer:
    """``s3``: of the same process, where buckets are made."""

    def __init__(self, s3: S3Server) -> None:
        self.endpoint = ""
        self.refuses = False
        self._s3 = s3
        self._moto: Any = DomainDispatcherApplication(create_backend_app)

    def __call__(self, environ: dict[str, Any], start_response: Start) -> Iterable[bytes]:
        if self.refuses:
            return _error(start_response, "403 Forbidden", "AccessDenied", "Access denied.")
        environ["HTTP_AUTHORIZATION"] = _SIGNED  # instead of the token
        # obstore escapes all but letters and digits, of which moto undoes little.
        environ["RAW_URI"] = environ["REQUEST_URI"] = f"{environ['PATH_INFO']}?{environ['QUERY_STRING']}"
        if environ.pop("HTTP_X_GOOG_IF_GENERATION_MATCH", None) == "0":
            environ["HTTP_IF_NONE_MATCH"] = "*"
        if environ["REQUEST_METHOD"] == "DELETE" and not environ["QUERY_STRING"] and not self._exists(environ):
            return _error(start_response, "404 Not Found", "NoSuchKey", "The specified key does not exist.")

        def start(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
            return start_response(status, [*headers, ("x-goog-generation", "1")], *rest)

        answer: Iterable[bytes] = self._moto(environ, start)
        return answer

    def _exists(self, environ: Mapping[str, Any]) -> bool:
        headers = {"Authorization": _SIGNED}
        path = environ["PATH_INFO"]
        head = EnvironBuilder(path=path, method="HEAD", base_url=self.endpoint, headers=headers).get_environ()
        return run_wsgi_app(self._moto, head)[1].startswith("200")

    @property
    def environment(self) -> Mapping[str, str]:
        """What a service that uses the server is started with."""
        key = {"gcs_base_url": self.endpoint, "disable_oauth": True, "client_email": "", "private_key": ""}
        return {"GOOGLE_SERVICE_ACCOUNT_KEY": json.dumps({**key, "private_key_id": ""}), "GOOGLE_ALLOW_HTTP": "true"}

    @property
    def options(self) -> StorageOptions:
        client = {
            "service_account_key": self.environment["GOOGLE_SERVICE_ACCOUNT_KEY"],
            "client_options": {"allow_http": True},
        }
        return StorageOptions(retries=1, retry_timeout_ms=2_000, client=client)

    def new_bucket(self) -> str:
        return self._s3.new_bucket()

    @contextmanager
    def refusing_strangers(self) -> Iterator[None]:
        self.refuses = True
        try:
            yield
        finally:
            self.refuses = False


def _error(start_response: Start, status: str, code: str, message: str) -> list[bytes]:
    body = _ERROR.format(code, message).encode()
    start_response(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
    return [body]


@contextmanager
def running_google_server(s3: S3Server) -> Iterator[GoogleServer]:
    google = GoogleServer(s3)
    server = make_server("127.0.0.1", 0, google, threaded=True)
    google.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, name="google", daemon=True)
    thread.start()
    try:
        yield google
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
