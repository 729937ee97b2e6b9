"""Every topic, key and path name, in one place.

Whoever needs a name asks here; nobody else concatenates. The cleaner parses paths with the same functions that built
them, so a file that these functions can't name is never deleted.
"""

from __future__ import annotations

import re
from hashlib import sha256
from typing import NamedTuple
from urllib.parse import unquote

from moorage.errors import PipelineError, StorageError
from moorage.ids import Attempt, CheckpointId, ExchangeId, JobId, OperatorUid, VertexId, WorkerId

COMMANDS_TOPIC = "moorage.control.commands"
EVENTS_TOPIC = "moorage.control.events"
PROGRESS_TOPIC = "moorage.control.progress"
CLEANUP_TOPIC = "moorage.control.cleanup"
CONTROL_TOPICS = (COMMANDS_TOPIC, EVENTS_TOPIC, PROGRESS_TOPIC, CLEANUP_TOPIC)

_NOT_IN_PATHS = re.compile(r"[^A-Za-z0-9_.-]")

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9_-]{0,62}[a-z0-9])?")


def check_name(kind: str, name: str) -> str:
    """``name`` itself when it can be part of topics, keys and paths; else PipelineError which says what is allowed.

    Names hold no dot and no double dash, so that topics and exchange ids can be taken apart again.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name) or "--" in name:
        raise PipelineError(
            f"{kind} {name!r} can't be part of a topic name: use 1 to 64 of a-z, 0-9, '_' and single '-',"
            " starting and ending with a letter or digit"
        )
    return name


_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")


def check_topic(what: str, topic: object, *, written: bool) -> str:
    """``topic`` itself when Kafka takes it as a name; else PipelineError. ``written``: the pipeline writes to it, so it
    must not be one of Moorage's own."""
    if not isinstance(topic, str) or not topic:
        raise PipelineError(f"{what} needs the name of a topic, not {topic!r}")
    if not _TOPIC.fullmatch(topic) or topic in (".", ".."):
        raise PipelineError(
            f"{what}: {topic!r} can't be the name of a topic: use 1 to 249 of a-z, A-Z, 0-9, '.', '_' and '-', and"
            " neither '.' nor '..' alone"
        )
    if written and topic.startswith("moorage."):
        raise PipelineError(f"{what}: {topic!r} is taken: topics moorage.* are Moorage's own, and a purge deletes them")
    return topic


def exchange_id(producer: VertexId, consumer: VertexId) -> ExchangeId:
    return ExchangeId(f"{producer}--{consumer}")


def exchange_topic(job: JobId, exchange: ExchangeId) -> str:
    return f"moorage.{job}.{exchange}"


def commits_topic(job: JobId) -> str:
    """Compacted topic of the sinks' commit markers; partition = key group."""
    return f"moorage.{job}.commits"


def job_topic_prefix(job: JobId) -> str:
    return f"moorage.{job}."


def is_job_topic(job: JobId, topic: str) -> bool:
    """Whether one of the functions above names ``topic`` for this job."""
    prefix = job_topic_prefix(job)
    return topic == commits_topic(job) or (topic.startswith(prefix) and "--" in topic.removeprefix(prefix))


def transactional_id(job: JobId, sink: OperatorUid, parallelism: int, subtask: int) -> str:
    """It names the parallelism: so the ids of a rescaled sink have no owner any more, and whoever took over some of
    their key groups may fence them without fencing another subtask of its own attempt."""
    return f"moorage.{job}.{sink}.{subtask}-of-{parallelism}"


def source_group(job: JobId, source: OperatorUid) -> str:
    """The consumer group that a source's offsets are committed to, for lag tools only."""
    return f"moorage.{job}.{source}"


# --- checkpoint storage: <job>/chk-<n>/... , <job>/shared/... , as in Flink ----------------------------------------


def job_prefix(job: JobId) -> str:
    return f"{job}/"


METADATA_FILE = "_metadata"


def checkpoint_prefix(job: JobId, checkpoint: CheckpointId) -> str:
    return f"{job}/chk-{checkpoint}/"


def metadata_path(job: JobId, checkpoint: CheckpointId) -> str:
    return f"{checkpoint_prefix(job, checkpoint)}{METADATA_FILE}"


def folder_of(path: str) -> str:
    """The folder that an object lies in; paths and URLs alike."""
    return path.rpartition("/")[0]


def metadata_of(path: str) -> str:
    """The ``_metadata`` of a checkpoint or savepoint that is named by its folder or by that file."""
    return path if path.endswith(f"/{METADATA_FILE}") else f"{path.rstrip('/')}/{METADATA_FILE}"


def exclusive_state_path(
    job: JobId, checkpoint: CheckpointId, attempt: Attempt, vertex: VertexId, subtask: int, name: str
) -> str:
    """A file that belongs to one checkpoint and goes with it."""
    return f"{checkpoint_prefix(job, checkpoint)}{vertex}-{subtask}-a{attempt}-{name}"


def shared_state_path(
    job: JobId, checkpoint: CheckpointId, attempt: Attempt, vertex: VertexId, subtask: int, name: str
) -> str:
    """A file that later checkpoints may refer to; ``checkpoint`` is the one that wrote it."""
    return f"{job}/shared/{checkpoint}-{vertex}-{subtask}-a{attempt}-{name}"


