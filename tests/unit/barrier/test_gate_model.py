"""The gate against whatever an exchange log can hold.

What is processed before ALIGNED n is, of every channel, exactly what lies before its barrier n: nothing twice, nothing
left out, in order; whatever is held, spilled, aborted or abandoned meanwhile.
"""

from __future__ import annotations

from collections import Counter
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.barrier.worlds import TOPIC, Reader, World, channel_positions, tp

from moorage.barrier.gate import InputGate, Verdict
from moorage.barrier.restore import RestoredInputs, exchange_positions, restored_inputs
from moorage.graph.job_graph import ExchangeKind
from moorage.ids import CheckpointId, TopicPartition
from moorage.messages.barriers import Alignment
from moorage.state.positions import InputPositions

EXAMPLES = settings(max_examples=300)
BOUNDS = st.sampled_from([0, 15, 60, 1_000])
SEEDS = st.integers(0, 2**32)
KINDS = st.sampled_from(ExchangeKind)


def run(reader: Reader, *, until: int | None = None) -> None:
    """Read to the end, or to the first alignment of ``until``; checkpoints are aborted at any time."""
    world, gate, rng = reader.world, reader.gate, reader.world.rng
    complete = set(world.checkpoints[world.lineage[-1].attempt])
    aborted: set[int] = set()
    while reader.queue or reader.poll() or gate.pending:
        if not reader.queue or (gate.replay_until is None and rng.random() < 0.03):
            if reader.queue:
                chosen = CheckpointId(rng.choice([*complete, gate.aligning or 1]))
            else:  # nothing else frees an alignment whose barriers were lost
                chosen = min(barrier.checkpoint for barrier in gate.pending)
                assert chosen not in complete or chosen <= reader.committed
            if chosen not in reader.taken:
                aborted.add(chosen)
            verdict = reader.note(gate.abort(chosen))
        else:
            verdict = reader.offer_one()
        while verdict is Verdict.SNAPSHOT:
            assert reader.taken[-1] not in aborted
            if gate.replay_until is None:
                check_aligned(reader, reader.taken[-1])
            if reader.taken[-1] == until:
                return
            verdict = reader.release()
        if verdict is Verdict.RELEASE:
            reader.release()
    assert gate.held_bytes == 0
    assert {n for n in complete if n > reader.committed} <= {*reader.taken, *aborted}


def check_aligned(reader: Reader, checkpoint: int) -> None:
    world, gate = reader.world, reader.gate
    attempt = world.lineage[-1].attempt
    assert checkpoint in world.checkpoints[attempt]
    positions = {(p.partition.partition, p.producer): p.offset for p in gate.positions()}
    for partition, _ in enumerate(world.logs):
        for producer in world.channels(partition, attempt):
            barrier = world.barrier(partition, (attempt, producer), checkpoint)
            first = reader.first.get((partition, producer), 0)
            expected = [o for o in world.data(partition, (attempt, producer), first) if o < barrier]
            assert reader.done(partition, (attempt, producer)) == expected
            assert positions.pop((partition, producer)) == barrier + 1
    assert not positions


def check_end(reader: Reader) -> None:
    world = reader.world
    attempt = world.lineage[-1].attempt
    for partition, _ in enumerate(world.logs):
        for producer in world.channels(partition, attempt):
            first = reader.first.get((partition, producer), 0)
            assert reader.done(partition, (attempt, producer)) == world.data(partition, (attempt, producer), first)
    assert max(Counter(reader.processed).values(), default=1) == 1
    assert reader.taken == sorted(set(reader.taken))
    assert not set(reader.taken) & set(reader.abandoned)


@EXAMPLES
@given(SEEDS, KINDS, BOUNDS)
def test_after_an_aligned_restore_only_the_running_attempt_counts(seed: int, kind: ExchangeKind, bound: int) -> None:
    world = World(Random(seed), kind)
    starts = {tp(i): 0 for i, _ in enumerate(world.logs)}
    inputs = {TOPIC: (world.exchange, range(len(world.logs)))}
    reader = Reader(world, InputGate(inputs, world.lineage, starts, held_bytes_max=bound), starts)
    run(reader)
    check_end(reader)
    assert {world.logs[p][o].attempt for p, o in reader.processed} <= {world.lineage[-1].attempt}


