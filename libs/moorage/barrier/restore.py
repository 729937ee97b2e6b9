"""Where a subtask begins to read after a restore: a pure function of the positions that its predecessors stored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from moorage.barrier.channels import InFlight
from moorage.errors import StateError
from moorage.graph.job_graph import Exchange, ExchangeKind
from moorage.ids import ExchangeId, TopicPartition, VertexId
from moorage.state.positions import ExchangePositions, InputPositions
from moorage.state.redistribution import predecessor


class RestoredInputs(NamedTuple):
    starts: dict[TopicPartition, int]
    """Per partition that some predecessor has read: the first offset that is needed."""
    in_flight: list[InFlight]
    """Channels of former attempts that are not over there."""


def restored_inputs(
    inputs: Mapping[str, tuple[Exchange, range]], predecessors: Mapping[int, InputPositions], subtask: int
) -> RestoredInputs:
    """``inputs``: what the subtask reads, by topic; ``predecessors``: by number, those that have positions, which
    are those that had not finished.

    A partition of key groups was read by one of them. A broadcast one was read by each at its own pace: the subtask
    goes on where that one of them was whose broadcast state it goes on with.
    """
    starts: dict[TopicPartition, int] = {}
    in_flight: list[InFlight] = []
    for topic, (exchange, partitions) in inputs.items():
        chosen = sorted(predecessors)
        if exchange.kind is ExchangeKind.BROADCAST and chosen:
            chosen = [predecessor(chosen, subtask)]
        for channel in _channels(topic, exchange.exchange, (predecessors[number] for number in chosen)):
            if channel.partition.partition in partitions:
                starts[channel.partition] = min(channel.offset, starts.get(channel.partition, channel.offset))
                if channel.until:
                    in_flight.append(channel)
    return RestoredInputs(starts, in_flight)


def check_nothing_in_flight(vertex: VertexId, vectors: Iterable[InputPositions]) -> None:
    """StateError when frames belong to the checkpoint that only the life of the job which took it can read."""
    if any(any(part.until) for vector in vectors for part in vector.exchanges):
        raise StateError(
            f"vertex {vertex!r}: the checkpoint did not align, so a part of it lies in the exchange logs of the job"
            " that took it. Another job, or a later life of it, can start from a savepoint, or an aligned checkpoint"
        )


def _channels(topic: str, exchange: ExchangeId, vectors: Iterable[InputPositions]) -> Iterable[InFlight]:
    for vector in vectors:
        for part in vector.exchanges:
            if part.exchange == exchange:
                columns = (part.partitions, part.attempts, part.producers, part.offsets, part.until)
                for partition, attempt, producer, offset, until in zip(*columns, strict=True):
                    yield InFlight(TopicPartition(topic, partition), attempt, producer, offset, until)


def exchange_positions(exchange: ExchangeId, topic: str, channels: Iterable[InFlight]) -> ExchangePositions:
    """The part of a snapshot that belongs to one exchange, as it is stored."""
    mine = [channel for channel in channels if channel.partition.topic == topic]
    return ExchangePositions(
        exchange,
        tuple(c.partition.partition for c in mine),
        tuple(c.attempt for c in mine),
        tuple(c.producer for c in mine),
        tuple(c.offset for c in mine),
        tuple(c.until for c in mine),
    )
