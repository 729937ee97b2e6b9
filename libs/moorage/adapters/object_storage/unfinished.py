"""Multipart uploads to S3 that nobody finished: their parts cost money and are seen by no listing.

obstore has no call for them, so boto3 does it, where it is installed (``pip install moorage[s3]``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

from obstore.store import S3Store

from moorage.errors import StorageError
from moorage.ports import UnfinishedUpload

_GONE = "NoSuchUpload"


class S3Uploads:
    """Credentials, region and endpoint are those of the environment unless the store was given its own."""

    def __init__(self, store: S3Store, url: str) -> None:
        self._config: dict[str, Any] = dict(store.config)
        self._url = url
        prefix = str(store.prefix or "").strip("/")
        self._root = f"{prefix}/" if prefix else ""

    def list(self, prefix: str) -> Sequence[UnfinishedUpload]:
        with self._errors():
            pages = self._client.get_paginator("list_multipart_uploads").paginate(
                Bucket=self._config["bucket"], Prefix=self._root + prefix
            )
            return [
                UnfinishedUpload(
                    upload["Key"].removeprefix(self._root),
                    upload["UploadId"],
                    int(upload["Initiated"].timestamp() * 1_000),
                )
                for page in pages
                for upload in page.get("Uploads", ())
            ]

    def abort(self, uploads: Sequence[UnfinishedUpload]) -> None:
        from botocore.exceptions import ClientError

        with self._errors():
            for upload in uploads:
                try:
                    self._client.abort_multipart_upload(
                        Bucket=self._config["bucket"], Key=self._root + upload.path, UploadId=upload.upload
                    )
                except ClientError as error:
                    if error.response["Error"]["Code"] != _GONE:
                        raise

    @cached_property
    def _client(self) -> Any:
        try:
            import boto3
        except ImportError:
            raise StorageError(
                f"unfinished uploads to {self._url} can't be looked up without boto3: install moorage[s3], or give the"
                " bucket a lifecycle rule that aborts incomplete multipart uploads"
            ) from None
        config = self._config
        return boto3.client(
            "s3",
            endpoint_url=config.get("endpoint"),
            region_name=config.get("region"),
            aws_access_key_id=config.get("access_key_id"),
            aws_secret_access_key=config.get("secret_access_key"),
            aws_session_token=config.get("session_token"),
        )

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            from botocore.exceptions import BotoCoreError, ClientError
        except ImportError:
            yield  # and ``_client`` says why not
            return
        try:
            yield
        except (BotoCoreError, ClientError) as error:
            raise StorageError(f"can't look up unfinished uploads in {self._url}: {error}") from error