def savepoint_folder(location: str | None, job: JobId, checkpoint: CheckpointId, triggered_ms: int) -> str:
    """The folder of one savepoint below ``location`` (a URL, or relative to the storage; None: the job's own place).

    It is named as in Flink: the beginning of the job's id, then hex digits that no other savepoint has.
    """
    unique = sha256(f"{job} {checkpoint} {triggered_ms}".encode()).hexdigest()[:12]
    parent = f"{job}/savepoints" if location is None else location.rstrip("/")
    return f"{parent}/savepoint-{job[:6]}-{unique}"


def merged_state_path(
    job: JobId,
    checkpoint: CheckpointId,
    attempt: Attempt,
    worker: WorkerId,
    number: int,
    checksum: int,
    *,
    shared: bool,
) -> str:
    """A file with state of many subtasks of a worker; ``number`` tells it from the worker's other ones."""
    name = with_checksum(f"merged-{_NOT_IN_PATHS.sub('+', worker)}-{number}-a{attempt}-state", checksum)
    return f"{job}/shared/{checkpoint}-{name}" if shared else f"{checkpoint_prefix(job, checkpoint)}{name}"


def savepoint_state_path(attempt: Attempt, vertex: VertexId, subtask: int, name: str) -> str:
    """A file of a savepoint, relative to its folder."""
    return f"{vertex}-{subtask}-a{attempt}-{name}"


def with_checksum(name: str, checksum: int) -> str:
    """The name of a state file whose content has this xxh3-64."""
    return f"{name}.{checksum:016x}"


_CHECKED = re.compile(r"(?:.*/)?[^/]+-[0-9]+-a[0-9]+-[^/]+\.([0-9a-f]{16})")


def checksum_of(path: str) -> int | None:
    """The checksum that the name of a state file tells; None for any other file."""
    match = _CHECKED.fullmatch(path)
    return None if match is None else int(match[1], 16)


def is_savepoint_file(path: str, folder: str) -> bool:
    """Whether ``path`` is what a savepoint in ``folder`` consists of: files of ours lie in it, not below it."""
    return folder_of(path) == folder and (path.endswith(f"/{METADATA_FILE}") or checksum_of(path) is not None)


def is_url(path: str) -> bool:
    """Whether an object of another storage is named, and not one of the checkpoint storage."""
    return "://" in path


_URL = re.compile(r"([a-z0-9+]+://[^/]*(?:/[^/]+)*?)/([^/]+(?:/[^/]+)?)")


def split_url(url: str) -> tuple[str, str]:
    """The URL of an object or a folder, taken apart: a storage, and the path in it, which has two names if that many
    stand behind the bucket. StorageError for any other, and for one that goes up again (``..``) on its way: a place has
    one URL."""
    match = _URL.fullmatch(url)
    if match is None or not {".", ".."}.isdisjoint(unquote(match[1]).split("/")):
        raise StorageError(f"{url} does not name an object or folder of a storage")
    return match[1], check_storage_path(match[2])


class StoragePath(NamedTuple):
    """A path of the checkpoint storage, taken apart."""

    job: JobId
    checkpoint: CheckpointId
    """The checkpoint that wrote the file."""
    shared: bool
    name: str
    attempt: Attempt | None = None
    """The attempt that wrote the file; None for ``_metadata``."""

    @property
    def is_metadata(self) -> bool:
        return not self.shared and self.name == METADATA_FILE


_NUMBER = "(0|[1-9][0-9]*)"
_STATE_FILE = rf"[^/]+-[0-9]+-a{_NUMBER}-[^/]+"
_EXCLUSIVE = re.compile(rf"([a-z0-9_-]+)/chk-{_NUMBER}/(_metadata|{_STATE_FILE})")
_SHARED = re.compile(rf"([a-z0-9_-]+)/shared/{_NUMBER}-({_STATE_FILE})")


def parse_storage_path(path: str) -> StoragePath | None:
    """The parts of a path that one of the functions above built; None for any other path (not ours to touch).

    The attempt can be told as long as the file's own name holds no ``-<digits>-a<digits>-``.
    """
    if match := _EXCLUSIVE.fullmatch(path):
        shared = False
    elif match := _SHARED.fullmatch(path):
        shared = True
    else:
        return None
    job, checkpoint, name, attempt = match.groups()
    return StoragePath(
        JobId(job), CheckpointId(int(checkpoint)), shared, name, None if attempt is None else Attempt(int(attempt))
    )


STORAGE_ID_PATH = "_moorage/storage-id"
"""Says which storage this is; no job's name begins so."""

_PATH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.=+-]*(?:/[A-Za-z0-9_][A-Za-z0-9_.=+-]*)*")


def check_storage_path(path: str) -> str:
    """``path`` itself when it is relative, stays below the root of the storage and means the same to every kind of
    storage; else StorageError."""
    if not _PATH.fullmatch(path):
        raise StorageError(
            f"{path!r} is not a path of the checkpoint storage: use names of A-Z, a-z, 0-9 and '_.=+-' that start with"
            " neither sign but '_', with '/' between them"
        )
    return path


# --- registry keys ---------------------------------------------------------------------------------------------------


def registry_key(namespace: str, *parts: str) -> str:
    """All keys of one registry share the hash tag ``{namespace}``, so that its scripts also run on a Redis Cluster."""
    return ":".join((f"{{{namespace}}}", *parts))
