"""From a URL to a storage that is known to work."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from obstore import exceptions
from obstore.store import from_url

from moorage.adapters.object_storage.bucket import ObjectStorage, reason_of
from moorage.adapters.object_storage.directory import DirectoryStorage
from moorage.errors import ObjectExistsError, SettingError, StorageError
from moorage.naming import STORAGE_ID_PATH
from moorage.ports import CheckpointStorage

SCHEMES = ("s3", "gs", "az")
"""Of buckets. obstore knows more, of which ``http`` would let whoever names a savepoint ask servers for him that only
we can reach."""

_PROBE = b"Moorage was here to see whether it can write."


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageOptions:
    retries: int = 5
    retry_timeout_ms: int = 30_000
    """A checkpoint should hear soon that the storage is gone; obstore's default is three minutes."""
    parts_at_once: int = 4
    """Parts of one big object that are sent at the same time."""
    client: Mapping[str, Any] = field(default_factory=dict)
    """obstore's options for that kind of store (region, endpoint, credentials, ...). The usual environment variables
    count, too: AWS_ACCESS_KEY_ID, AWS_REGION, AWS_ENDPOINT_URL, GOOGLE_APPLICATION_CREDENTIALS,
    AZURE_STORAGE_ACCOUNT_NAME, ..."""


_DEFAULTS = StorageOptions()


def open_storage(url: str, options: StorageOptions = _DEFAULTS, *, create: bool = True) -> ObjectStorage:
    """The storage at ``url``: ``file:///path`` or a plain path, ``s3://bucket/prefix``, ``gs://bucket/prefix``,
    ``az://container/prefix``.

    ``create``: make a folder that is not there; else ObjectMissingError. SettingError when the URL or an option is not
    understood, StorageError when a folder can't be made. Whether a bucket can be used, ``check_storage`` tells.
    """
    parts = urlsplit(url)
    if not parts.scheme:
        return DirectoryStorage(Path(url), create=create)
    if parts.scheme == "file":
        if parts.netloc not in ("", "localhost") or not parts.path:
            raise SettingError(f"checkpoint storage {url}: use file:///path, with three slashes")
        return DirectoryStorage(Path(unquote(parts.path)), create=create)
    if parts.scheme not in SCHEMES:
        raise SettingError(f"checkpoint storage {url}: use a folder, or a URL of file:, s3:, gs: or az:")
    retry = {"max_retries": options.retries, "retry_timeout": timedelta(milliseconds=options.retry_timeout_ms)}
    try:
        store = from_url(url, **{"retry_config": retry, **options.client})
    except (exceptions.BaseError, ValueError, TypeError) as error:
        raise SettingError(f"checkpoint storage {url}: {reason_of(error)}") from None
    return ObjectStorage(store, url, parts_at_once=options.parts_at_once)


def check_storage(storage: ObjectStorage, url: str) -> None:
    """*Blocking.* Write a small object, twice, read, list and delete it; StorageError that says in one line why the
    storage can't be used."""
    folder = f"_probe/{uuid.uuid4().hex}"
    path = f"{folder}/object"
    try:
        with suppress(ObjectExistsError):  # the answer to a first try was lost
            storage.write(path, _PROBE)
        overwrites = _overwrites(storage, path)
        if storage.read(path) != _PROBE or [info.path for info in storage.list(f"{folder}/")] != [path]:
            raise StorageError("it does not give back what was written")
        storage.delete([path])
        if overwrites:
            raise StorageError("it overwrites an object that should be created only if it is absent (If-None-Match)")
    except StorageError as error:
        detail = str(error).partition(f"{url}: ")[2] or str(error)
        raise StorageError(f"checkpoint storage {url} can't be used: {detail}") from error


def storage_id(storage: CheckpointStorage) -> str:
    """*Blocking.* Which storage this is: the same for whoever looks at it, made by the first. Two folders of one path
    on two machines differ, which their URLs don't tell. StorageError."""
    with contextlib.suppress(ObjectExistsError):
        storage.write(STORAGE_ID_PATH, uuid.uuid4().hex.encode())
    return storage.read(STORAGE_ID_PATH).decode()


def _overwrites(storage: ObjectStorage, path: str) -> bool:
    """Whether an object that is there can be written: some stores that speak S3 take no notice of the condition, and
    then a former leader could write over what its successor has written."""
    try:
        storage.write(path, _PROBE)
    except ObjectExistsError:
        return False
    return True
