"""A piece of work that blocks now and then, written as a generator that yields what blocks.

So a sweep reads from top to bottom, its owner stays in control between any two calls, and dropping the generator is a
crash.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")


class Pause(NamedTuple):
    """Go on after so many ms."""

    ms: int


Blocking = Callable[[], object]
Run = Generator[Blocking | Pause, Any, T]
"""Yields a call, is resumed with its result, or with its error thrown in."""


def blocking(call: Callable[[], T]) -> Run[T]:
    """``result = yield from blocking(call)``: run ``call`` in the executor."""
    result: T = yield call
    return result


def pause(ms: int) -> Run[None]:
    if ms > 0:
        yield Pause(ms)
