"""Every table on a terminal of 80 columns, with the longest names and numbers that there may be: nothing is cut."""

from __future__ import annotations

import io
import time
from collections.abc import Callable

import pytest
from rich.console import Console, RenderableType
from tests.unit.cleaner.jobs import JOB, exclusive
from tests.unit.cleaner.world import OPTIONS, World

from moorage.inspect.report import OperatorPart
from moorage_cli.checkpoint_view import history_table, slowest_table, summary_table, vertices_table
from moorage_cli.cleaning import Cleaning, files_table
from moorage_cli.cleaning import summary_table as cleaning_table
from moorage_cli.client import (
    Alignment,
    CheckpointCounts,
    CheckpointStatistics,
    CheckpointSummary,
    Durations,
    JobOverview,
    StatisticsSummary,
    SubtaskCheckpoint,
    Values,
    VertexCheckpoint,
)
from moorage_cli.inspect_view import operators_table
from moorage_cli.screen import jobs_table

WIDTH = 80
NAME = "orders-by-customer-and-region-and-product-line-every-night-v1234"
OPERATOR_ID = "9f0d2b5d3c4a4e6f8a7b6c5d4e3f2a1b"
LONG_AGO_MS = 1_700_000_000_000
SIZE = 1023 << 20
SLOW_MS = 59_900
_VALUES = Values(min=SIZE, max=SIZE, avg=SIZE, p50=float(SIZE), p90=float(SIZE), p99=float(SIZE))


def jobs() -> RenderableType:
    tasks = {"running": 12_000, "total": 12_800}
    return jobs_table(
        JobOverview(
            jid=NAME,
            name=NAME,
            state=state,
            start_time=started_ms,
            end_time=-1,
            duration=1_000 * 3_600_000,
            tasks=tasks,
        )
        for state, started_ms in (("CANCELLING", LONG_AGO_MS), ("RESTARTING", time.time_ns() // 1_000_000))
    )


def history() -> RenderableType:
    checkpoint = CheckpointSummary(
        id=1_234_567,
        status="IN_PROGRESS",
        is_savepoint=True,
        trigger_timestamp=LONG_AGO_MS,
        end_to_end_duration=SLOW_MS,
        checkpointed_size=SIZE,
        state_size=SIZE,
        num_subtasks=12_800,
        num_acknowledged_subtasks=12_799,
    )
    return history_table([checkpoint], "Checkpoints")


def durations() -> RenderableType:
    summary = StatisticsSummary(
        end_to_end_duration=Values(avg=SLOW_MS, max=600 * 60_000, p50=1.0, p90=60_000.0, p99=120_000.0),
        checkpointed_size=_VALUES,
        state_size=_VALUES,
        processed_data=_VALUES,
        persisted_data=_VALUES,
    )
    counts = CheckpointCounts(restored=0, total=1, in_progress=0, completed=1, failed=0)
    return summary_table(CheckpointStatistics(counts=counts, summary=summary, history=()))


def vertices() -> RenderableType:
    vertex = VertexCheckpoint(
        end_to_end_duration=SLOW_MS,
        checkpointed_size=SIZE,
        state_size=SIZE,
        processed_data=SIZE,
        persisted_data=0,
        num_subtasks=12_800,
        num_acknowledged_subtasks=12_799,
    )
    return vertices_table([(NAME, vertex)])


def slowest() -> RenderableType:
    subtask = SubtaskCheckpoint(
        vertex=NAME,
        index=12_799,
        ack_timestamp=1,
        end_to_end_duration=SLOW_MS,
        checkpointed_size=SIZE,
        start_delay=SLOW_MS,
        alignment=Alignment(duration=SLOW_MS),
        checkpoint=Durations(sync=SLOW_MS, async_=SLOW_MS),
        unaligned_checkpoint=True,
    )
    return slowest_table([subtask])


def operators() -> RenderableType:
    operator = OperatorPart(
        operator=OPERATOR_ID, uid=NAME, name=f"{NAME}-name", parallelism=128, max_parallelism=32_768, state_bytes=SIZE
    )
    return operators_table([operator])


def cleaning(of: Callable[..., RenderableType]) -> RenderableType:
    world = World(OPTIONS)
    world.submit()
    world.checkpoint([exclusive(1)])
    world.checkpoint([exclusive(2)])
    return of([Cleaning(world.registry, world.storage, world.log, world.options).preview(JOB)])


@pytest.mark.parametrize(
    ("draw", "whole"),
    [
        (jobs, [NAME, "CANCELLING", "RESTARTING", "12000of12800", "2023-11-14", "1000h00min"]),
        (history, ["1234567sp", "IN_PROGRESS", "2023-11-14", "59.9s", "1023.0MiB", "12799/12800"]),
        (durations, ["duration", "written", "fullsize", "processed", "persisted", "1023.0MiB", "p99", "max"]),
        (vertices, [NAME, "12799/12800", "59.9s", "1023.0MiB"]),
        (slowest, [f"{NAME}/12799", "59.9s", "(unaligned)", "1023.0MiB"]),
        (operators, [NAME, f"{NAME}-name", OPERATOR_ID, "128", "32768", "1023.0MiB"]),
        (lambda: cleaning(cleaning_table), ["subsumed", "stays:referenced"]),
        (lambda: cleaning(files_table), [exclusive(1), "subsumed"]),
    ],
    ids=["jobs", "history", "durations", "vertices", "slowest", "operators", "clean", "clean --files"],
)
def test_nothing_is_cut(draw: Callable[[], RenderableType], whole: list[str]) -> None:
    console = Console(width=WIDTH, file=io.StringIO(), soft_wrap=True)
    with console.capture() as capture:
        console.print(draw())
    lines = capture.get().splitlines()
    assert all(len(line.rstrip()) <= WIDTH for line in lines)
    assert "\N{HORIZONTAL ELLIPSIS}" not in capture.get()
    assert not {text for text in whole if not _is_in(text, lines)}


def _is_in(text: str, lines: list[str]) -> bool:
    """In one cell, which may go on in the next lines: columns are 2 blanks apart."""
    columns: dict[int, str] = {}
    for line in lines:
        start = 0
        for cell in line.split("  "):
            if cell.strip():
                begin = start + len(cell) - len(cell.lstrip())
                columns[begin] = columns.get(begin, "") + cell.replace(" ", "")
            start += len(cell) + 2
    return any(text in column for column in columns.values())
