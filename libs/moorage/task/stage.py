"""What the stages of a chain have in common: how they are called, and who is to blame when user code fails."""

from __future__ import annotations

import operator as operators
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from moorage.errors import RecordError
from moorage.serde.frames import Columns
from moorage.task.batch import Batch


class Stage(Protocol):
    def push(self, batch: Batch) -> None: ...


class InputHead(Protocol):
    """Takes the records of one input exchange, frame by frame."""

    def push_columns(self, partition: int, columns: Columns[Any, Any], /) -> None: ...


def blame(uid: str, values: Sequence[Any], rest: Iterator[Any], error: Exception) -> RecordError:
    """The error of the record that user code failed on: the last one taken from ``rest``, an iterator of ``values``."""
    index = len(values) - operators.length_hint(rest) - 1
    value = repr(values[index])
    return RecordError(f"operator {uid!r} failed on {value:.300}: {type(error).__name__}: {error}")


def call_each(uid: str, function: Callable[[Any], Any], values: Sequence[Any]) -> list[Any]:
    """User code called for each value."""
    rest = iter(values)
    try:
        results = list(map(function, rest))
        if len(results) < len(values):
            # ``map`` takes it for the end of the values, so it would lose what is behind.
            raise RuntimeError("it raised StopIteration")
    except Exception as error:
        raise blame(uid, values, rest, error) from error
    return results
