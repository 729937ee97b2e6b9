"""Where requests of other threads meet the coordinator's loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from itertools import count
from queue import Empty, SimpleQueue
from threading import Lock

from moorage.cluster.protocol import ClientRequest


class RequestDesk:
    """``ask`` is for any thread, ``take`` and ``answer`` are the loop's."""

    def __init__(self) -> None:
        self._numbers = count(1)
        self._requests: SimpleQueue[ClientRequest] = SimpleQueue()
        self._open: dict[int, Future[object]] = {}
        self._lock = Lock()

    def ask(self, make: Callable[[int], ClientRequest]) -> Future[object]:
        """``make`` gets the number of the request; the future gets the answer."""
        answer: Future[object] = Future()
        with self._lock:
            number = next(self._numbers)
            self._open[number] = answer
        self._requests.put(make(number))
        return answer

    def take(self) -> Iterator[ClientRequest]:
        """The requests that have come."""
        while True:
            try:
                yield self._requests.get_nowait()
            except Empty:
                return

    def answer(self, number: int, result: object) -> None:
        with self._lock:
            answer = self._open.pop(number)
        # Who asked may have gone; then the future is cancelled and nobody wants the answer.
        if answer.set_running_or_notify_cancel():
            answer.set_result(result)
