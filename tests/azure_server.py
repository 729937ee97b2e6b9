"""Azure's object store on this machine: Microsoft's own emulator, azurite, which npm has (``make test-clouds``)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import itertools
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from email.utils import formatdate
from pathlib import Path

import httpx

from moorage.adapters.object_storage import StorageOptions
from moorage_cli.embedded.errors import choose_port

AZURITE = Path(__file__).parent.parent / ".cache/azurite/node_modules/azurite/dist/src/blob/main.js"
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""Of azurite, the same everywhere."""

_VERSION = "2021-12-02"
_START_TIMEOUT_S = 60.0


class AzureServer:
    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.endpoint = f"{self.url}/{ACCOUNT}"
        self._numbers = itertools.count(1)

    @property
    def environment(self) -> Mapping[str, str]:
        """What a service that uses the server is started with."""
        return {
            "AZURE_STORAGE_ACCOUNT_NAME": ACCOUNT,
            "AZURE_STORAGE_ACCOUNT_KEY": KEY,
            "AZURE_STORAGE_ENDPOINT": self.endpoint,
            "AZURE_ALLOW_HTTP": "true",
        }

    @property
    def options(self) -> StorageOptions:
        return self.options_of(KEY)

    def options_of(self, key: str) -> StorageOptions:
        client = {
            "account_name": ACCOUNT,
            "account_key": key,
            "endpoint": self.endpoint,
            "client_options": {"allow_http": True},
        }
        return StorageOptions(retries=1, retry_timeout_ms=2_000, client=client)

    def new_container(self) -> str:
        """Which obstore has no call for. Signed by hand: Microsoft's client is a large package for one request."""
        name = f"moorage-{next(self._numbers)}"
        date = formatdate(usegmt=True)
        # https://learn.microsoft.com/rest/api/storageservices/authorize-with-shared-key
        signed = [
            "PUT",
            *[""] * 11,
            f"x-ms-date:{date}",
            f"x-ms-version:{_VERSION}",
            f"/{ACCOUNT}/{ACCOUNT}/{name}",
            "restype:container",
        ]
        digest = hmac.digest(base64.b64decode(KEY), "\n".join(signed).encode(), hashlib.sha256)
        headers = {
            "x-ms-date": date,
            "x-ms-version": _VERSION,
            "Authorization": f"SharedKey {ACCOUNT}:{base64.b64encode(digest).decode()}",
        }
        httpx.put(f"{self.endpoint}/{name}?restype=container", headers=headers).raise_for_status()
        return name


@contextmanager
def running_azure_server() -> Iterator[AzureServer]:
    port = choose_port("azurite", 0)
    node = shutil.which("node")
    assert node is not None, "azurite needs Node.js"
    assert AZURITE.exists(), "`make test-clouds` installs azurite"
    where = ["--blobHost", "127.0.0.1", "--blobPort", str(port), "--inMemoryPersistence"]
    # obstore may be newer than azurite, which would refuse its version of the API.
    process = subprocess.Popen(
        [node, str(AZURITE), *where, "--silent", "--skipApiVersionCheck", "--disableTelemetry"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        server = AzureServer(port)
        _wait_for(process, server.url)
        yield server
    finally:
        process.terminate()
        process.wait()


def _wait_for(process: subprocess.Popen[bytes], url: str) -> None:
    deadline_s = time.monotonic() + _START_TIMEOUT_S
    while True:
        try:
            httpx.get(url)
        except httpx.TransportError:
            assert process.poll() is None, "azurite has ended"
            assert time.monotonic() < deadline_s, "azurite does not answer"
            time.sleep(0.1)
        else:
            return
