"""The world as the cores see it.

Production adapters live in ``moorage.adapters``, twins for tests and the simulation in ``moorage.testing``; one
contract test suite per port runs on both. Calls marked *blocking* do I/O and may take long: a loop never makes them
itself but hands them to its ``Executor``. All other calls return at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from typing import NamedTuple, Protocol, TypeVar

from moorage.errors import LogError
from moorage.ids import Attempt, CheckpointId, Epoch, JobId, TopicPartition
from moorage.messages.registry import CheckpointRecord, JobRecord, Lease

T = TypeVar("T")

# --- log -------------------------------------------------------------------------------------------------------------


class LogMessage(NamedTuple):
    """A message of a partition. Control and exchange traffic only: a message there is a batch."""

    topic: str
    partition: int
    offset: int
    value: bytes
    key: bytes | None
    timestamp_ms: int


class RecordBatch(NamedTuple):
    """Consecutive records of one input partition, column by column (all columns have the same length)."""

    topic: str
    partition: int
    offsets: Sequence[int]
    keys: Sequence[bytes | None]
    values: Sequence[bytes | None]
    timestamps_ms: Sequence[int]


class OffsetSpec(Enum):
    EARLIEST = "earliest"
    LATEST = "latest"
    """The end of the log for a read-committed reader (the last stable offset), so every record below is readable."""
    END = "end"
    """The end of the log. It is beyond LATEST while a transaction that has written there is open."""


class LogReader(Protocol):
    """Reads partitions by position; it belongs to no group and commits nothing.

    Guarantee: the messages of a partition come in offset order, without gaps but for what the isolation hides, starting
    at the assigned position. A position that is not in the log raises OffsetOutOfRangeError at ``poll``; a reader never
    jumps by itself. A partition that does not exist (yet) has no messages.
    """

    def assign(self, positions: Mapping[TopicPartition, int]) -> None:
        """Read exactly these partitions from these offsets; replaces what was assigned."""
        ...

    def poll(self, max_messages: int) -> Sequence[LogMessage]:
        """What has arrived, up to ``max_messages``; never waits. Raises LogError for what can't heal by itself."""
        ...

    def seek(self, partition: TopicPartition, offset: int) -> None:
        """The next message polled from ``partition`` has this offset or a later one; prefetched ones are dropped."""
        ...

    def close(self) -> None: ...


class RecordReader(Protocol):
    """Reads input topics in columns: the fast path of sources. The same guarantees as LogReader.

    ``finished`` and positions are the source's own business; a reader only delivers.
    """

    def assign(self, positions: Mapping[TopicPartition, int]) -> None:
        """Read exactly these partitions from these offsets; those that are read there already are not disturbed."""
        ...

    def poll(self, max_records: int) -> Sequence[RecordBatch]:
        """What has arrived, in batches of one partition each; never waits."""
        ...

    def commit(self, positions: Mapping[TopicPartition, int]) -> None:
        """Commit to the reader's group, for lag tools, in the background. A failure is logged, never raised."""
        ...

    def lag_records(self) -> int:
        """Offsets between what was polled and the end of the assigned partitions, as far as the latest fetches have
        told it: for people, not for decisions."""
        ...

    def close(self) -> None: ...


NO_OFFSET = -1


class Delivery(Protocol):
    """Called from ``LogWriter.poll`` with the offset of the message, or with the error that lost it.

    The offset is NO_OFFSET when it is not known: the broker had stored the message already when it was sent again.
    """

    def __call__(self, offset: int, error: LogError | None, /) -> None: ...


class LogWriter(Protocol):
    """An idempotent producer.

    Guarantee: messages to one partition are stored in the order of ``append``, each once; after an error is reported
    for a message nothing more may be concluded about later ones, and the attempt must end.
    """

    def append(self, topic: str, partition: int, value: bytes, delivered: Delivery) -> None:
        """Queue a message. It never blocks for long; every message is reported to ``delivered``, lost ones too."""
        ...

    def poll(self) -> None:
        """Serve the reports that have arrived."""
        ...

    @property
    def pending_bytes(self) -> int:
        """Bytes queued or under way, not yet reported; callers stop reading input while this is high."""
        ...

    def close(self) -> None:
        """Drop what is queued; no reports are served afterwards."""
        ...


