"""A Compose project under test, and how it looks from outside."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

ROOT = Path(__file__).parents[2]
IMAGE = "moorage:test"
PORTS = ("KAFKA_PORT", "REST_PORT", "STANDBY_REST_PORT", "PROMETHEUS_PORT", "GRAFANA_PORT")
REST_PORTS = ("REST_PORT", "STANDBY_REST_PORT")


class ComposeError(Exception):
    """A docker command failed, or nobody answered."""


def eventually(what: str, ask: Callable[[], T | None], timeout_s: float = 60.0, interval_s: float = 0.5) -> T:
    """The first answer that is neither None nor False; a service that does not answer is asked again."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        try:
            answer = ask()
        except ComposeError as error:
            answer, why = None, str(error)
        else:
            why = "not yet"
        if answer is not None and answer is not False:
            return answer
        if time.monotonic() > deadline_s:
            raise AssertionError(f"{what}: not within {timeout_s:.0f} s ({why})")
        time.sleep(interval_s)


class Project:
    """compose.yaml of this checkout under a name and ports of its own."""

    def __init__(self, name: str, *, env_file: str | None = None, **settings: str) -> None:
        self.name = name
        self._files = [] if env_file is None else ["--env-file", env_file]
        ports = dict(zip(PORTS, _free_ports(len(PORTS)), strict=True))
        self.ports: Mapping[str, int] = ports
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("MOORAGE_", "COMPOSE_", "AWS_"))}
        self._env = {
            **inherited,
            **{variable: str(port) for variable, port in ports.items()},
            "COMPOSE_PROJECT_NAME": name,
            "COMPOSE_PROGRESS": "plain",
            "IMAGE": IMAGE,
            **settings,
        }

    def configure(self, **settings: str) -> None:
        """For the next ``up``."""
        self._env.update(settings)

    # --- docker ----------------------------------------------------------------------------------------------------

    def compose(self, *arguments: str) -> str:
        return self._docker("compose", *self._files, *arguments)

    def up(self, *arguments: str) -> float:
        """Start and wait until all is ready; returns the seconds that it took."""
        started_s = time.monotonic()
        self.compose("up", "--detach", "--wait", "--wait-timeout", "240", *arguments)
        return time.monotonic() - started_s

    def containers(self, service: str) -> list[str]:
        return self.compose("ps", "--all", "--quiet", service).split()

    def inspect(self, container: str) -> Any:
        return json.loads(self._docker("inspect", container))[0]

    def kill(self, container: str) -> None:
        """SIGKILL for the container's process. `docker kill` would count as stopped by hand: nothing would start it
        again. The process is killed from a container, because the engine may run on a (virtual) machine of its own."""
        pid = self.inspect(container)["State"]["Pid"]
        privileged = ("--privileged", "--pid", "host", "--user", "0", "--entrypoint", "python")
        self._docker("run", "--rm", *privileged, IMAGE, "-c", f"import os; os.kill({pid}, 9)")

    def restarted(self, container: str, times: int) -> bool:
        inspected = self.inspect(container)
        state, restarts = inspected["State"], int(inspected["RestartCount"])
        return restarts >= times and state["Running"] and state["Health"]["Status"] == "healthy"

    def stop(self, container: str) -> None:
        self._docker("stop", container)

    def start(self, container: str) -> None:
        self._docker("start", container)

    def left(self) -> list[str]:
        """Containers, volumes and networks of the project."""
        mine = ("--filter", f"label=com.docker.compose.project={self.name}", "--quiet")
        return [
            *self._docker("ps", "--all", *mine).split(),
            *self._docker("volume", "ls", *mine).split(),
            *self._docker("network", "ls", *mine).split(),
        ]

    def _docker(self, *arguments: str) -> str:
        result = subprocess.run(
            ["docker", *arguments], cwd=ROOT, env=self._env, capture_output=True, text=True, timeout=600
        )
        if result.returncode != 0:
            tail = "\n".join(result.stderr.strip().splitlines()[-30:])
            raise ComposeError(f"docker {' '.join(arguments)} failed ({result.returncode}):\n{tail}")
        return result.stdout

    # --- what it answers ---------------------------------------------------------------------------------------------

    @property
    def bootstrap_servers(self) -> str:
        return f"localhost:{self.ports['KAFKA_PORT']}"

    def url(self, port: str) -> str:
        return f"http://localhost:{self.ports[port]}"

    def get(self, port: str, path: str) -> Any:
        """The JSON at a path of the service behind a port."""
        return json.loads(fetch(f"{self.url(port)}{path}"))

    def leader_port(self) -> str | None:
        """The REST port of the coordinator that leads."""
        for port in REST_PORTS:
            try:
                self.get(port, "/overview")
            except ComposeError:
                continue
            return port
        return None

    def leader(self) -> str:
        """The container of the coordinator that leads."""
        port = eventually("somebody leads", self.leader_port)
        (container,) = self.containers({"REST_PORT": "coordinator", "STANDBY_REST_PORT": "standby"}[port])
        return container

    def rest(self, path: str) -> Any:
        """From whoever leads."""
        port = self.leader_port()
        if port is None:
            raise ComposeError("no coordinator leads")
        return self.get(port, path)

    def is_running(self, job: str) -> bool:
        details = self.rest(f"/jobs/{job}")
        return bool(details["state"] == "RUNNING" and details["status-counts"]["RUNNING"] == _subtasks(details))

    def query(self, expr: str) -> list[Any]:
        """The present result of a PromQL query."""
        path = f"/api/v1/query?query={urllib.parse.quote(expr)}"
        result: list[Any] = self.get("PROMETHEUS_PORT", path)["data"]["result"]
        return result

    def value(self, expr: str) -> float | None:
        result = self.query(expr)
        return float(result[0]["value"][1]) if result else None

    def firing(self) -> set[str]:
        alerts = self.get("PROMETHEUS_PORT", "/api/v1/alerts")["data"]["alerts"]
        return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}


def fetch(url: str, body: object = None) -> bytes:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, headers={"Content-Type": "application/json"})  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=15) as response:  # noqa: S310 - http://localhost
            answer: bytes = response.read()
            return answer
    except (OSError, urllib.error.URLError) as error:
        raise ComposeError(f"{url}: {error}") from None


def _subtasks(details: Any) -> int:
    return sum(vertex["parallelism"] for vertex in details["vertices"])


def _free_ports(count: int) -> Sequence[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(s.getsockname()[1]) for s in sockets]
    for s in sockets:
        s.close()
    return ports
