"""Opening an exactly-once sink: make sure that nobody else writes its key groups, then read how far they are.

A transactional id names the parallelism of its sink, and fences whoever held it before. So while the parallelism stays,
the owners of a key group are linear: a zombie that opens late takes the id back, but it can only do what the markers
say, and its successor fails and is replaced. After a rescale a zombie of another parallelism has an id that nobody
fences any more. Hence the order here, where the sink ever had another parallelism:

1. take the own id;
2. read the *claims* of the key groups, committed or not: one of a later attempt means that this is a zombie;
3. claim the key groups, in a transaction;
4. take the ids of all former owners: what they left open is aborted, what they had begun to commit is visible;
5. read the markers, and the claims once more.

A zombie that takes its id before step 4 loses it there, so it can't commit any more. One that takes it later reads the
claim and stops. Why claims are kept per parallelism: only one id may write the claim of a key group and a parallelism,
so its attempts ascend. Were there one for all, a zombie's might replace that of its successor.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from moorage.errors import CorruptDataError, FencedError, LogUnavailableError
from moorage.graph.job_graph import Exchange
from moorage.ids import OperatorUid, TopicPartition
from moorage.naming import commits_topic, exchange_topic, transactional_id
from moorage.ports import LogMessage, OffsetSpec, Partitioner, TransactionalWriter
from moorage.serde.positions import claim_key, decode_commit, encode_claim
from moorage.state.key_groups import key_group_range
from moorage.state.positions import CommitClaim, CommitMarker
from moorage.task.context import TaskContext

_LOOKS = 20
"""Round trips for which a transaction that is just being committed may hide what lies behind it."""


class Opened(NamedTuple):
    """What was found behind the fence."""

    markers: Sequence[CommitMarker]
    earliest: dict[TopicPartition, int]


class SinkOpening:
    """Of one sink subtask. The methods that block are called in a thread."""

    def __init__(self, context: TaskContext, sink: OperatorUid, exchange: Exchange, partitioner: Partitioner) -> None:
        self._context = context
        self._sink = sink
        self._exchange = exchange
        self._partitioner = partitioner
        self._topic = commits_topic(context.job)
        self._range = key_group_range(exchange.partitions, context.parallelism, context.subtask)
        self._has_claimed = False

    def new_writer(self) -> TransactionalWriter:
        return self._writer_of(self._context.parallelism, self._context.subtask)

    def _writer_of(self, parallelism: int, subtask: int) -> TransactionalWriter:
        context = self._context
        return context.log.transactional_writer(
            transactional_id(context.job, self._sink, parallelism, subtask),
            transaction_timeout_ms=context.settings.transaction_timeout_ms,
            partitioner=self._partitioner,
        )

    def open(self, writer: TransactionalWriter) -> Opened:
        """*Blocking.* FencedError: there is a later attempt. LogUnavailableError: try again."""
        writer.init()  # raises, before anybody is fenced, when the sink was closed while this call waited
        former = self._former_parallelism()
        if former and not self._has_claimed:
            self._claim(writer)
            self._context.failpoint("after-claim-before-fence")
        for parallelism in former:
            self._fence(parallelism)
        self._context.failpoint("after-fence-before-markers")
        markers = self._read_markers()
        partitions = [
            TopicPartition(exchange_topic(self._context.job, self._exchange.exchange), g) for g in self._groups
        ]
        return Opened(markers, dict(self._context.log.offsets(partitions, OffsetSpec.EARLIEST)))

    @property
    def _groups(self) -> range:
        return self._range.groups()

    @property
    def _commits(self) -> list[TopicPartition]:
        return [TopicPartition(self._topic, group) for group in self._groups]

    def _former_parallelism(self) -> list[int]:
        """Every other parallelism that the sink had in this life of the job."""
        deploy, vertex = self._context.deploy, self._context.vertex.vertex
        former = {segment.parallelism.get(vertex, 0) for segment in deploy.lineage}
        return sorted({*former, *deploy.former_parallelism.get(vertex, ())} - {0, self._context.parallelism})

    def _fence(self, parallelism: int) -> None:
        """Those of its subtasks that owned some of the key groups."""
        for subtask in range(parallelism):
            if len(key_group_range(self._exchange.partitions, parallelism, subtask).intersection(self._range)):
                former = self._writer_of(parallelism, subtask)
                try:
                    former.init()
                except FencedError:
                    pass  # by another subtask that took over from it
                finally:
                    former.close()

    def _claim(self, writer: TransactionalWriter) -> None:
        context, parallelism = self._context, self._context.parallelism
        # What a former owner has left open hides nothing from this look, and is aborted only behind the claim.
        self._check_claims(context.log.read_to_end(self._commits, read_committed=False))
        writer.begin()
        for group in self._groups:
            claim = CommitClaim(
                sink=self._sink,
                key_group=group,
                parallelism=parallelism,
                base=context.deploy.base_checkpoint_id,
                attempt=context.attempt,
            )
            writer.append(self._topic, group, claim_key(self._sink, group, parallelism), encode_claim(claim))
        writer.commit()
        self._has_claimed = True

    def _read_markers(self) -> Sequence[CommitMarker]:
        """When nothing hides any."""
        log = self._context.log
        for _ in range(_LOOKS):
            stable = log.offsets(self._commits, OffsetSpec.LATEST)
            hidden = [tp for tp, end in log.offsets(self._commits, OffsetSpec.END).items() if end > stable[tp]]
            if not hidden:
                return self._check_claims(log.read_to_end(self._commits, read_committed=True))
        raise LogUnavailableError(f"an open transaction hides the commit markers in {hidden[0]}")

    def _check_claims(self, messages: Iterable[LogMessage]) -> Sequence[CommitMarker]:
        """The markers; FencedError when there is a claim of a later attempt."""
        markers, claims = newest_commits(messages, self._sink)
        base, attempt = self._context.deploy.base_checkpoint_id, self._context.attempt
        for claim in claims:
            if (claim.base, claim.attempt) > (base, attempt):
                raise FencedError(f"sink {self._sink!r}: attempt {claim.attempt} owns it, this is {attempt}")
        return markers


def newest_commits(
    messages: Iterable[LogMessage], sink: OperatorUid
) -> tuple[Sequence[CommitMarker], Sequence[CommitClaim]]:
    """Of each key group the marker with the highest checkpoint, and all claims; other sinks' are left out."""
    markers: dict[int, CommitMarker] = {}
    claims: list[CommitClaim] = []
    for commit in _decoded(messages):
        if commit.sink != sink:
            continue
        if isinstance(commit, CommitClaim):
            claims.append(commit)
        elif (known := markers.get(commit.key_group)) is None or commit.checkpoint >= known.checkpoint:
            markers[commit.key_group] = commit
    return list(markers.values()), claims


def _decoded(messages: Iterable[LogMessage]) -> Iterator[CommitMarker | CommitClaim]:
    for message in messages:
        try:
            yield decode_commit(message.value)
        except CorruptDataError as error:
            raise CorruptDataError(f"{message.topic}[{message.partition}] offset {message.offset}: {error}") from error