class Partitioner(Enum):
    """How the partition of an output record follows from its key; librdkafka's names."""

    CONSISTENT_RANDOM = "consistent_random"
    """CRC-32 of the key, as every librdkafka client does by default; a record without a key goes anywhere."""
    MURMUR2_RANDOM = "murmur2_random"
    """Murmur2 of the key, as Java clients do by default; a record without a key goes anywhere."""


class TransactionalWriter(Protocol):
    """A transactional producer. One transaction is open at a time; any error means: close it and make a new one."""

    def init(self) -> None:
        """*Blocking.* Fence every other holder of the id; on return what they left open is aborted, what they had
        begun to commit is committed and visible."""
        ...

    def begin(self) -> None: ...

    def append(self, topic: str, partition: int, key: bytes | None, value: bytes | None) -> None:
        """Queue one message for a named partition (commit markers)."""
        ...

    def append_records(
        self,
        topic: str,
        keys: Sequence[bytes | None],
        values: Sequence[bytes | None],
        timestamps_ms: Sequence[int],
        headers: Sequence[Sequence[tuple[str, bytes]] | None] | None,
    ) -> None:
        """Queue records; the partition follows from the key by the configured partitioner, in order per partition."""
        ...

    def poll(self) -> None:
        """Serve reports; raises the first delivery error, again and again (it is latched)."""
        ...

    @property
    def pending_records(self) -> int:
        """Records queued and not yet confirmed; callers stop adding while this is high."""
        ...

    def commit(self) -> None:
        """*Blocking.* On return everything appended since ``begin`` is committed, all of it. It becomes visible within
        a moment: Kafka answers before it has written its markers; after a later ``init`` of the id it is visible for
        certain. FencedError when a newer holder exists or Kafka let the transaction expire (it answers both alike): it
        is not committed. Any other error leaves the outcome unknown. An empty transaction commits without asking."""
        ...

    def abort(self) -> None:
        """*Blocking.*"""
        ...

    def close(self) -> None: ...


class TopicSpec(NamedTuple):
    name: str
    partitions: int
    config: Mapping[str, str]


class Log(Protocol):
    """The Kafka cluster."""

    def reader(self, name: str, *, read_committed: bool = False, bulk: bool = False) -> LogReader:
        """``bulk``: much is expected, so messages may wait some 100 ms for one another and be fetched together."""
        ...

    def record_reader(
        self, name: str, *, group: str | None, read_committed: bool, max_poll_records: int
    ) -> RecordReader: ...

    def writer(self, name: str) -> LogWriter: ...

    def transactional_writer(
        self,
        transactional_id: str,
        *,
        transaction_timeout_ms: int,
        partitioner: Partitioner = Partitioner.CONSISTENT_RANDOM,
    ) -> TransactionalWriter: ...

    def record_writer(
        self, name: str, *, partitioner: Partitioner = Partitioner.CONSISTENT_RANDOM
    ) -> TransactionalWriter:
        """The same interface without transactions, for at-least-once sinks: ``init`` and ``begin`` do nothing,
        ``commit`` flushes."""
        ...

    def create_topics(self, topics: Iterable[TopicSpec]) -> None:
        """*Blocking.* Create what is not there; LogError when a topic exists with another number of partitions."""
        ...

    def delete_topics(self, names: Iterable[str]) -> None:
        """*Blocking.* Tolerates topics that are gone."""
        ...

    def topics(self) -> Mapping[str, int]:
        """*Blocking.* Name and number of partitions of every topic."""
        ...

    def offsets(self, partitions: Iterable[TopicPartition], spec: OffsetSpec | int) -> Mapping[TopicPartition, int]:
        """*Blocking.* An int is a timestamp in ms: the first offset at or after it, else the end."""
        ...

    def read_to_end(
        self,
        partitions: Iterable[TopicPartition],
        *,
        read_committed: bool,
        start: Mapping[TopicPartition, int] | None = None,
    ) -> Sequence[LogMessage]:
        """*Blocking.* Every message from the beginning of these (small, compacted) partitions up to their end at the
        time of the call (of a read-committed reader: the last stable offset), in order per partition.

        ``start``: partitions of which what lies before an offset is known. OffsetOutOfRangeError when a partition ends
        before that: it is not the one that it was."""
        ...

    def committed(self, group: str, partitions: Iterable[TopicPartition]) -> Mapping[TopicPartition, int]:
        """*Blocking.* Committed offsets of a group; partitions without one are left out."""
        ...

    def delete_records(self, before: Mapping[TopicPartition, int]) -> Mapping[TopicPartition, int]:
        """*Blocking.* Delete what lies before these offsets; returns the new first offsets. Tolerates what is gone."""
        ...

    def delete_groups(self, groups: Iterable[str]) -> None:
        """*Blocking.* Tolerates groups that are gone."""
        ...

    def close(self) -> None: ...


