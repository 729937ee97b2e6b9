"""A job of two parts on real processes: while the user's code fails in one of them, the other goes on."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.integration.counting import produce, results

from moorage.api.loader import load_pipeline
from moorage.ids import JobId
from moorage_cli.embedded.stack import Stack
from moorage_cli.kafka import connect, create_missing

PIPELINE = """
import pathlib
import time

import moorage as mo

BROKEN = pathlib.Path({broken!r})


class Counter(mo.KeyedState):
    count: int = 0

    def process(self, order, ctx):
        self.count += 1
        return {{"user": ctx.key, "count": self.count}}


class Fragile(Counter):
    def process(self, order, ctx):
        if BROKEN.exists():
            raise ValueError("it is broken")
        return super().process(order, ctx)


pipeline = mo.Pipeline(
    "parts",
    parallelism=2,
    checkpoint=mo.CheckpointConfig(interval_ms=300),
    restart=mo.RestartConfig(strategy="fixed_delay", initial_delay_ms=300, max_attempts=1_000),
)
for source, name, counter, topic in (
    ("orders", "fragile", Fragile, "fragile-totals"),
    ("again", "sturdy", Counter, "sturdy-totals"),
):
    (
        pipeline.source(source, mo.KafkaSource("orders"))
        .key_by("user")
        .process(name, counter)
        .sink(f"{{name}}-results", mo.KafkaSink(topic, key="user"))
    )
"""
JOB = JobId("parts")
USERS, PARTITIONS, BATCH, TIMEOUT_S = 31, 3, 5_000, 120.0
FRAGILE = {"orders", "fragile", "fragile-results"}
STURDY = {"again", "sturdy", "sturdy-results"}


def expected(orders: int) -> list[tuple[str, int]]:
    return sorted((f"user-{n}", count) for n in range(USERS) for count in range(1, len(range(n, orders, USERS)) + 1))


@pytest.mark.kafka
@pytest.mark.timeout(300)
def test_a_part_goes_on_while_the_code_of_another_one_fails(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    file = tmp_path / "pipeline.py"
    file.write_text(PIPELINE.format(broken=str(broken)))
    with (
        Stack(tmp_path / "stack", workers=2) as stack,
        closing(connect(stack.bootstrap_servers)) as log,
        stack.client() as client,
    ):
        create_missing(log, ["orders", "fragile-totals", "sturdy-totals"], PARTITIONS)
        produce(log, range(BATCH), USERS)
        client.submit(load_pipeline(f"{file}:pipeline").graph)

        def wait(condition: Callable[[], bool], what: str) -> None:
            deadline_s = time.monotonic() + TIMEOUT_S
            while not condition():
                assert time.monotonic() < deadline_s, f"{what}: {client.job(JOB)}"
                time.sleep(0.1)

        def attempts(vertices: set[str]) -> set[int]:
            return {attempt for vertex, attempt in client.job(JOB)["vertex-attempts"].items() if vertex in vertices}

        def vertices() -> dict[str, dict[str, Any]]:
            return {vertex["id"]: vertex for vertex in client.job(JOB)["vertices"]}

        def has_committed(topic: str, orders: int) -> bool:
            return sorted(results(log, topic, PARTITIONS)) == expected(orders)

        wait(lambda: has_committed("fragile-totals", BATCH), "the first results")
        wait(lambda: has_committed("sturdy-totals", BATCH), "the first results")
        before = vertices()
        assert attempts(FRAGILE) == attempts(STURDY) == {1}

        broken.touch()
        produce(log, range(BATCH, 2 * BATCH), USERS)
        wait(lambda: min(attempts(FRAGILE)) >= 3, "two failures")
        assert attempts(STURDY) == {1}
        assert all(vertices()[vertex]["status"] == "RUNNING" for vertex in STURDY)
        failure = client.failures(JOB)[0]
        assert "it is broken" in str(failure)

        broken.unlink()
        produce(log, range(2 * BATCH, 3 * BATCH), USERS)
        wait(lambda: has_committed("fragile-totals", 3 * BATCH), "all results of what failed")
        wait(lambda: has_committed("sturdy-totals", 3 * BATCH), "all results of what went on")
        after = vertices()
        assert attempts(STURDY) == {1}
        assert min(attempts(FRAGILE)) >= 3
        assert {after[vertex]["start-time"] == before[vertex]["start-time"] for vertex in STURDY} == {True}
        assert {after[vertex]["start-time"] > before[vertex]["start-time"] for vertex in FRAGILE} == {True}

        stack.kill("worker-0")
        produce(log, range(3 * BATCH, 4 * BATCH), USERS)
        wait(lambda: has_committed("fragile-totals", 4 * BATCH), "all results after a crash")
        wait(lambda: has_committed("sturdy-totals", 4 * BATCH), "all results after a crash")
        assert len(attempts(STURDY | FRAGILE)) == 1, "the worker ran subtasks of both parts"
