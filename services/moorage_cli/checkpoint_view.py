"""Checkpoints for people: the history, one of them in full, and why some failed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from moorage_cli.client import (
    Acknowledgements,
    CheckpointDetails,
    CheckpointStatistics,
    CheckpointSummary,
    SubtaskCheckpoint,
    VertexCheckpoint,
)
from moorage_cli.screen import duration_text, plain_table, size_text, state_text, time_text

SLOWEST = 5


def statistics_view(statistics: CheckpointStatistics, newest: int | None = None) -> RenderableType:
    """The history, or its ``newest`` part, with the failures in it."""
    counts = statistics.counts
    title = f"Checkpoints: {counts.completed} completed, {counts.failed} failed, {counts.in_progress} in progress"
    if counts.restored:
        title += f", {counts.restored} restored"
    history = statistics.history[:newest]
    return Group(history_table(history, title), *failure_lines(history))


def summary_line(statistics: CheckpointStatistics) -> str:
    """The whole in one line, for where no table can be drawn over itself."""
    counts, duration = statistics.counts, statistics.summary.end_to_end_duration
    line = f"{counts.completed} completed, {counts.failed} failed, {counts.in_progress} in progress"
    if statistics.latest.completed is not None:
        line += f"; last {statistics.latest.completed.id}"
    if duration.max:
        p50, p99 = duration_text(round(duration.p50)), duration_text(round(duration.p99))
        line += f"; duration p50 {p50}, p99 {p99}, max {duration_text(duration.max)}"
    return line


def summary_table(statistics: CheckpointStatistics) -> Table:
    """What completed checkpoints cost, since the present leader leads; processed and persisted: bytes in flight."""
    summary = statistics.summary
    table = plain_table("Completed checkpoints", "", "avg", "p50", "p90", "p99", "max")
    for name, of, text in (
        ("duration", summary.end_to_end_duration, duration_text),
        ("written", summary.checkpointed_size, size_text),
        ("full size", summary.state_size, size_text),
        ("processed", summary.processed_data, size_text),
        ("persisted", summary.persisted_data, size_text),
    ):
        values = (of.avg, round(of.p50), round(of.p90), round(of.p99), of.max)
        table.add_row(name, *(text(value) for value in values))
    return table


def history_table(history: Sequence[CheckpointSummary], title: str) -> Table:
    """``sp`` stands for savepoint. Reasons of failures are too long for a column: see ``failure_lines``."""
    table = plain_table(title, "id", "state", "at", "took", "written", "full size", "subtasks", wrapped=["at"])
    for checkpoint in history:
        table.add_row(
            f"{checkpoint.id} sp" if checkpoint.is_savepoint else str(checkpoint.id),
            state_text(checkpoint.status),
            time_text(checkpoint.trigger_timestamp),
            duration_text(checkpoint.end_to_end_duration),
            size_text(checkpoint.checkpointed_size),
            size_text(checkpoint.state_size),
            f"{checkpoint.num_acknowledged_subtasks}/{checkpoint.num_subtasks}",
        )
    return table


def failure_lines(history: Iterable[CheckpointSummary]) -> list[Text]:
    """A line for each reason, with the checkpoints that failed for it."""
    failed: dict[str, list[int]] = {}
    for checkpoint in history:
        if checkpoint.failure_message is not None:
            failed.setdefault(checkpoint.failure_message, []).append(checkpoint.id)
    return [
        Text.assemble((f"{', '.join(map(str, sorted(ids)))} failed: ", "red"), reason) for reason, ids in failed.items()
    ]


def details_view(details: CheckpointDetails, subtasks: Sequence[SubtaskCheckpoint]) -> RenderableType:
    """One checkpoint: its vertices, and the subtasks that it waited for longest or waits for still."""
    done = f"{details.num_acknowledged_subtasks} of {details.num_subtasks} subtasks have acknowledged"
    head = Text.assemble(
        f"{'Savepoint' if details.is_savepoint else 'Checkpoint'} {details.id}  ",
        Text.from_markup(state_text(details.status)),
        f"  {time_text(details.trigger_timestamp)}  {duration_text(details.end_to_end_duration)}  {done}",
    )
    parts: list[RenderableType] = [head]
    if details.external_path is not None:
        parts.append(Text(details.external_path + ("  (not retained any more)" if details.discarded else "")))
    parts += failure_lines([details])
    if details.tasks:
        parts += ["", vertices_table(details.tasks.items())]
    if details.operator_coordinators or details.master_hooks is not None:
        parts.append(coordinators_table(details))
    if in_vain := _in_vain(details.acknowledgements):
        parts.append(Text(f"Acknowledgements that did not count: {in_vain}\n"))
    missing = [str(subtask) for subtask in subtasks if subtask.ack_timestamp is None]
    if missing:
        parts.append(Text(f"Not acknowledged: {', '.join(missing)}\n"))
    if any(subtask.ack_timestamp is not None for subtask in subtasks):
        parts.append(slowest_table(subtasks))
    return Group(*parts)


def vertices_table(tasks: Iterable[tuple[str, VertexCheckpoint]]) -> Table:
    table = plain_table("Vertices", "vertex", "acknowledged", "after", "written", "full size", "in flight")
    for vertex, task in tasks:
        table.add_row(
            escape(vertex),
            f"{task.num_acknowledged_subtasks}/{task.num_subtasks}",
            "" if task.end_to_end_duration < 0 else duration_text(task.end_to_end_duration),
            size_text(task.checkpointed_size),
            size_text(task.state_size),
            size_text(task.processed_data + task.persisted_data),
        )
    return table


def coordinators_table(details: CheckpointDetails) -> Table:
    """Who took part besides the subtasks."""
    hooks = [] if details.master_hooks is None else [("master hooks", details.master_hooks)]
    table = plain_table("In the coordinator", "who", "acknowledged at", "took", "state")
    for who, stats in [*hooks, *details.operator_coordinators.items()]:
        if stats.ack_timestamp < 0:
            table.add_row(escape(who), "not yet", "", "")
        else:
            took, state = duration_text(stats.duration), size_text(stats.state_size)
            table.add_row(escape(who), time_text(stats.ack_timestamp), took, state)
    return table


def _in_vain(counts: Acknowledgements) -> str:
    named = (("duplicate", counts.duplicate), ("late", counts.discarded), ("unknown", counts.unknown))
    return ", ".join(f"{count} {name}" for name, count in named if count)


def slowest_table(subtasks: Sequence[SubtaskCheckpoint]) -> Table:
    """Those that acknowledged last, and what they spent the time with."""
    acknowledged = [subtask for subtask in subtasks if subtask.ack_timestamp is not None]
    slowest = sorted(acknowledged, key=lambda subtask: -subtask.end_to_end_duration)[:SLOWEST]
    columns = ("subtask", "after", "start delay", "alignment", "sync", "async", "written")
    table = plain_table("Slowest subtasks", *columns, wrapped=["alignment"])
    for subtask in slowest:
        table.add_row(
            escape(str(subtask)),
            duration_text(subtask.end_to_end_duration),
            duration_text(subtask.start_delay),
            duration_text(subtask.alignment.duration) + (" (unaligned)" if subtask.unaligned_checkpoint else ""),
            duration_text(subtask.checkpoint.sync),
            duration_text(subtask.checkpoint.async_),
            size_text(subtask.checkpointed_size),
        )
    return table