# --- storage ---------------------------------------------------------------------------------------------------------


class ObjectInfo(NamedTuple):
    path: str
    size_bytes: int
    modified_ms: int


class Upload(NamedTuple):
    """A big object on its way into a storage: read once, a few chunks at a time."""

    size_bytes: int
    chunks: Iterable[bytes]


class UnfinishedUpload(NamedTuple):
    """Bytes of an object that was never finished: nobody sees them, but they take up room."""

    path: str
    upload: str
    """The storage's own name for it."""
    started_ms: int


class CheckpointStorage(Protocol):
    """Write-once objects under relative paths. All calls are *blocking*."""

    def write(self, path: str, data: bytes | Upload) -> None:
        """Create the object, durably and all at once; ObjectExistsError when it is there. Linearizable for less than
        16 MiB; of two that create the same bigger object at the same time both may succeed."""
        ...

    def read(self, path: str) -> bytes:
        """The whole object; ObjectMissingError."""
        ...

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        """``length`` bytes (at least 1) of the object from ``offset`` on; ObjectMissingError, CorruptDataError when it
        is too short."""
        ...

    def list(self, prefix: str) -> Iterable[ObjectInfo]:
        """Every object whose path starts with ``prefix`` (which ends in ``/``), in no particular order."""
        ...

    def delete(self, paths: Sequence[str]) -> None:
        """Delete; tolerates what is gone."""
        ...

    def unfinished_uploads(self, prefix: str) -> Sequence[UnfinishedUpload]:
        """Uploads of objects below ``prefix`` that are not finished, those under way included. A storage that gets rid
        of them by itself names none."""
        ...

    def abort_uploads(self, uploads: Sequence[UnfinishedUpload]) -> None:
        """Forget them; tolerates what is gone. One that is under way fails."""
        ...


# --- registry --------------------------------------------------------------------------------------------------------


COMPLETED_IDS_KEPT = 1_000
"""How many ids ``Registry.completed_ids`` remembers."""


