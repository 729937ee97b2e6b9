"""The lease alone, with its calls answered by hand."""

from __future__ import annotations

from typing import Any

import pytest

from moorage.cluster.leader import TRANSITIONS, Leader
from moorage.cluster.protocol import LeaderState
from moorage.effects import AcquireLease, Call, CallError, CallFailure, Effects, ReleaseLease, RenewLease
from moorage.ids import Epoch
from moorage.messages.registry import Lease

TTL_MS = 3_000
UNAVAILABLE = CallError(CallFailure.UNAVAILABLE, "no answer")


class Bench:
    def __init__(self) -> None:
        self.effects = Effects()
        self.elected = 0
        self.lost = 0
        self.leader = Leader(self.effects, "me", TTL_MS, elected=self._elected, lost=self._lost)
        self.calls: list[Call] = []

    def _elected(self) -> None:
        self.elected += 1

    def _lost(self) -> None:
        self.lost += 1

    def tick(self, now_ms: int) -> None:
        self.effects.now_ms = now_ms
        self.leader.tick()
        self.leader.validate()
        self.calls += [action for action in self.effects.drain() if isinstance(action, Call)]

    def answer(self, result: Any = None, error: CallError | None = None) -> None:
        call = self.calls.pop(0)
        self.effects.finish_call(call.call, result, error)
        self.leader.validate()
        self.calls += [action for action in self.effects.drain() if isinstance(action, Call)]

    def lead(self, epoch: int = 1) -> None:
        self.tick(self.effects.now_ms)
        self.answer(Lease(holder="me", epoch=Epoch(epoch), ttl_ms=TTL_MS))
        self.leader.loaded()


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_it_asks_until_it_gets_the_lease(bench: Bench) -> None:
    bench.tick(0)
    bench.answer(Lease(holder="other", epoch=Epoch(4), ttl_ms=100))
    assert bench.leader.other_holder == "other"
    bench.tick(TTL_MS // 3 - 1)
    assert bench.calls == []
    bench.tick(TTL_MS // 3)
    assert isinstance(bench.calls[0].operation, AcquireLease)
    bench.answer(Lease(holder="me", epoch=Epoch(5), ttl_ms=TTL_MS))
    assert (bench.leader.state, bench.effects.epoch, bench.elected) == (LeaderState.LOADING, 5, 1)
    assert bench.leader.other_holder is None


def test_it_renews_and_keeps_the_lead(bench: Bench) -> None:
    bench.lead()
    for now_ms in range(0, 20_000, 100):
        bench.tick(now_ms)
        if bench.calls:
            assert isinstance(bench.calls[0].operation, RenewLease)
            bench.answer(True)
    assert bench.leader.state is LeaderState.LEADING
    assert bench.lost == 0


def test_a_renewal_counts_from_when_it_was_asked_for(bench: Bench) -> None:
    bench.lead()
    bench.tick(1_000)
    bench.effects.now_ms = 2_900
    bench.answer(True)
    bench.tick(3_999)
    assert bench.leader.leads
    bench.tick(4_000)
    assert not bench.leader.leads


def test_an_answer_that_says_no_ends_the_lead_at_once(bench: Bench) -> None:
    bench.lead()
    bench.tick(1_000)
    bench.answer(False)
    assert (bench.leader.state, bench.lost) == (LeaderState.STANDBY, 1)


def test_without_an_answer_the_lead_ends_with_the_lease(bench: Bench) -> None:
    bench.lead()
    for now_ms in range(1_000, 3_000, 50):
        bench.tick(now_ms)
        if bench.calls:
            bench.answer(error=UNAVAILABLE)
    assert bench.leader.leads
    bench.tick(3_000)
    assert not bench.leader.leads


def test_an_answer_after_the_end_is_ignored(bench: Bench) -> None:
    bench.lead()
    bench.tick(1_000)
    late = bench.calls.pop(0)
    bench.tick(3_000)
    bench.effects.finish_call(late.call, True, None)
    assert bench.leader.state is LeaderState.STANDBY


def test_the_next_lease_must_have_a_higher_epoch_than_any_that_was_seen(bench: Bench) -> None:
    bench.lead()
    bench.calls.clear()
    bench.leader.saw_epoch(Epoch(9))
    assert bench.leader.state is LeaderState.STANDBY
    bench.tick(1_000)
    operation = bench.calls[-1].operation
    assert isinstance(operation, AcquireLease)
    assert operation.above == 9


def test_a_standby_leads_above_the_leader_that_it_knew(bench: Bench) -> None:
    """When the registry has lost its data, its epochs begin anew, and a former leader may still act on the first."""
    bench.tick(0)
    bench.answer(Lease(holder="other", epoch=Epoch(4), ttl_ms=100))
    bench.tick(TTL_MS)
    operation = bench.calls[-1].operation
    assert isinstance(operation, AcquireLease)
    assert operation.above == 4


def test_leaders_that_never_heard_of_one_another_have_different_epochs(bench: Bench) -> None:
    """Should the registry lose its data between the two."""
    bench.effects.wall_ms = 1_700_000_000_000
    bench.tick(0)
    operation = bench.calls[-1].operation
    assert isinstance(operation, AcquireLease)
    assert operation.above == 1_700_000_000_000


def test_a_lower_epoch_means_nothing(bench: Bench) -> None:
    bench.lead(epoch=3)
    bench.leader.saw_epoch(Epoch(2))
    assert bench.leader.leads


def test_a_stop_releases_the_lease(bench: Bench) -> None:
    bench.lead()
    bench.leader.stop()
    bench.tick(1)
    assert [type(call.operation) for call in bench.calls] == [ReleaseLease]
    assert not bench.leader.released
    bench.answer(None)
    assert bench.leader.released
    bench.tick(10_000)
    assert bench.calls == []


def test_a_lease_that_can_not_be_released_expires_by_itself(bench: Bench) -> None:
    bench.lead()
    bench.leader.stop()
    bench.leader.stop()
    bench.tick(1)
    bench.answer(error=UNAVAILABLE)
    assert bench.leader.released


@pytest.mark.parametrize("state", LeaderState)
def test_stopped_is_the_end(state: LeaderState) -> None:
    assert TRANSITIONS[LeaderState.STOPPED] == frozenset()
    assert state is LeaderState.STOPPED or LeaderState.STOPPED in TRANSITIONS[state]
