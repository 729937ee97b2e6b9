"""The REST API over a coordinator on the twins, whose virtual time runs in a thread while clients ask."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import httpx
from tests.unit.cluster.world import TestCoordinator, World

from moorage.coordinator_process.process import CoordinatorProcess
from moorage_coordinator.desk import RequestDesk
from moorage_coordinator.rest import RestServer, create_app

STORAGE_URL = "file:///checkpoints"


class Live:
    def __init__(self, world: World, coordinator: TestCoordinator, token: str | None = None) -> None:
        self.world = world
        self.coordinator = coordinator
        self._desk = RequestDesk()
        self._lock = threading.Lock()
        self.is_frozen = False
        """Time stands still; what is asked is answered all the same."""
        self._stop = threading.Event()
        self._process: CoordinatorProcess = coordinator.process
        coordinator.on_reply = self._desk.answer
        self.app = create_app(self._desk, token=token, storage_url=STORAGE_URL)
        self._server = RestServer("127.0.0.1", 0)
        self._server.start(self.app)
        self.url = f"http://127.0.0.1:{self._server.port}"
        self.client = httpx.Client(base_url=self.url, timeout=10)
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._stop.wait(0.001):
            with self._lock:
                for request in self._desk.take():
                    self._process.request(request)
                if not self.is_frozen:
                    self.world.step()

    def __enter__(self) -> Live:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.client.close()
        self._server.close()

    def get(self, path: str, status: int = 200) -> Any:
        answer = self.client.get(path)
        assert answer.status_code == status, answer.text
        return answer.json()

    def post(self, path: str, body: object = None, status: int = 202) -> Any:
        answer = self.client.post(path, json=body) if body is not None else self.client.post(path)
        assert answer.status_code == status, answer.text
        return answer.json()

    def until(self, path: str, condition: Callable[[Any], bool]) -> Any:
        for _ in range(2_000):
            answer = self.get(path)
            if condition(answer):
                return answer
        raise AssertionError(f"{path} never became so: {answer}")

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def freeze(self) -> None:
        self.change(lambda: setattr(self, "is_frozen", True))

    def operation(self, path: str) -> Any:
        """What became of an operation, once it is decided."""
        return self.until(path, lambda answer: answer["status"]["id"] == "COMPLETED")["operation"]

    def change(self, do: Callable[[], object]) -> None:
        with self._lock:
            do()