class Registry(Protocol):
    """The commit point of checkpoints, and what a new coordinator starts from. All calls are *blocking*.

    Every call of the coordinator that changes something names the caller's epoch and is one atomic step: FencedError,
    and nothing is changed, unless it is the newest one. A registry that has lost its data knows none: the lease must be
    taken anew before anything else. Those of the cleaner, which leads nothing, are atomic steps that name the
    submission of an ended job instead. RegistryUnavailableError leaves the outcome unknown; every call may be repeated
    safely.
    """

    def acquire_lease(self, holder: str, ttl_ms: int, *, above: Epoch | None = None) -> Lease | None:
        """Take the lease if it is free, has expired or is the holder's own: the lease with a new epoch, higher than any
        before and than ``above`` (an epoch seen elsewhere, should the registry have lost its data); None while another
        holds it."""
        ...

    def renew_lease(self, holder: str, epoch: Epoch, ttl_ms: int) -> bool:
        """True while the lease is still ours (it is prolonged); False when it was lost."""
        ...

    def release_lease(self, holder: str, epoch: Epoch) -> None: ...

    def lease(self) -> Lease | None:
        """Who leads now."""
        ...

    def jobs(self) -> Sequence[JobRecord]:
        """Every job that was not purged."""
        ...

    def save_job(self, epoch: Epoch, record: JobRecord) -> None:
        """Store a job whose attempt is the registry's; StaleAttemptError when the stored attempt is another, or when
        an earlier submission of its name is being purged. A new job is stored whatever its attempt."""
        ...

    def start_attempt(self, epoch: Epoch, record: JobRecord, latest: CheckpointId) -> None:
        """Store ``record`` with its new attempt. StaleAttemptError unless the stored attempt is lower and the newest
        completed checkpoint is ``latest`` (0: none). From then on no checkpoint of an earlier attempt can be added.
        Repeated with the record that is stored already, it does nothing."""
        ...

    def rebuild_job(
        self,
        epoch: Epoch,
        record: JobRecord,
        checkpoints: Sequence[CheckpointRecord],
        completed_ids: Sequence[CheckpointId],
        last_checkpoint_id: CheckpointId,
    ) -> None:
        """Store a job that the registry has lost, with what its checkpoints tell. StaleAttemptError when a job of that
        name is known; repeated with the record that is stored already, it does nothing."""
        ...

    def last_attempt(self, job: JobId) -> Attempt:
        """The highest attempt ever stored under this name, 0 if none; it outlives ``purge_job``."""
        ...

    def next_checkpoint_id(self, epoch: Epoch, job: JobId) -> CheckpointId:
        """A number never given before for this job. Gaps are harmless."""
        ...

    def last_checkpoint_id(self, job: JobId) -> CheckpointId:
        """The last number given, 0 if none."""
        ...

    def add_checkpoint(
        self,
        epoch: Epoch,
        job: JobId,
        attempt: Attempt,
        record: CheckpointRecord,
        retain: int,
        keep_from: CheckpointId | None = None,
    ) -> Sequence[CheckpointRecord]:
        """**The commit point.** Add a completed checkpoint and subsume the oldest beyond ``retain`` in one step, but
        none with an id of ``keep_from`` or higher (the lowest base of checkpoints still pending); returns the subsumed.

        StaleAttemptError when the job's attempt is another. BaseSubsumedError when ``record.base`` is not 0 and not
        retained any more, or when a checkpoint with a higher id is completed (savepoints apart): the files may be gone.
        Adding an id again changes nothing and returns what it returned first or less. Savepoints are neither counted
        nor subsumed, and ``completed_ids`` does not name those that are no part of the job's history.
        """
        ...

    def checkpoints(self, job: JobId) -> Sequence[CheckpointRecord]:
        """The retained completed checkpoints, oldest first."""
        ...

    def remove_checkpoint(self, epoch: Epoch, job: JobId, checkpoint: CheckpointId) -> None: ...

    def completed_ids(self, job: JobId) -> Sequence[CheckpointId]:
        """Ids of checkpoints that were completed, ascending, subsumed ones included (the newest COMPLETED_IDS_KEPT):
        with ``last_checkpoint_id`` the fate of every checkpoint follows."""
        ...

    # --- of the cleaner ---

    def claim(self, work: str, holder: str, ttl_ms: int) -> bool:
        """Take or prolong the claim on a piece of work; False while another holds it. It only keeps two from doing the
        same thing: nothing is fenced by it."""
        ...

    def remove_checkpoints(self, job: JobId, submitted_ms: int) -> bool:
        """Take every checkpoint of an ended job out, savepoints left in. False, and nothing is changed: there is no
        such submission of the job, or it has not ended."""
        ...

    def begin_purge(self, job: JobId, submitted_ms: int) -> bool:
        """From now on ``save_job`` refuses every other submission of the name, until ``purge_job``. False, and nothing
        is changed: there is no such submission of the job, it has not ended, or it has checkpoints or savepoints."""
        ...

    def purge_job(self, job: JobId, submitted_ms: int) -> None:
        """Forget the job of a purge that has begun, but for its checkpoint id counter and attempt: a later job of that
        name goes on from them. It does nothing to another submission."""
        ...


# --- time and threads ------------------------------------------------------------------------------------------------


class Clock(Protocol):
    def monotonic_ms(self) -> int: ...

    def wall_ms(self) -> int:
        """Milliseconds since 1970 UTC, for timestamps that people see."""
        ...


class Executor(Protocol):
    """Runs blocking calls elsewhere and hands their results back to the loop that owns this executor."""

    def submit(self, call: Callable[[], T], done: Callable[[T | None, Exception | None], None]) -> None:
        """Run ``call`` in a thread; later, in the owner's loop, ``done(result, None)`` or ``done(None, error)``. Calls
        run concurrently and in no particular order."""
        ...
