from __future__ import annotations

import pytest

from moorage.effects import Call, CallError, CallFailure, CallRepeated, Effects, ReadJob, Report
from moorage.ids import JobId

OPERATION = ReadJob(job=JobId("orders"))
UNAVAILABLE = CallError(CallFailure.UNAVAILABLE, "no answer")
STALE = CallError(CallFailure.STALE, "moved on")


class Ask:
    """One call and what came of it."""

    def __init__(self, *, repeats: bool = False) -> None:
        self.effects = Effects(repeat_delay_ms=100)
        self.results: list[object] = []
        self.errors: list[CallError] = []
        self.effects.call(OPERATION, self.results.append, self.errors.append, repeats=repeats)
        (call,) = self.effects.drain()
        assert isinstance(call, Call)
        self.call = call

    def fail(self, error: CallError) -> None:
        self.effects.finish_call(self.call.call, None, error)


def test_a_result_reaches_who_asked() -> None:
    ask = Ask()
    ask.effects.finish_call(ask.call.call, "result", None)
    assert (ask.results, ask.errors) == (["result"], [])
    assert not ask.effects.is_open(ask.call.call)


@pytest.mark.parametrize("error", [UNAVAILABLE, STALE])
def test_an_error_reaches_who_asked(error: CallError) -> None:
    ask = Ask()
    ask.fail(error)
    assert ask.errors == [error]


def test_a_second_outcome_is_ignored() -> None:
    ask = Ask()
    ask.effects.finish_call(ask.call.call, "result", None)
    ask.fail(STALE)
    assert (ask.results, ask.errors) == (["result"], [])


def test_an_unknown_outcome_is_repeated_after_a_while_until_it_is_known() -> None:
    ask = Ask(repeats=True)
    for now_ms in (0, 200, 400):
        ask.effects.now_ms = now_ms
        ask.fail(UNAVAILABLE)
        ask.effects.now_ms = now_ms + 99
        ask.effects.repeat_calls()
        reports = [action for action in ask.effects.drain() if not isinstance(action, Report)]
        assert reports == []
        ask.effects.now_ms = now_ms + 100
        ask.effects.repeat_calls()
        assert ask.effects.drain() == [ask.call]
        ask.effects.repeat_calls()
        assert ask.effects.drain() == []
    ask.effects.finish_call(ask.call.call, "result", None)
    assert (ask.results, ask.errors) == (["result"], [])


def test_a_repetition_is_reported_once() -> None:
    ask = Ask(repeats=True)
    for _ in range(3):
        ask.fail(UNAVAILABLE)
        ask.effects.now_ms += 100
        ask.effects.repeat_calls()
    reports = [action.notice for action in ask.effects.drain() if isinstance(action, Report)]
    assert reports == [CallRepeated(operation="ReadJob", detail="no answer")]


def test_a_definite_refusal_is_not_repeated() -> None:
    ask = Ask(repeats=True)
    ask.fail(STALE)
    assert ask.errors == [STALE]


def test_after_the_leadership_nothing_comes_back() -> None:
    ask = Ask()
    ask.effects.forget_calls()
    ask.effects.finish_call(ask.call.call, "result", None)
    assert (ask.results, ask.errors) == ([], [])
