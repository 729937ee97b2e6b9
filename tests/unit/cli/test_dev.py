from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

import moorage as mo
from moorage.api.compiler import compile_pipeline
from moorage_cli.client import Failure, JobOverview
from moorage_cli.dev import FailureNews, goes_on, refuse_another
from moorage_cli.embedded.errors import StackError
from moorage_cli.failure_view import troubles
from moorage_cli.kafka import topics_of
from moorage_cli.screen import Screen, duration_text, size_text

PIPELINE = mo.Pipeline("orders")
_records = PIPELINE.source(
    "in", mo.KafkaSource(["orders", "returns"], on_error="dead_letter", dead_letter_topic="orders-dead")
)
_records.sink("all", mo.KafkaSink("copies", key=None))
_records.sink("again", mo.KafkaSink("copies", key=None, guarantee="at_least_once"))
COMPILED = compile_pipeline(PIPELINE, "orders:PIPELINE")


def _job(name: str, state: str, waiting_for: str | None = None, failure: str | None = None) -> JobOverview:
    return JobOverview(
        jid=name,
        name=name,
        state=state,
        start_time=0,
        end_time=-1,
        duration=0,
        tasks={},
        waiting_for=waiting_for,
        failure=failure,
    )


def test_topics_of_a_pipeline_are_its_inputs_then_what_it_writes() -> None:
    assert topics_of(COMPILED) == ["orders", "returns", "orders-dead", "copies"]


@pytest.mark.parametrize("state", ["RUNNING", "RESTARTING", "SUSPENDED", "CREATED", "FAILING"])
def test_a_job_that_has_not_ended_goes_on(state: str) -> None:
    assert goes_on([_job("other", "FAILED"), _job("orders", state)], COMPILED.graph)


@pytest.mark.parametrize("state", ["FAILED", "CANCELED", "FINISHED"])
def test_a_job_that_has_ended_is_submitted_anew(state: str) -> None:
    assert not goes_on([_job("orders", state), _job("other", "RUNNING")], COMPILED.graph)


def test_refuses_to_go_on_with_another_pipeline() -> None:
    refuse_another(COMPILED.graph.fingerprint, COMPILED.graph, Path("data"))

    with pytest.raises(StackError, match=r"^orders was started in data as another pipeline\."):
        refuse_another("another", COMPILED.graph, Path("data"))


def test_tells_why_a_job_does_not_run() -> None:
    jobs = [
        _job("runs", "RUNNING", failure="an old one[12]"),
        _job("ended", "CANCELED", failure="an old one"),
        _job("new", "CREATED", waiting_for="slots: it needs 4, 2 are free"),
        _job("again", "RESTARTING", waiting_for="the back-off, 5 ms more", failure="KeyError (a record of in[12])"),
        _job("dead", "FAILED", failure="no retained checkpoint can be read"),
    ]

    assert [line.plain for line in troubles(jobs)] == [
        "new: waits for slots: it needs 4, 2 are free",
        "again: waits for the back-off, 5 ms more",
        "again: KeyError (a record of in[12])",
        "dead: no retained checkpoint can be read",
    ]


def test_tells_a_cause_with_its_trace_once_and_then_less_and_less_often(capsys: pytest.CaptureFixture[str]) -> None:
    news = FailureNews(Screen(Console(soft_wrap=True)), since_ms=1)
    other = Failure(cause="b failed", trace="line 8\n", timestamp=50, first_timestamp=50)

    news.tell([])
    news.tell([Failure(cause="of an earlier run", trace="", timestamp=0)])
    for times in range(1, 10):
        again = Failure(cause=f"a[{times}] failed", trace="line [7]\n", timestamp=times, times=times, first_timestamp=1)
        news.tell([again])
        news.tell([again])
    news.tell([other, again])

    lines = [line[line.find("s  ") + 3 :] if " s  " in line else line for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        "a[1] failed",
        "line [7]",
        "2 times: a[2] failed",
        "4 times: a[4] failed",
        "8 times: a[8] failed",
        "b failed",
        "line 8",
    ]


@pytest.mark.parametrize(
    ("duration_ms", "text"),
    [(0, "0 ms"), (999, "999 ms"), (1_000, "1.0 s"), (59_949, "59.9 s"), (60_000, "1 min"), (7_500_000, "2 h 05 min")],
)
def test_durations_as_people_say_them(duration_ms: int, text: str) -> None:
    assert duration_text(duration_ms) == text


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [(0, "0 B"), (1_023, "1023 B"), (1_024, "1.0 KiB"), (5 << 20, "5.0 MiB"), (3 << 40, "3072.0 GiB")],
)
def test_sizes_as_people_say_them(size_bytes: int, text: str) -> None:
    assert size_text(size_bytes) == text
