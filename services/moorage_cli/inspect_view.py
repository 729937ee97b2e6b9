"""A checkpoint on the screen."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from moorage.inspect.report import (
    CheckpointReport,
    HandlePart,
    OperatorPart,
    PositionPart,
    SourceOffset,
    StreamPart,
    SubtaskPart,
)
from moorage.inspect.verify import Verification
from moorage_cli.screen import foreign_text, plain_table, size_text

SUBTASKS_SHOWN = 8
STREAMS_SHOWN = 4


def report_view(report: CheckpointReport, *, full: bool) -> RenderableType:
    """``full``: every subtask, file and channel; else the first few of each."""
    parts: list[RenderableType] = [_head(report), operators_table(report.operators)]
    for operator in report.operators:
        if operator.subtasks:
            parts += [_operator(operator, full=full), Text()]
    return Group(*parts)


def verification_view(verification: Verification) -> RenderableType:
    if verification.whole:
        count, size = len(verification.files), size_text(verification.checked_bytes)
        return foreign_text(f"whole: {count} files and pieces of inline state, {size} read", style="green")
    return Group(*(foreign_text(f"{check.state.value}: {check.detail}", style="red") for check in verification.damaged))


def _head(report: CheckpointReport) -> RenderableType:
    origin = report.origin
    job = f" of {origin.job}" if origin else ""
    kind = str(report.properties["snapshot_type"])
    grid = Table.grid(padding=(0, 2))
    grid.add_column()
    grid.add_column(overflow="fold")
    if origin is not None:
        triggered = _moment(origin.triggered_ms)
        grid.add_row("written by", foreign_text(f"Moorage, attempt {origin.attempt}, triggered {triggered}"))
    else:
        grid.add_row("written by", "Flink")
    size = size_text(report.metadata_bytes)
    grid.add_row("metadata", foreign_text(f"{report.location} (version {report.metadata_version}, {size})"))
    inline = size_text(report.inline_bytes)
    grid.add_row(
        "state", foreign_text(f"{size_text(report.state_bytes)} in {report.files} files, {inline} of it inline")
    )
    flags = ", ".join(_words(flag) for flag, value in report.properties.items() if value is True)
    grid.add_row("properties", foreign_text(f"{kind}; {flags or 'none set'}"))
    for master in report.master_states:
        size = size_text(master.size_bytes)
        grid.add_row("master state", foreign_text(f"{master.name} (version {master.version}, {size})"))
    title = foreign_text(f"{'Savepoint' if report.savepoint else 'Checkpoint'} {report.checkpoint}{job}", style="bold")
    return Group(title, grid, Text())


def _moment(timestamp_ms: int) -> str:
    try:
        return datetime.fromtimestamp(timestamp_ms / 1_000, UTC).isoformat(" ", "seconds")
    except (ValueError, OverflowError, OSError):
        return f"{timestamp_ms} ms after 1970"  # no time that there is


def operators_table(operators: Iterable[OperatorPart]) -> Table:
    table = plain_table("Operators", "operator", "parallelism", "with state", "state", wrapped=["parallelism"])
    for operator in operators:
        names = dict.fromkeys(name for name in (operator.uid, operator.name) if name)
        table.add_row(
            foreign_text("\n".join([*names, operator.operator])),
            f"{operator.parallelism} (at most {operator.max_parallelism})",
            "finished" if operator.fully_finished else f"{len(operator.subtasks)} subtasks",
            size_text(operator.state_bytes),
        )
    return table


def _operator(operator: OperatorPart, *, full: bool) -> Tree:
    tree = Tree(foreign_text(operator.uid or operator.name or operator.operator, style="bold"))
    if operator.coordinator_bytes is not None:
        tree.add(foreign_text(f"operator coordinator: {size_text(operator.coordinator_bytes)}"))
    shown = operator.subtasks if full else operator.subtasks[:SUBTASKS_SHOWN]
    for subtask in shown:
        _subtask(tree.add(foreign_text(_subtask_title(subtask))), subtask, full=full)
    _more(tree, len(operator.subtasks) - len(shown), "subtasks")
    return tree


def _subtask_title(subtask: SubtaskPart) -> str:
    return f"subtask {subtask.subtask}: {'finished' if subtask.finished else size_text(subtask.state_bytes)}"


def _subtask(tree: Tree, subtask: SubtaskPart, *, full: bool) -> None:
    for handle in subtask.handles:
        _handle(tree, handle, full=full)
    for line in subtask.unreadable:
        tree.add(foreign_text(line, style="red"))
    if subtask.source_offsets:
        tree.add(foreign_text("next offsets: " + ", ".join(map(_source_offset, subtask.source_offsets))))
    for exchange in dict.fromkeys(position.exchange for position in subtask.positions):
        channels = [position for position in subtask.positions if position.exchange == exchange]
        _exchange(tree, exchange, channels, full=full)


def _handle(tree: Tree, handle: HandlePart, *, full: bool) -> None:
    words = [f"{_words(handle.role)}: {_words(handle.kind)}, {size_text(max(0, handle.size_bytes))}"]
    if handle.canonical:
        words.append("canonical")
    if handle.key_groups is not None:
        first, last = handle.key_groups
        words.append(f"key groups {first} to {last}")
    if handle.key_groups_present is not None:
        words.append(f"{handle.key_groups_present} in this file")
    if handle.channel is not None:
        words.append(f"channel {handle.channel}")
    if handle.checkpoint is not None:
        words.append(f"by checkpoint {handle.checkpoint}")
    if handle.written_bytes is not None:
        words.append(f"{size_text(max(0, handle.written_bytes))} new")
    for name, state in (handle.states or {}).items():
        words.append(f"{name!r} ({state.mode}, {state.elements} elements)")
    branch = tree.add(foreign_text(", ".join(words)))
    for part in handle.materialized:
        _handle(branch, part, full=full)
    streams = (*handle.streams, *handle.changes)
    shown = streams if full else streams[:STREAMS_SHOWN]
    for stream in shown:
        branch.add(foreign_text(_stream(stream), style="dim"))
    _more(branch, len(streams) - len(shown), "files")


def _stream(stream: StreamPart) -> str:
    name = f"{stream.name}: " if stream.name else ""
    place = f"{stream.path} at {stream.offset}" if stream.offset is not None else stream.path or "inline"
    return f"{name}{place}, {size_text(max(0, stream.size_bytes))}{', shared' if stream.shared else ''}"


def _source_offset(split: SourceOffset) -> str:
    end = f" (until {split.end})" if split.end is not None else ""
    return f"{split.topic}[{split.partition}] {split.offset}{end}"


def _exchange(tree: Tree, exchange: str, channels: Sequence[PositionPart], *, full: bool) -> None:
    partitions = len({channel.partition for channel in channels})
    in_flight = sum(1 for channel in channels if channel.open)
    branch = tree.add(
        foreign_text(f"exchange {exchange}: {len(channels)} channels of {partitions} partitions, {in_flight} in flight")
    )
    for channel in channels if full else ():
        producer = f"producer {channel.producer} of attempt {channel.attempt}"
        end = ", in flight" if channel.open else ""
        branch.add(foreign_text(f"[{channel.partition}] from {channel.offset}, {producer}{end}", style="dim"))


def _more(tree: Tree, left_out: int, what: str) -> None:
    if left_out > 0:
        tree.add(foreign_text(f"{left_out} more {what}: --full shows them", style="dim"))


def _words(name: str) -> str:
    return name.replace("_", " ")
