"""The HTTP server of the REST API, in a thread of its own."""

from __future__ import annotations

import socket
from threading import Thread

import uvicorn
from starlette.types import ASGIApp

from moorage.errors import SettingError


class RestServer:
    """Serves an app on an address. The port is bound at once, so a port in use is told before anything starts."""

    def __init__(self, host: str, port: int) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.socket(family)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind((host, port))
        except OSError as error:
            self._socket.close()
            raise SettingError(
                f"MOORAGE_REST_PORT={port}: {host}:{port} can't be listened at ({error.strerror});"
                " choose another, or 0 for a free one"
            ) from error
        self.port = int(self._socket.getsockname()[1])
        self._server: uvicorn.Server | None = None
        self._thread: Thread | None = None

    def start(self, app: ASGIApp) -> None:
        config = uvicorn.Config(
            app, log_config=None, log_level="warning", access_log=False, lifespan="off", timeout_graceful_shutdown=1
        )
        self._server = uvicorn.Server(config)
        self._thread = Thread(target=self._server.run, kwargs={"sockets": [self._socket]}, name="rest", daemon=True)
        self._thread.start()

    def close(self) -> None:
        if self._server is not None and self._thread is not None:
            self._server.should_exit = True
            self._thread.join(timeout=3)
        self._socket.close()
