"""What people watch: a live view on a terminal, a line every few seconds elsewhere (CI, a pipe)."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

from rich import box
from rich.console import Console, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from moorage_cli.client import JobOverview
from moorage_cli.embedded.processes import ManagedProcess

LIVE_INTERVAL_S = 0.25
STATE_STYLES: Mapping[str, str] = {
    "RUNNING": "green",
    "COMPLETED": "green",
    "FINISHED": "green",
    "FAILED": "red",
    "FAILING": "red",
    "RESTARTING": "yellow",
    "IN_PROGRESS": "yellow",
}


class Screen:
    """Events stay, the view is drawn over itself."""

    def __init__(self, console: Console, *, line_interval_s: float = 3.0) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        self._interval_s = line_interval_s if self._live is None else LIVE_INTERVAL_S
        self._started_s = time.monotonic()
        self._due_s = self._started_s + (self._interval_s if self._live is None else 0.0)

    def event(self, text: str, style: str = "") -> None:
        """Something happened: one line, with the time since the start."""
        self._console.print(
            f"{time.monotonic() - self._started_s:6.1f} s  {escape(text)}", style=style or None, highlight=False
        )

    def text(self, text: str) -> None:
        """More about the last event, as it is."""
        self._console.print(text.rstrip(), markup=False, highlight=False)

    def update(self, view: Callable[[], RenderableType], line: Callable[[], str]) -> None:
        """Draw the view, or print the line, if it is time for it."""
        now_s = time.monotonic()
        if now_s < self._due_s:
            return
        self._due_s = now_s + self._interval_s
        if self._live is None:
            self.event(line())
        else:
            self._live.update(view(), refresh=True)

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()


def jobs_table(jobs: Iterable[JobOverview]) -> Table:
    table = plain_table("Jobs", "job", "state", "tasks running", "started", "running for", wrapped=["started"])
    for job in jobs:
        tasks = f"{job.tasks.get('running', 0)} of {job.tasks.get('total', 0)}"
        table.add_row(
            escape(job.jid), state_text(job.state), tasks, time_text(job.start_time), duration_text(job.duration)
        )
    return table


def processes_table(processes: Mapping[str, ManagedProcess]) -> Table:
    table = plain_table("Processes", "process", "pid")
    for name, process in processes.items():
        pid = process.pid
        table.add_row(name, str(pid) if pid is not None else "[red]down[/]")
    return table


def duration_text(duration_ms: int) -> str:
    """3 significant units at most: ``85 ms``, ``3.2 s``, ``2 h 05 min``."""
    if duration_ms < 1_000:
        return f"{duration_ms} ms"
    if duration_ms < 60_000:
        return f"{duration_ms / 1_000:.1f} s"
    minutes = duration_ms // 60_000
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def size_text(size_bytes: int) -> str:
    size = float(size_bytes)
    for unit in ("B", "KiB", "MiB"):
        if size < 1_024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1_024
    return f"{size:.1f} GiB"


_COMMANDS_TO_TERMINALS = {code: chr(0xFFFD) for code in (*range(32), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"}


def printable(text: str) -> str:
    """Text that others may have written, without what a terminal would obey."""
    return text.translate(_COMMANDS_TO_TERMINALS)


def foreign_text(text: str, style: str = "") -> Text:
    """The same for a view; nothing in it is markup."""
    return Text(printable(text), style=style)


def plain_table(title: str, *columns: str, wrapped: Collection[str] = ()) -> Table:
    """Nothing in it is cut in 80 columns: the first column, if it has a heading, names things, so it goes on in the
    next line, as do those of ``wrapped``; the others are short enough."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for index, column in enumerate(columns):
        if column in wrapped or (index == 0 and column):
            table.add_column(column, overflow="fold", min_width=len(column))
        else:
            table.add_column(column, no_wrap=True)
    return table


def state_text(state: str) -> str:
    return f"[{style}]{state}[/]" if (style := STATE_STYLES.get(state)) else escape(state)


def time_text(timestamp_ms: int) -> str:
    """The day only where it is not today."""
    moment = datetime.fromtimestamp(timestamp_ms / 1_000, UTC).astimezone()
    is_today = moment.date() == datetime.now(UTC).astimezone().date()
    return moment.strftime("%H:%M:%S" if is_today else "%Y-%m-%d %H:%M")
