"""Failures as data: the twins fail where and when the test says."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext


class Faults:
    """Errors that wait for the next call of an operation, first come first served."""

    def __init__(self) -> None:
        self._waiting: defaultdict[str, deque[tuple[Exception, bool]]] = defaultdict(deque)

    def fail_next(self, operation: str, error: Exception, *, after: bool = False) -> None:
        """The next ``operation`` raises ``error``: without any effect or, with ``after``, when all is done, so that the
        caller can't know the outcome."""
        self._waiting[operation].append((error, after))

    def around(self, operation: str) -> AbstractContextManager[None]:
        """Raise what waits for ``operation``, before or after the body."""
        waiting = self._waiting.get(operation)
        return _failing(*waiting.popleft()) if waiting else _NOTHING


_NOTHING = nullcontext()


@contextmanager
def _failing(error: Exception, after: bool) -> Iterator[None]:
    if not after:
        raise error
    yield
    raise error