@EXAMPLES
@given(SEEDS, KINDS, BOUNDS)
def test_a_sink_that_lags_replays_older_attempts_first(seed: int, kind: ExchangeKind, bound: int) -> None:
    """Markers anywhere in the history, another one in each partition, or none."""
    rng = Random(seed)
    world = World(rng, kind)
    restored = world.lineage[-2].end if len(world.lineage) > 1 else None
    running = world.lineage[-1].attempt
    starts: dict[TopicPartition, int] = {}
    first_live: dict[TopicPartition, int] = {}
    positions = []
    first_offsets: dict[tuple[int, int], int] = {}
    committed = 0
    expected: dict[tuple[int, tuple[int, int]], list[int]] = {}
    replay = False
    for partition, _ in enumerate(world.logs):
        markers = [
            (s.attempt, n) for s in world.lineage for n in world.checkpoints[s.attempt] if s.end is None or n <= s.end
        ]
        attempt, checkpoint = rng.choice([(0, 0), *markers])
        offsets = world.behind(partition, attempt, checkpoint) if checkpoint else {}
        starts[tp(partition)] = min(offsets.values(), default=0)
        positions += channel_positions(partition, attempt, offsets)
        live = next(i for i, s in enumerate(world.lineage) if s.end is None or s.end > checkpoint)
        first_live[tp(partition)] = live
        replay = replay or live < len(world.lineage) - 1
        if attempt == running:
            committed = max(committed, checkpoint)
            first_offsets.update({(partition, producer): offset for producer, offset in offsets.items()})
        for segment in world.lineage[live:-1]:
            for producer in world.channels(partition, segment.attempt):
                assert segment.end is not None
                channel = (int(segment.attempt), producer)
                first = offsets[producer] if segment.attempt == attempt else 0
                end = world.barrier(partition, channel, segment.end)
                expected[partition, channel] = [o for o in world.data(partition, channel, first) if o < end]
    gate = InputGate(
        {TOPIC: (world.exchange, range(len(world.logs)))},
        world.lineage,
        starts,
        positions=positions,
        first_live=first_live,
        replay_until=restored if replay else None,
        held_bytes_max=bound,
    )
    reader = Reader(world, gate, starts)
    reader.first = first_offsets
    reader.committed = committed
    if replay:
        assert restored is not None
        run(reader, until=restored)
        assert reader.taken == [restored]
        assert gate.attempt == world.lineage[-2].attempt
        replayed = {(p, world.logs[p][o].channel) for p, o in reader.processed}
        assert replayed <= expected.keys()
        for (partition, channel), offsets_ in expected.items():
            assert reader.done(partition, channel) == offsets_
        for position in gate.positions():
            partition = position.partition.partition
            channel = (int(gate.attempt), position.producer)
            assert position.offset == world.barrier(partition, channel, restored) + 1
        reader.release()
    assert gate.replay_until is None
    assert gate.attempt == running
    run(reader)
    check_end(reader)
    for (partition, channel), offsets_ in expected.items():
        assert reader.done(partition, channel) == offsets_


@EXAMPLES
@given(SEEDS, KINDS, BOUNDS)
def test_what_is_in_flight_survives_any_number_of_restarts(seed: int, kind: ExchangeKind, bound: int) -> None:
    """Each attempt goes on from a checkpoint of the one before that left in flight what it pleased."""
    rng = Random(seed)
    world = World(rng, kind)
    inputs = {TOPIC: (world.exchange, range(len(world.logs)))}
    restored = RestoredInputs({tp(i): 0 for i, _ in enumerate(world.logs)}, [])
    processed: list[tuple[int, int]] = []
    for part in world.lineage:
        running = part.__class__(part.attempt, None, part.parallelism)
        gate = InputGate(inputs, [running], restored.starts, in_flight=restored.in_flight, held_bytes_max=bound)
        alignment = rng.choice([Alignment.UNALIGNED, Alignment.TIMEOUT, Alignment.ALIGNED])
        reader = Reader(world, gate, restored.starts, alignment)
        run_unaligned(reader, part.attempt, until=part.end)
        processed += reader.processed
        if part.end is not None:
            stored = exchange_positions(world.exchange.exchange, TOPIC, gate.snapshot())
            restored = restored_inputs(inputs, {0: InputPositions((stored,))}, 0)
            assert restored.starts.keys() == inputs_of(world)
    for partition, log in enumerate(world.logs):
        for part in world.lineage:
            for producer in world.channels(partition, part.attempt):
                channel = (int(part.attempt), producer)
                end = len(log) if part.end is None else world.barrier(partition, channel, part.end)
                done = [o for number, o in processed if number == partition and log[o].channel == channel]
                assert done == [o for o in world.data(partition, channel) if o < end]


def inputs_of(world: World) -> set[TopicPartition]:
    return {tp(number) for number, _ in enumerate(world.logs)}


def run_unaligned(reader: Reader, attempt: int, until: int | None) -> None:
    """Read to the snapshot of ``until``, or to the end. Triggers are heard at any time, in order."""
    world, gate, rng = reader.world, reader.gate, reader.world.rng
    triggers = sorted({f.barrier for log in world.logs for f in log if f.attempt == attempt and f.barrier is not None})
    while True:
        pending = [barrier.checkpoint for barrier in gate.pending]
        if triggers and rng.random() < 0.1:
            verdict = reader.announce(triggers.pop(0))
        elif pending and rng.random() < 0.1:
            verdict = reader.note(gate.overtake(rng.choice(pending)))
        elif reader.queue or reader.poll():
            verdict = reader.offer_one()
        elif triggers:
            verdict = reader.announce(triggers.pop(0))
        elif pending:  # one whose barriers were lost
            assert until not in pending or min(pending) != until
            verdict = reader.note(gate.abort(min(pending)))
        else:
            assert until is None
            return
        while verdict is Verdict.SNAPSHOT:
            if reader.taken[-1] == until:
                return
            verdict = reader.release()
        if verdict is Verdict.RELEASE or gate.must_release:
            reader.release()


def test_the_worlds_hold_what_is_to_be_tested() -> None:
    """Spills, abandonments, aborted alignments and replays over several attempts do occur."""
    seen: Counter[str] = Counter()
    for seed in range(300):
        world = World(Random(seed), ExchangeKind.KEYED)
        starts = {tp(i): 0 for i, _ in enumerate(world.logs)}
        inputs = {TOPIC: (world.exchange, range(len(world.logs)))}
        reader = Reader(world, InputGate(inputs, world.lineage, starts, held_bytes_max=15), starts)
        run(reader)
        seen["seeks"] += reader.seeks
        seen["aligned"] += len(reader.taken)
        seen["abandoned"] += len(reader.abandoned)
        seen["segments"] += len(world.lineage) == 3
    assert all(seen[what] > 20 for what in ("seeks", "aligned", "abandoned", "segments")), seen
