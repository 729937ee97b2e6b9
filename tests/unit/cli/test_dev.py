from __future__ import annotations

import pytest

import moorage as mo
from moorage.api.compiler import compile_pipeline
from moorage_cli.client import JobOverview
from moorage_cli.dev import goes_on
from moorage_cli.kafka import topics_of
from moorage_cli.screen import duration_text, size_text

PIPELINE = mo.Pipeline("orders")
_records = PIPELINE.source(
    "in", mo.KafkaSource(["orders", "returns"], on_error="dead_letter", dead_letter_topic="orders-dead")
)
_records.sink("all", mo.KafkaSink("copies", key=None))
_records.sink("again", mo.KafkaSink("copies", key=None, guarantee="at_least_once"))
COMPILED = compile_pipeline(PIPELINE, "orders:PIPELINE")


def _job(name: str, state: str) -> JobOverview:
    return JobOverview(jid=name, name=name, state=state, start_time=0, end_time=-1, duration=0, tasks={})


def test_topics_of_a_pipeline_are_its_inputs_then_what_it_writes() -> None:
    assert topics_of(COMPILED) == ["orders", "returns", "orders-dead", "copies"]


@pytest.mark.parametrize("state", ["RUNNING", "RESTARTING", "SUSPENDED", "CREATED", "FAILING"])
def test_a_job_that_has_not_ended_goes_on(state: str) -> None:
    assert goes_on([_job("other", "FAILED"), _job("orders", state)], COMPILED.graph)


@pytest.mark.parametrize("state", ["FAILED", "CANCELED", "FINISHED"])
def test_a_job_that_has_ended_is_submitted_anew(state: str) -> None:
    assert not goes_on([_job("orders", state), _job("other", "RUNNING")], COMPILED.graph)


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
