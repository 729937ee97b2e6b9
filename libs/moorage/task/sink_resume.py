"""Where an exactly-once sink goes on: a pure function of markers, lineage and the restored checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from moorage.barrier.channels import ChannelPosition
from moorage.errors import CommittedBeyondError, FencedError, MoorageError
from moorage.graph.job_graph import Exchange
from moorage.graph.lineage import lineage_of
from moorage.ids import Attempt, CheckpointId, OperatorUid, TopicPartition
from moorage.messages.commands import DeployJob
from moorage.naming import exchange_topic
from moorage.state.positions import CommitMarker
from moorage.task.sink_opening import Opened


class Resume(NamedTuple):
    starts: dict[TopicPartition, int]
    first_live: dict[TopicPartition, int]
    """Per partition the index of the first segment of the lineage that is not over there."""
    positions: list[tuple[Attempt, ChannelPosition]]
    replay_until: CheckpointId | None
    """A transaction was lost: what lies before this checkpoint is written again and committed at once."""
    committed: CheckpointId
    """Every key group is committed at least up to here; 0 when one is not."""


def where_to_resume(
    sink: OperatorUid, exchange: Exchange, groups: Sequence[int], deploy: DeployJob, opened: Opened
) -> Resume:
    """FencedError: a later attempt has committed. CommittedBeyondError: going on would write output twice."""
    lineage, restored = lineage_of(deploy.lineage, exchange.consumer), deploy.restore_checkpoint or CheckpointId(0)
    topic = exchange_topic(deploy.job, exchange.exchange)
    markers = {m.key_group: m for m in opened.markers if m.checkpoint > deploy.base_checkpoint_id}
    replayable = any(s.end == restored and exchange.consumer in s.parallelism for s in lineage[:-1])
    starts: dict[TopicPartition, int] = {}
    first_live: dict[TopicPartition, int] = {}
    positions: list[tuple[Attempt, ChannelPosition]] = []
    replay = False
    for group in groups:
        tp = TopicPartition(topic, group)
        marker = markers.get(group)
        if marker is None:
            starts[tp] = opened.earliest[tp]
            first_live[tp] = 0
            replay = replay or replayable
            continue
        _check(sink, marker, restored, deploy)
        starts[tp] = marker.start_offset
        positions += _positions(tp, marker)
        if marker.checkpoint >= restored:
            first_live[tp] = len(lineage) - 1
            continue
        if not replayable:
            raise MoorageError(
                f"sink {sink!r}: key group {group} is committed up to checkpoint {marker.checkpoint} only, and the"
                f" job's lineage does not tell what to replay up to checkpoint {restored}"
            )
        first_live[tp] = next(i for i, s in enumerate(lineage) if s.end is not None and s.end > marker.checkpoint)
        replay = True
    committed = min((m.checkpoint for m in markers.values()), default=CheckpointId(0))
    return Resume(
        starts,
        first_live,
        positions,
        restored if replay else None,
        committed if len(markers) == len(groups) else CheckpointId(0),
    )


def _check(sink: OperatorUid, marker: CommitMarker, restored: CheckpointId, deploy: DeployJob) -> None:
    if marker.attempt > deploy.attempt:
        raise FencedError(f"sink {sink!r}: attempt {marker.attempt} has committed, this is {deploy.attempt}")
    if marker.checkpoint > restored and marker.attempt < deploy.attempt and not deploy.allow_duplicates:
        raise CommittedBeyondError(
            f"sink {sink!r} has committed its output up to checkpoint {marker.checkpoint}, but the job goes back to"
            f" checkpoint {restored}: running on would write the output in between twice. Set"
            " checkpoint.allow_duplicates_on_fallback to accept that"
        )


def _positions(tp: TopicPartition, marker: CommitMarker) -> list[tuple[Attempt, ChannelPosition]]:
    offsets = dict(zip(marker.producers, marker.offsets, strict=True))
    return [
        (marker.attempt, ChannelPosition(tp, producer, offsets.get(producer, 0), producer in marker.finished))
        for producer in sorted({*offsets, *marker.finished})
    ]


def markers_at(
    sink: OperatorUid, checkpoint: CheckpointId, attempt: Attempt, channels: Sequence[ChannelPosition]
) -> list[CommitMarker]:
    """The markers of a commit at a barrier, one for each key group."""
    by_group: dict[int, list[ChannelPosition]] = {}
    for channel in channels:
        by_group.setdefault(channel.partition.partition, []).append(channel)
    return [_marker(sink, group, checkpoint, attempt, by_group[group]) for group in by_group]


def _marker(
    sink: OperatorUid, group: int, checkpoint: CheckpointId, attempt: Attempt, channels: Sequence[ChannelPosition]
) -> CommitMarker:
    """Positions of finished channels would hold up the cleaner: they are left out, unless there are no others."""
    finished = [c for c in channels if c.has_finished]
    others = [c for c in channels if not c.has_finished] or [max(finished, key=lambda c: c.offset)]
    return CommitMarker(
        sink=sink,
        key_group=group,
        checkpoint=checkpoint,
        attempt=attempt,
        producers=tuple(c.producer for c in others),
        offsets=tuple(c.offset for c in others),
        finished=tuple(c.producer for c in finished),
    )
