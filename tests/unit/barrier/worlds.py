"""Exchange logs as attempts, zombies and lost triggers leave them, and a reader that does what the gate asks."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from random import Random
from typing import NamedTuple

from moorage.barrier.channels import ChannelPosition, Held
from moorage.barrier.gate import InputGate, Verdict
from moorage.barrier.lineage import producers_of
from moorage.graph.job_graph import Exchange, ExchangeKind
from moorage.ids import Attempt, CheckpointId, ExchangeId, OperatorUid, TopicPartition, VertexId
from moorage.messages.barriers import Alignment, Barrier, SnapshotOptions
from moorage.messages.registry import LineageSegment

TOPIC = "moorage.orders.a--b"
A, B = VertexId("a"), VertexId("b")


def exchange(kind: ExchangeKind = ExchangeKind.KEYED, partitions: int = 4) -> Exchange:
    return Exchange(
        exchange=ExchangeId("a--b"),
        kind=kind,
        producer=A,
        producer_operator=OperatorUid("a"),
        consumer=B,
        partitions=partitions,
    )


def segment(attempt: int, end: int | None, producers: int) -> LineageSegment:
    return LineageSegment(Attempt(attempt), None if end is None else CheckpointId(end), {A: producers, B: 1})


def tp(partition: int) -> TopicPartition:
    return TopicPartition(TOPIC, partition)


def barrier_of(checkpoint: int, alignment: Alignment = Alignment.ALIGNED) -> Barrier:
    return Barrier(checkpoint=CheckpointId(checkpoint), triggered_ms=0, options=SnapshotOptions(alignment=alignment))


class Frame(NamedTuple):
    attempt: int
    producer: int
    barrier: int | None = None
    size_bytes: int = 10

    @property
    def channel(self) -> tuple[int, int]:
        return self.attempt, self.producer


class World:
    """Partitions full of frames. Each attempt of the lineage has its checkpoints; those of the running one may miss a
    producer, because a trigger or a whole attempt at it was lost."""

    def __init__(self, rng: Random, kind: ExchangeKind) -> None:
        self.rng = rng
        self.exchange = exchange(kind, partitions=rng.randint(1, 3))
        self.lineage: list[LineageSegment] = []
        self.checkpoints: dict[int, list[int]] = {}
        """Attempt -> the checkpoints for which every producer sent barriers."""
        self.logs: list[list[Frame]] = [[] for _ in range(self.exchange.partitions)]
        checkpoint = 0
        former: list[list[list[Frame]]] = [[] for _ in self.logs]
        ended = rng.randint(0, 2)
        for index in range(ended + 1):
            attempt = 2 * index + 1
            producers = rng.randint(1, min(3, self.exchange.partitions))
            triggered = [checkpoint + 1 + i for i in range(rng.randint(1, 5))]
            checkpoint = triggered[-1]
            end = rng.choice(triggered) if index < ended else None
            self.lineage.append(segment(attempt, end, producers))
            # A lost trigger: that producer's barrier is missing, and the checkpoint can't have been completed.
            lost = {(n, rng.randrange(producers)) for n in triggered if n != end and rng.random() < 0.5}
            self.checkpoints[attempt] = [n for n in triggered if n not in {m for m, _ in lost}]
            for partition, log in enumerate(self.logs):
                channels = [
                    self._channel(attempt, producer, [n for n in triggered if (n, producer) not in lost])
                    for producer in producers_of(self.exchange, partition, self.lineage[-1])
                ]
                # Zombies of the attempt before, and an attempt that completed nothing, write in between.
                void = [self._channel(attempt - 1, 0, [])] if rng.random() < 0.5 else []
                tails = self._write(log, channels, [*former[partition], *void], end)
                former[partition] = tails

    def _channel(self, attempt: int, producer: int, barriers: Sequence[int]) -> list[Frame]:
        rng = self.rng
        frames: list[Frame] = []
        for barrier in (*barriers, None):
            frames += [Frame(attempt, producer, None, rng.randint(1, 9)) for _ in range(rng.randint(0, 3))]
            if barrier is not None:
                frames.append(Frame(attempt, producer, barrier))
        return frames

    def _write(
        self, log: list[Frame], channels: list[list[Frame]], others: list[list[Frame]], end: int | None
    ) -> list[list[Frame]]:
        """Interleave the channels, up to what lies before the next attempt; what zombies write later is returned."""
        tails: list[list[Frame]] = []
        heads = channels
        if end is not None:
            heads = []
            for frames in channels:
                behind = next(i for i, frame in enumerate(frames) if frame.barrier == end) + 1
                more = self.rng.randint(behind, len(frames))
                heads.append(frames[:more])
                tails.append(frames[more:])
        queues = [deque(frames) for frames in (*heads, *others) if frames]
        while queues:
            queue = self.rng.choice(queues)
            log.append(queue.popleft())
            if not queue:
                queues.remove(queue)
        return [tail for tail in tails if tail]

    def channels(self, partition: int, attempt: int) -> list[int]:
        chosen = next(s for s in self.lineage if s.attempt == attempt)
        return list(producers_of(self.exchange, partition, chosen))

    def data(self, partition: int, channel: tuple[int, int], first: int = 0) -> list[int]:
        """Offsets of the data frames of a channel."""
        log = self.logs[partition]
        return [i for i in range(first, len(log)) if log[i].channel == channel and log[i].barrier is None]

    def barrier(self, partition: int, channel: tuple[int, int], checkpoint: int) -> int:
        return self.logs[partition].index(Frame(*channel, checkpoint))

    def behind(self, partition: int, attempt: int, checkpoint: int) -> dict[int, int]:
        """Producer -> offset behind its barrier: what a sink's marker of ``checkpoint`` says."""
        return {p: self.barrier(partition, (attempt, p), checkpoint) + 1 for p in self.channels(partition, attempt)}


