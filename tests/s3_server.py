"""A real S3 server on this machine: moto's."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import boto3
import httpx
from moto.server import ThreadedMotoServer

from moorage.adapters.object_storage import StorageOptions

REGION = "eu-central-1"
ACCESS_KEY_ID = "AKIAMOORAGE"
SECRET_ACCESS_KEY = "known to nobody"  # noqa: S105 - of a server that runs for a test


class S3Server:
    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self._numbers = itertools.count(1)

    @property
    def options(self) -> StorageOptions:
        client: Mapping[str, Any] = {
            "endpoint": self.endpoint,
            "region": REGION,
            "access_key_id": ACCESS_KEY_ID,
            "secret_access_key": SECRET_ACCESS_KEY,
            "client_options": {"allow_http": True},
        }
        return StorageOptions(retries=1, retry_timeout_ms=2_000, client=client)

    @property
    def environment(self) -> Mapping[str, str]:
        """What a service that uses the server is started with."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY_ID,
            "AWS_SECRET_ACCESS_KEY": SECRET_ACCESS_KEY,
            "AWS_ALLOW_HTTP": "true",
        }

    @property
    def client(self) -> Any:
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name=REGION,
            aws_access_key_id=ACCESS_KEY_ID,
            aws_secret_access_key=SECRET_ACCESS_KEY,
        )

    def new_bucket(self) -> str:
        bucket = f"moorage-{next(self._numbers)}"
        self.client.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": REGION})
        return bucket

    @contextmanager
    def refusing_strangers(self) -> Iterator[None]:
        """Keys are looked at, and nobody has made ours known."""
        httpx.post(f"{self.endpoint}/moto-api/reset-auth", content="0").raise_for_status()
        try:
            yield
        finally:
            httpx.post(f"{self.endpoint}/moto-api/reset-auth", content="inf").raise_for_status()


@contextmanager
def running_s3_server() -> Iterator[S3Server]:
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield S3Server(f"http://{host}:{port}")
    finally:
        server.stop()
