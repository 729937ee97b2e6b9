"""The simulation's checks can fail: each of these faults, put into the code on purpose, is caught within a few seeds.

Which seed catches one is luck, so many are allowed; a fault that none of them catches is one that nobody would notice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from moorage.backends.memory import MemoryKeyedBackend
from moorage.barrier.gate import ChannelState, InputGate, Release
from moorage.cleaner_process import calls
from moorage.cleaner_process import job_cleaning as cleaner
from moorage.connectors.kafka_source import KafkaSourceReader
from moorage.exchange.result_partition import ResultPartition
from moorage.task import committer
from moorage.task.committer import CommitterSubtask
from moorage.task.state_writer import StateWriter
from moorage.testing.simulate import SeedFailure, main, simulate_seed

SEEDS = 100

Mutation = Callable[[pytest.MonkeyPatch], None]


def a_sink_commits_without_waiting_for_the_fate(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(CommitterSubtask, "_ask_for_fate", lambda self, _: self._commit() or True)


def a_sink_does_not_look_at_its_markers(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(committer, "newest_markers", lambda *_: [])


def a_sink_does_not_replay_a_lost_transaction(patch: pytest.MonkeyPatch) -> None:
    resume = CommitterSubtask._where_to_resume

    def from_the_running_attempt_on(self: CommitterSubtask, opened: Any) -> Any:
        found = resume(self, opened)
        running = len(self.context.deploy.lineage) - 1
        return found._replace(replay_until=None, first_live=dict.fromkeys(found.first_live, running))

    patch.setattr(CommitterSubtask, "_where_to_resume", from_the_running_attempt_on)


def a_sink_writes_its_markers_into_no_transaction(patch: pytest.MonkeyPatch) -> None:
    commit = CommitterSubtask._commit

    def without_markers(self: CommitterSubtask) -> None:
        self._markers = ()
        commit(self)

    patch.setattr(CommitterSubtask, "_commit", without_markers)


def the_gate_holds_nothing_behind_a_barrier(patch: pytest.MonkeyPatch) -> None:
    barrier = InputGate._barrier

    def opened_again(self: InputGate, channel: Any, checkpoint: Any) -> Any:
        verdict = barrier(self, channel, checkpoint)
        if channel.state is ChannelState.BLOCKED:
            channel.state = ChannelState.OPEN
        return verdict

    patch.setattr(InputGate, "_barrier", opened_again)


def the_gate_forgets_what_it_spilled(patch: pytest.MonkeyPatch) -> None:
    release = InputGate.release
    patch.setattr(InputGate, "release", lambda self: Release(release(self).frames, {}))


def the_gate_takes_zombies_for_the_running_attempt(patch: pytest.MonkeyPatch) -> None:
    offer = InputGate.offer

    def of_whatever_attempt(self: InputGate, tp: Any, offset: int, attempt: Any, *rest: Any, **options: Any) -> Any:
        return offer(self, tp, offset, self.attempt, *rest, **options)

    patch.setattr(InputGate, "offer", of_whatever_attempt)


def frames_are_taken_for_stored_before_they_are(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ResultPartition, "confirmed", lambda *_: True)


def a_checkpoint_is_acknowledged_before_its_files_are_written(patch: pytest.MonkeyPatch) -> None:
    write = StateWriter._write

    def write_later(self: StateWriter, path: str, data: Any) -> None:
        self._executor.submit(lambda: write(self, path, data), lambda *_: None)

    patch.setattr(StateWriter, "_write", write_later)


def a_subtask_gets_the_state_of_its_neighbour(patch: pytest.MonkeyPatch) -> None:
    stored = StateWriter._stored

    def turned(self: StateWriter, segments: Any, handles: Any, error: Any) -> None:
        stored(self, segments, None if handles is None else handles[::-1], error)

    patch.setattr(StateWriter, "_stored", turned)


def a_source_snapshots_what_it_has_not_read_yet(patch: pytest.MonkeyPatch) -> None:
    snapshot = KafkaSourceReader.snapshot

    def ahead(self: KafkaSourceReader) -> Any:
        self._positions = {tp: offset + 1 for tp, offset in self._positions.items()}
        try:
            return snapshot(self)
        finally:
            self._positions = {tp: offset - 1 for tp, offset in self._positions.items()}

    patch.setattr(KafkaSourceReader, "snapshot", ahead)


def state_forgets_what_changed_for_an_aborted_checkpoint(patch: pytest.MonkeyPatch) -> None:
    def forget(self: MemoryKeyedBackend[Any, Any], checkpoint: Any) -> None:
        self._undecided = [snapshot for snapshot in self._undecided if snapshot.checkpoint != checkpoint]

    patch.setattr(MemoryKeyedBackend, "aborted", forget)


def the_cleaner_deletes_what_a_checkpoint_refers_to(patch: pytest.MonkeyPatch) -> None:
    plan = calls.plan_sweep
    patch.setattr(calls, "plan_sweep", lambda facts, _, listing, **options: plan(facts, set(), listing, **options))


def the_cleaner_cuts_a_log_too_far(patch: pytest.MonkeyPatch) -> None:
    trim = cleaner.trim_offsets
    patch.setattr(cleaner, "trim_offsets", lambda *facts: {tp: offset + 1 for tp, offset in trim(*facts).items()})


MUTATIONS: list[Mutation] = [
    a_sink_commits_without_waiting_for_the_fate,
    a_sink_does_not_look_at_its_markers,
    a_sink_does_not_replay_a_lost_transaction,
    a_sink_writes_its_markers_into_no_transaction,
    the_gate_holds_nothing_behind_a_barrier,
    the_gate_forgets_what_it_spilled,
    the_gate_takes_zombies_for_the_running_attempt,
    frames_are_taken_for_stored_before_they_are,
    a_checkpoint_is_acknowledged_before_its_files_are_written,
    a_subtask_gets_the_state_of_its_neighbour,
    a_source_snapshots_what_it_has_not_read_yet,
    state_forgets_what_changed_for_an_aborted_checkpoint,
    the_cleaner_deletes_what_a_checkpoint_refers_to,
    the_cleaner_cuts_a_log_too_far,
]


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.__name__)
def test_a_fault_is_caught(mutation: Mutation, monkeypatch: pytest.MonkeyPatch) -> None:
    mutation(monkeypatch)
    caught = next((r for seed in range(SEEDS) if isinstance(r := simulate_seed(seed), SeedFailure)), None)
    assert caught is not None, f"{SEEDS} seeds did not notice that {mutation.__name__.replace('_', ' ')}"
    print(caught)


def test_a_failing_seed_is_printed_with_how_to_replay_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    the_cleaner_deletes_what_a_checkpoint_refers_to(monkeypatch)
    assert main(["--seeds", "1", "--jobs", "1"]) == 1
    printed = capsys.readouterr().out
    assert "seed 0: InvariantError: checkpoint" in printed
    assert "replay it: python -m moorage.testing.simulate --seed 0 --verbose" in printed
    assert "1 failed: 0" in printed
    assert main(["--seed", "0"]) == 1
    assert "Traceback" in capsys.readouterr().out