class Reader:
    """The caller that the gate asks for: offers frames, releases, seeks. ``validate`` runs after every offer."""

    def __init__(
        self,
        world: World,
        gate: InputGate,
        starts: Mapping[TopicPartition, int],
        alignment: Alignment = Alignment.ALIGNED,
    ) -> None:
        self.world = world
        self.alignment = alignment
        self.gate = gate
        self.positions = dict(starts)
        self.first: dict[tuple[int, int], int] = {}
        """(partition, producer) -> first offset of the running attempt that was not processed before; default 0."""
        self.committed = 0
        """The newest checkpoint of the running attempt that a marker speaks of: those before need not be aligned."""
        self.queue: deque[tuple[TopicPartition, int]] = deque()
        self.processed: list[tuple[int, int]] = []
        """(partition, offset), in order."""
        self.taken: list[int] = []
        """Checkpoints whose snapshot was due."""
        self.abandoned: list[int] = []
        self.seeks = 0

    def poll(self) -> bool:
        """Fetch some frames of some partition, as a log does: in order, in no order between partitions."""
        behind = [t for t, offset in self.positions.items() if offset < len(self.world.logs[t.partition])]
        if not behind:
            return False
        partition = self.world.rng.choice(behind)
        end = min(self.positions[partition] + self.world.rng.randint(1, 4), len(self.world.logs[partition.partition]))
        self.queue += [(partition, offset) for offset in range(self.positions[partition], end)]
        self.positions[partition] = end
        return True

    def offer_one(self) -> Verdict:
        partition, offset = self.queue.popleft()
        frame = self.world.logs[partition.partition][offset]
        verdict = self.gate.offer(
            partition,
            offset,
            Attempt(frame.attempt),
            frame.producer,
            frame.size_bytes,
            (partition, offset),
            barrier=None if frame.barrier is None else barrier_of(frame.barrier, self.alignment),
        )
        if verdict is Verdict.PROCESS:
            assert frame.barrier is None
            self.processed.append((partition.partition, offset))
        return self.note(verdict)

    def announce(self, checkpoint: int) -> Verdict:
        return self.note(self.gate.announce(barrier_of(checkpoint, self.alignment)))

    def note(self, verdict: Verdict) -> Verdict:
        """Of whatever the gate was told."""
        self.gate.validate()
        if verdict is Verdict.SNAPSHOT:
            assert self.gate.due is not None
            self.taken.append(self.gate.due)
        self.abandoned += [declined.checkpoint for declined in self.gate.declined]
        self.gate.declined.clear()
        return verdict

    def release(self) -> Verdict:
        released = self.gate.release()
        self.seeks += len(released.seeks)
        self.queue = deque(item for item in self.queue if item[0] not in released.seeks)
        self.positions.update(released.seeks)
        assert all(isinstance(held, Held) for held in released.frames)
        self.queue.extendleft((held.partition, held.offset) for held in reversed(released.frames))
        return self.note(Verdict.NOTED if self.gate.due is None else Verdict.SNAPSHOT)

    def done(self, partition: int, channel: tuple[int, int]) -> list[int]:
        """Offsets that were processed of a channel, in the order in which that was."""
        log = self.world.logs[partition]
        return [offset for number, offset in self.processed if number == partition and log[offset].channel == channel]


def channel_positions(
    partition: int, attempt: int, offsets: Mapping[int, int]
) -> list[tuple[Attempt, ChannelPosition]]:
    return [(Attempt(attempt), ChannelPosition(tp(partition), p, offset)) for p, offset in offsets.items()]
