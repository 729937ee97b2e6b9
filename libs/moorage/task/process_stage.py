"""The head of a keyed vertex: user code with the row of each record's key."""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping
from typing import Any

from moorage.api.keyed_state import KeyedState
from moorage.api.operators import ProcessOperator
from moorage.backends.keyed import KeyedBackend
from moorage.serde.frames import Columns
from moorage.task.batch import Batch
from moorage.task.stage import Stage, blame


class ProcessStage:
    """Head of a keyed vertex: rows of typed state, one per key."""

    def __init__(
        self,
        operator: ProcessOperator,
        backend: KeyedBackend[Any, KeyedState],
        behind: Stage,
        wall_ms: Callable[[], int],
    ) -> None:
        self._uid = operator.uid
        self._function: Callable[..., Any] = operator.state_type.process
        self._yields = operator.yields
        self._context = backend.context
        self._behind = behind
        self._wall_ms = wall_ms
        self.backend = backend

    def push_columns(self, group: int, columns: Columns[Any, Any]) -> None:
        """Process a frame's records, all of one key group."""
        rows = self.backend.rows_for(group, columns.keys)
        context = self._context
        context.processing_ms = self._wall_ms()
        context._rows = rows  # noqa: SLF001 - the context is ours, its user sees clear()
        rest = iter(columns.values)
        values: list[Any] = []
        timestamps: list[int] = []
        try:
            run = self._run_generator if self._yields else self._run_function
            run(group, rows, columns, rest, values, timestamps)
        except Exception as error:
            raise blame(self._uid, columns.values, rest, error) from error
        if values:
            self._behind.push(Batch(group, values, timestamps))

    def _run_generator(
        self,
        group: int,
        rows: MutableMapping[Any, KeyedState],
        columns: Columns[Any, Any],
        rest: Iterator[Any],
        values: list[Any],
        timestamps: list[int],
    ) -> None:
        context, new_row, function = self._context, self.backend.new_row, self._function
        get, extend, stamp = rows.get, values.extend, timestamps.append
        done = 0
        for value, key, timestamp in zip(rest, columns.keys, columns.timestamps_ms, strict=True):
            row = get(key)
            if row is None:
                row = rows[key] = new_row(group, key)
            context.key = key
            context.timestamp_ms = timestamp
            extend(function(row, value, context))
            count = len(values) - done
            if count == 1:
                stamp(timestamp)
            elif count:
                timestamps += [timestamp] * count
            done += count

    def _run_function(
        self,
        group: int,
        rows: MutableMapping[Any, KeyedState],
        columns: Columns[Any, Any],
        rest: Iterator[Any],
        values: list[Any],
        timestamps: list[int],
    ) -> None:
        context, new_row, function = self._context, self.backend.new_row, self._function
        get, append, stamp = rows.get, values.append, timestamps.append
        for value, key, timestamp in zip(rest, columns.keys, columns.timestamps_ms, strict=True):
            row = get(key)
            if row is None:
                row = rows[key] = new_row(group, key)
            context.key = key
            context.timestamp_ms = timestamp
            result = function(row, value, context)
            if result is not None:
                append(result)
                stamp(timestamp)
