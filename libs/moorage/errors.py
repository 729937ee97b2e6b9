"""The tree of errors.

Every error that a user may see names the thing it is about and what to do. Expected outcomes (an acknowledgement that
comes late, a refused trigger) are enums, not exceptions; what is here is for what stops something.
"""

from __future__ import annotations


class MoorageError(Exception):
    """Base of every error that Moorage raises on purpose."""


class PipelineError(MoorageError):
    """The pipeline as written can't run: found when it is compiled, before anything is deployed."""


class SettingError(MoorageError):
    """A setting has a value that is not allowed; the message names variable, value and what is allowed."""


class UserCodeError(MoorageError):
    """User code raised; the original error is the ``__cause__`` and comes first in what is shown."""


class RecordError(UserCodeError):
    """A record can't be processed; names topic, partition and offset."""


class CorruptDataError(MoorageError):
    """Bytes read from a log or a storage are not what was written: wrong checksum, length or format."""


class UnknownSchemaError(MoorageError):
    """A message carries the fingerprint of a schema that this version does not know."""


class LogError(MoorageError):
    """Kafka refused or lost an operation."""


class LogUnavailableError(LogError):
    """Kafka does not answer (yet); trying again may help."""


class OffsetOutOfRangeError(LogError):
    """The offset asked for is not in the log (any more): it was trimmed, or the topic was made anew."""


class FencedError(MoorageError):
    """A newer owner exists (lease, transactional id); whoever gets this must stop and never take the id back."""


class RegistryError(MoorageError):
    """The checkpoint registry refused an operation."""


class RegistryUnavailableError(RegistryError):
    """The registry does not answer; the outcome of the operation is unknown."""


class StaleAttemptError(RegistryError):
    """The job has moved on: another attempt, or another latest checkpoint, than the caller believed."""


class BaseSubsumedError(RegistryError):
    """The checkpoint builds on one that is not retained any more: its files may be gone, so it can't be completed."""


class StorageError(MoorageError):
    """The checkpoint storage failed."""


class ObjectExistsError(StorageError):
    """Create-if-absent found the object there already."""


class ObjectMissingError(StorageError):
    """The object does not exist."""


class StateError(MoorageError):
    """State can't be restored into the operator that asks for it; names operator, field and what to do."""


class CommittedBeyondError(MoorageError):
    """A sink has committed beyond the checkpoint that the job goes back to: the output in between would come twice."""


class StateStoreError(MoorageError):
    """The local store of keyed state failed: its disk is full, or can't be read or written."""


class HookError(MoorageError):
    """A master hook failed; it may work another time."""


class MetadataError(MoorageError):
    """State can't be written in the version of ``_metadata`` that was asked for; names the state and the version."""
