"""An executor without threads: the test says when a call runs and when its result is handed back."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeVar

T = TypeVar("T")


class InlineExecutor:
    """``ports.Executor`` for tests and the simulation.

    A submitted call waits in ``calls``; ``call_one`` runs it, ``serve_one`` hands its result to ``done``, ``run_one``
    does both. In between the world has changed and the owner does not know it yet: that is where crashes hurt. The
    index lets the simulation choose any of the waiting ones, since calls run in no particular order.
    """

    def __init__(self) -> None:
        self._calls: list[Callable[[], Callable[[], None]]] = []
        self._results: list[Callable[[], None]] = []

    @property
    def calls(self) -> int:
        """Calls that have not run."""
        return len(self._calls)

    @property
    def results(self) -> int:
        """Results that were not handed back."""
        return len(self._results)

    def submit(self, call: Callable[[], T], done: Callable[[T | None, Exception | None], None]) -> None:
        def run() -> Callable[[], None]:
            try:
                result = call()
            except Exception as error:  # noqa: BLE001 - handed to its owner, as the port says
                return partial(done, None, error)
            return partial(done, result, None)

        self._calls.append(run)

    def call_one(self, index: int = 0) -> None:
        self._results.append(self._calls.pop(index)())

    def serve_one(self, index: int = 0) -> None:
        self._results.pop(index)()

    def run_one(self, index: int = 0) -> None:
        self._calls.pop(index)()()

    def run_all(self) -> int:
        """Run and hand back until nothing is left, what is submitted meanwhile included; how many calls ran."""
        count = 0
        while self._calls or self._results:
            if self._results:
                self.serve_one()
            else:
                self.call_one()
                count += 1
        return count
