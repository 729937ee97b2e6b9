"""Descriptions of sources and sinks, as people write them. What runs them is in ``moorage.connectors``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any, Final, Literal

import msgspec

from moorage.api.formats import Format, Json, check_format
from moorage.errors import PipelineError
from moorage.graph.job_graph import OperatorCoordinatorSpec
from moorage.naming import check_topic


class _Missing(Enum):
    KEY = "missing"


MISSING: Final = _Missing.KEY
"""No key was given; ``key=None`` says that records have none."""

KeySelector = str | Callable[[Any], Any]


class StartAt(msgspec.Struct, frozen=True):
    """Where a source starts when no checkpoint says it."""

    kind: Literal["earliest", "latest", "committed", "timestamp"]
    timestamp_ms: int = 0

    @staticmethod
    def parse(value: str | int) -> StartAt:
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return StartAt("timestamp", value)
        match value:
            case "earliest" | "latest" | "committed":
                return StartAt(value)
        raise PipelineError(f"start={value!r}: use 'earliest', 'latest', 'committed' or a timestamp in ms")


KAFKA_SOURCE_KIND = "kafka_source"


class KafkaSourceDiscovery(msgspec.Struct, frozen=True):
    """What a source's coordinator needs to know."""

    topics: tuple[str, ...]
    interval_ms: int | None
    """Between two looks at the topics; None: the partitions that there are at the start are all."""


class KafkaSource:
    """Records of Kafka topics, exactly once.

    ``topics``: one name or several. ``value``: format of the values (default JSON). ``start``: where a run without a
    checkpoint starts: 'earliest', 'latest', 'committed' (offsets of ``group``, else earliest) or a timestamp in ms.
    Offsets live in the checkpoint; they are also committed to ``group`` (default ``moorage.<job>.<source>``) for lag
    tools. Partitions that are added later are found within ``discovery_interval_ms`` and read from their beginning.

    ``until``: 'latest' reads each partition up to its end at the first start and then idles; a mapping of
    (topic, partition) to offset up to there (exclusive), and nothing of partitions that it does not name.

    ``backlog_records``: a subtask that is more records behind the end of its input works off a backlog; while one does
    so checkpoints are taken at ``interval_during_backlog_ms``. None: that interval is never used.

    ``on_error``: what becomes of a record whose value can't be decoded: 'fail' fails the job with topic, partition and
    offset; 'skip' counts it; 'dead_letter' sends it, as it is, to ``dead_letter_topic``.
    """

    def __init__(
        self,
        topics: str | Sequence[str],
        *,
        value: Format | None = None,
        start: str | int = "earliest",
        until: Literal["latest"] | Mapping[tuple[str, int], int] | None = None,
        on_error: Literal["fail", "skip", "dead_letter"] = "fail",
        dead_letter_topic: str | None = None,
        read_committed: bool = True,
        group: str | None = None,
        discovery_interval_ms: int = 30_000,
        backlog_records: int | None = None,
    ) -> None:
        named = (topics,) if isinstance(topics, str) else topics
        if not isinstance(named, Sequence) or not named:
            raise PipelineError(f"KafkaSource needs the name of at least one topic, not {topics!r}")
        self.topics = tuple(check_topic("KafkaSource", topic, written=False) for topic in named)
        self.value = Json() if value is None else check_format("KafkaSource", value)
        self.start = StartAt.parse(start)
        self.until = until
        self.on_error = on_error
        self.dead_letter_topic = dead_letter_topic
        self.read_committed = read_committed
        self.group = group
        self.discovery_interval_ms = discovery_interval_ms
        self.backlog_records = backlog_records
        if len(set(self.topics)) != len(self.topics):
            raise PipelineError(f"KafkaSource names a topic twice: {', '.join(self.topics)}")
        if until is not None and until != "latest" and not _is_offsets(until):
            raise PipelineError(f"until={until!r}: use 'latest' or a mapping of (topic, partition) to offset")
        if isinstance(until, Mapping) and (unknown := {topic for topic, _ in until} - set(self.topics)):
            raise PipelineError(f"until={until!r}: the source does not read {', '.join(sorted(unknown))}")
        if on_error not in ("fail", "skip", "dead_letter"):
            raise PipelineError(f"on_error={on_error!r}: use 'fail', 'skip' or 'dead_letter'")
        if (on_error == "dead_letter") != (dead_letter_topic is not None):
            raise PipelineError("on_error='dead_letter' and dead_letter_topic='...' go together")
        if dead_letter_topic is not None:
            check_topic("dead_letter_topic", dead_letter_topic, written=True)
        if dead_letter_topic in self.topics:
            raise PipelineError(f"dead_letter_topic={dead_letter_topic!r}: the source reads it, so it would never end")
        if type(read_committed) is not bool:
            raise PipelineError(f"read_committed={read_committed!r}: use True or False")
        if group is not None and (not isinstance(group, str) or not group):
            raise PipelineError(f"group={group!r}: use the name of a consumer group")
        _check_count("discovery_interval_ms", discovery_interval_ms)
        if backlog_records is not None:
            _check_count("backlog_records", backlog_records)

    def coordinator(self) -> OperatorCoordinatorSpec:
        """What the coordinator does for the source: it looks for new partitions."""
        interval_ms = self.discovery_interval_ms if self.until is None else None
        config = msgspec.msgpack.encode(KafkaSourceDiscovery(self.topics, interval_ms))
        return OperatorCoordinatorSpec(kind=KAFKA_SOURCE_KIND, config=config)


def _is_offsets(until: object) -> bool:
    return isinstance(until, Mapping) and all(
        isinstance(tp, tuple) and [*map(type, tp)] == [str, int] and type(offset) is int and min(tp[1], offset) >= 0
        for tp, offset in until.items()
    )


def _check_count(name: str, value: object) -> None:
    if type(value) is not int or value < 1:
        raise PipelineError(f"{name}={value!r}: use a whole number of at least 1")


class KafkaSink:
    """Writes records to a Kafka topic.

    ``key``: field of the output, or a function of it, whose value is the record's key (str as UTF-8, bytes as they are,
    other values as JSON); ``None``: records without keys. ``value``: format of the values (default JSON).

    ``guarantee``: 'exactly_once' (the default) writes transactions that are committed with the checkpoints: readers
    with isolation.level=read_committed see every result once, a checkpoint later. 'at_least_once' writes at once, and
    again what a restart repeats.

    ``partitioner``: librdkafka's name; 'murmur2_random' places keys as Java clients do.
    """

    def __init__(
        self,
        topic: str,
        *,
        key: KeySelector | _Missing | None = MISSING,
        value: Format | None = None,
        guarantee: Literal["exactly_once", "at_least_once"] = "exactly_once",
        partitioner: Literal["consistent_random", "murmur2_random"] = "consistent_random",
    ) -> None:
        self.topic = check_topic("KafkaSink", topic, written=True)
        self.key = key
        self.value = Json() if value is None else check_format("KafkaSink", value)
        self.guarantee = guarantee
        self.partitioner = partitioner
        if guarantee not in ("exactly_once", "at_least_once"):
            raise PipelineError(f"guarantee={guarantee!r}: use 'exactly_once' or 'at_least_once'")
        if partitioner not in ("consistent_random", "murmur2_random"):
            raise PipelineError(f"partitioner={partitioner!r}: use 'consistent_random' or 'murmur2_random'")
