"""The ``CheckpointStorage`` port on a folder, or on a bucket of S3, Google or Azure, through obstore."""

from moorage.adapters.object_storage.bucket import ObjectStorage
from moorage.adapters.object_storage.directory import DirectoryStorage
from moorage.adapters.object_storage.opening import StorageOptions, check_storage, open_storage, storage_id

__all__ = ["DirectoryStorage", "ObjectStorage", "StorageOptions", "check_storage", "open_storage", "storage_id"]
