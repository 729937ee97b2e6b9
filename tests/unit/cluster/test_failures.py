from __future__ import annotations

from moorage.cluster.failures import FAILURES_KEPT, cause_of, with_failure
from moorage.ids import Attempt, SubtaskId, VertexId, WorkerId
from moorage.messages.registry import JobFailure

TRACE = """\
Traceback (most recent call last):
  File "/shop/orders.py", line {line}, in process
    raise {error}(order["amount"])
{error}: {message}
"""


def failed(
    at_ms: int, message: str, *, line: int = 12, error: str = "ValueError", vertex: str = "totals"
) -> JobFailure:
    return JobFailure(
        failed_ms=at_ms,
        attempt=Attempt(at_ms),
        cause=f"{vertex}/0 on w1/{at_ms:x} failed: {error}: {message}, from orders[0] offset {at_ms}",
        trace=TRACE.format(line=line, error=error, message=message),
        subtask=SubtaskId(VertexId(vertex), at_ms % 2),
        worker=WorkerId(f"w{at_ms % 2}/{at_ms:x}"),
    )


def lost(at_ms: int, worker: str, after_ms: int) -> JobFailure:
    return JobFailure(
        failed_ms=at_ms,
        attempt=Attempt(at_ms),
        cause=f"worker {worker} is lost: no heartbeat for {after_ms} ms",
        trace=None,
        subtask=None,
        worker=WorkerId(worker),
    )


def history(*failures: JobFailure) -> tuple[JobFailure, ...]:
    """Oldest first."""
    result: tuple[JobFailure, ...] = ()
    for failure in failures:
        result = with_failure(result, failure)
    return result


def test_one_cause_is_one_entry_with_the_newest_detail() -> None:
    (entry,) = history(*(failed(at_ms, f"bad amount {at_ms}") for at_ms in range(1, 100)))
    assert (entry.times, entry.first_ms, entry.failed_ms, entry.attempt) == (99, 1, 99, 99)
    assert entry.cause.endswith("bad amount 99, from orders[0] offset 99")
    assert "bad amount 99" in (entry.trace or "")


def test_other_lines_errors_and_vertices_are_other_causes() -> None:
    entries = history(
        failed(1, "a"),
        failed(2, "a", line=13),
        failed(3, "a", error="KeyError"),
        failed(4, "a", vertex="copies"),
        failed(5, "b"),
    )
    assert [(entry.failed_ms, entry.times) for entry in entries] == [(5, 2), (4, 1), (3, 1), (2, 1)]


def test_causes_that_take_turns_are_counted_all_the_same() -> None:
    entries = history(failed(1, "a"), lost(2, "w1/ab12", 5_000), failed(3, "b"), lost(4, "w1/0f", 5_012))
    assert [(entry.first_ms, entry.failed_ms, entry.times) for entry in entries] == [(2, 4, 2), (1, 3, 2)]


def test_workers_that_are_lost_are_told_apart() -> None:
    assert len(history(lost(1, "w1/a", 5_000), lost(2, "w2/b", 5_000))) == 2


def test_what_has_no_lines_of_code_is_told_by_its_words() -> None:
    def undecodable(offset: int, problem: str) -> JobFailure:
        trace = f"msgspec.ValidationError: Expected `int`, got `str` {offset}\n"
        cause = (
            f"orders/0 on w1/a failed: source 'orders' can't decode the record at orders[0] offset {offset}: {problem}"
        )
        return JobFailure(
            failed_ms=offset,
            attempt=Attempt(1),
            cause=cause,
            trace=trace,
            subtask=SubtaskId(VertexId("orders"), 0),
            worker=WorkerId("w1/a"),
        )

    assert cause_of(undecodable(5, "Expected `int`")) == cause_of(undecodable(17, "Expected `int`"))
    assert cause_of(undecodable(5, "Expected `int`")) != cause_of(undecodable(5, "Expected `str`"))


def test_the_history_is_bounded() -> None:
    entries = history(*(failed(line, "a", line=line) for line in range(1, 3 * FAILURES_KEPT)))
    assert [entry.failed_ms for entry in entries] == [3 * FAILURES_KEPT - 1 - n for n in range(FAILURES_KEPT)]
