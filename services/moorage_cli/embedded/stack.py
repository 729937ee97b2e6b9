"""Everything that a job needs, on one machine: Kafka, Redis, coordinator, workers and cleaner as processes.

Started in this order and stopped in the opposite one. The two servers keep their data under ``data_dir``, so a second
start there goes on where the first one stopped. The services are started again when they die; a server that dies is
reported, and ``start_server`` starts it again.
"""

from __future__ import annotations

import fcntl
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from moorage_cli.client import CoordinatorClient, CoordinatorUnreachableError, RestError
from moorage_cli.embedded.cache import cache_dir
from moorage_cli.embedded.errors import LOOPBACK, StackError, choose_port, log_tail, port_taken
from moorage_cli.embedded.kafka import EmbeddedKafka
from moorage_cli.embedded.processes import ManagedProcess, ProcessExit, ProcessSpec
from moorage_cli.embedded.redis import EmbeddedRedis
from moorage_cli.kafka import connect
from moorage_service.runtime import SETTINGS_EXIT_CODE

SERVICES_TIMEOUT_S = 60.0
MAX_START_DEATHS = 3
SERVERS_FILE = "servers.json"


class Stack:
    """``kafka`` and ``redis``: bootstrap servers and URL of running ones; None starts our own.

    Ports of 0 are chosen freely. ``metrics_port``: of the coordinator; cleaner and workers take the next ones.
    ``standby``: a second coordinator. ``token``: guards the REST API. ``env``: more environment for all services.
    ``on_exit`` hears of every process that dies, in a thread of its own; ``announce`` of every step of the start.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        workers: int = 2,
        standby: bool = False,
        kafka: str | None = None,
        redis: str | None = None,
        kafka_port: int = 0,
        rest_port: int = 0,
        metrics_port: int = 0,
        token: str | None = None,
        env: Mapping[str, str] | None = None,
        on_exit: Callable[[ProcessExit], None] = lambda _: None,
        announce: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.data_dir = data_dir.resolve()
        self.workers = workers
        self._external_kafka = kafka
        self._external_redis = redis
        self._kafka_port = kafka_port
        self._rest_port = rest_port
        self._has_standby = standby
        self._standby_port = 0
        self._metrics_port = metrics_port
        self._token = token
        self._env = dict(env or {})
        self._on_exit = on_exit
        self._announce = announce
        self._kafka: EmbeddedKafka | None = None
        self._redis: EmbeddedRedis | None = None
        self._services: dict[str, ManagedProcess] = {}
        self._metrics_ports: dict[str, int] = {}
        self._exits: list[ProcessExit] = []
        self._cleanup = ExitStack()

    def client(self, timeout_s: float = 10.0) -> CoordinatorClient:
        """Of this stack's coordinators: the one that leads is found."""
        urls = [self.rest_url, *([f"http://{LOOPBACK}:{self._standby_port}"] if self._has_standby else [])]
        return CoordinatorClient(",".join(urls), self._token, timeout_s=timeout_s)

    # --- addresses -------------------------------------------------------------------------------------------------

    @property
    def bootstrap_servers(self) -> str:
        if self._kafka is not None:
            return self._kafka.bootstrap_servers
        return self._external_kafka or ""

    @property
    def redis_url(self) -> str:
        if self._redis is not None:
            return self._redis.url
        return self._external_redis or ""

    @property
    def rest_url(self) -> str:
        return f"http://{LOOPBACK}:{self._rest_port}"

    @property
    def metrics_urls(self) -> dict[str, str]:
        """By name of the service."""
        return {name: f"http://{LOOPBACK}:{port}/metrics" for name, port in self._metrics_ports.items()}

    @property
    def logs_dir(self) -> Path:
        return self.data_dir / "logs"

    @property
    def checkpoint_dir(self) -> Path:
        return self.data_dir / "checkpoints"

    @property
    def processes(self) -> dict[str, ManagedProcess]:
        """By name: kafka, redis, coordinator, standby, cleaner, worker-0, ...; without servers that are not ours."""
        servers = {server.process.name: server.process for server in (self._kafka, self._redis) if server is not None}
        return {**servers, **self._services}

    # --- life ------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start everything; returns once every worker has registered. On an error everything is stopped again."""
        with self._cleanup:
            self._lock()
            self._choose_ports()
            self._start_kafka()
            self._start_redis()
            self._start_services()
            self._cleanup = self._cleanup.pop_all()

    def stop(self) -> None:
        """Clean shutdown. Jobs are left as they are: the next start on this directory goes on with them."""
        self._cleanup.close()

    def kill(self, name: str, number: int = signal.SIGKILL) -> int:
        """Send a signal to a process by name; returns the pid that got it."""
        process = self.processes.get(name)
        if process is None:
            raise StackError(f"there is no process {name!r}; there are {', '.join(self.processes)}")
        return process.signal(number)

    def restart(self, name: str, env: Mapping[str, str] | None = None) -> None:
        """Stop a service in good order and start it again; ``env``: on top of its usual environment."""
        process = self._services.get(name)
        if process is None:
            raise StackError(f"there is no service {name!r}; there are {', '.join(self._services)}")
        process.stop()
        spec = replace(process.spec, env={**self._service_env(name), **(env or {})})
        self._services[name] = ManagedProcess(spec, self._exited)
        self._services[name].start()

    def start_server(self, name: str) -> None:
        """Start Kafka or Redis again after it died, on its port and its data; returns when it answers."""
        server = {"kafka": self._kafka, "redis": self._redis}.get(name)
        if server is None:
            raise StackError(f"{name!r} is not a server of this stack")
        server.start()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # --- parts -----------------------------------------------------------------------------------------------------

    def _lock(self) -> None:
        """The directory is ours until ``stop``. A second Kafka on the same files finds out late that it must not be
        there: by then it has taken the first one down."""
        try:
            self.data_dir.mkdir(parents=True, exist_ok=True)
            lock = self._cleanup.enter_context((self.data_dir / "lock").open("w"))
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StackError(f"{self.data_dir} is in use: end what runs there, or name another directory") from None
        except OSError as error:
            raise StackError(f"the data directory {self.data_dir} can't be used: {error.strerror}") from None

    def _choose_ports(self) -> None:
        """A port that is taken is told before the long starts."""
        self._rest_port = self._own_port("The REST API", self._rest_port, "--rest-port")
        self._standby_port = choose_port("The REST API of the standby", 0)
        if self._external_kafka is None and self._kafka_port:
            self._own_port("Kafka", self._kafka_port, "--kafka-port")
        if self._metrics_port:
            for offset, name in enumerate(self._modules()):
                port = self._metrics_port + offset
                self._metrics_ports[name] = self._own_port(f"The metrics of {name}", port, "--metrics-port")

    def _own_port(self, name: str, port: int, option: str) -> int:
        """``port``, or a free one for 0. One that was asked for is ours until ``stop``, as far as this user's other
        stacks go: until our server listens they find it free, and would then speak to our server as if it were theirs.
        """
        chosen = choose_port(name, port, option)
        if port:
            locks = cache_dir() / "ports"
            try:
                locks.mkdir(parents=True, exist_ok=True)
                lock = self._cleanup.enter_context((locks / f"{port}.lock").open("w"))
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise port_taken(name, port, "another `moorage dev` has it", option) from None
            except OSError as error:
                raise StackError(f"the cache directory {locks} can't be used: {error.strerror}") from None
        return chosen

    def _modules(self) -> dict[str, str]:
        """What each service runs."""
        modules = {"coordinator": "moorage_coordinator", "cleaner": "moorage_cleaner"}
        if self._has_standby:
            modules["standby"] = "moorage_coordinator"
        return modules | {f"worker-{i}": "moorage_worker" for i in range(self.workers)}

    def _start_kafka(self) -> None:
        if self._external_kafka is not None:
            connect(self._external_kafka).close()  # says who does not answer
            return
        self._announce("starting Kafka")
        self._kafka = EmbeddedKafka(
            self.data_dir / "kafka",
            self.logs_dir / "kafka.log",
            port=self._kafka_port,
            on_exit=self._exited,
            announce=self._announce,
        )
        self._kafka.start()
        self._cleanup.callback(self._kafka.stop)

    def _start_redis(self) -> None:
        if self._external_redis is not None:
            return  # the coordinator will say what is wrong with it
        self._announce("starting Redis")
        self._redis = EmbeddedRedis(self.data_dir / "redis", self.logs_dir / "redis.log", on_exit=self._exited)
        self._redis.start()
        self._cleanup.callback(self._redis.stop)

    def _start_services(self) -> None:
        self._announce(f"starting coordinator, cleaner and {self.workers} workers")
        for name, module in self._modules().items():
            if not self._metrics_port:
                self._metrics_ports[name] = choose_port(f"The metrics of {name}", 0)
            spec = ProcessSpec(
                name,
                [sys.executable, "-m", module],
                self.logs_dir / f"{name}.log",
                env=self._service_env(name),
                restart=True,
                supervises=module == "moorage_worker",
            )
            self._services[name] = ManagedProcess(spec, self._exited)
        self._cleanup.callback(self._stop_services)
        for service in self._services.values():
            service.start()
        self._wait_for_services()

    @property
    def env(self) -> dict[str, str]:
        """What commands that speak to the servers themselves need."""
        return {
            "MOORAGE_KAFKA_BOOTSTRAP_SERVERS": self.bootstrap_servers,
            "MOORAGE_REDIS_URL": self.redis_url,
            "MOORAGE_CHECKPOINT_DIR": str(self.checkpoint_dir),
        }

    def write_servers(self) -> None:
        """The same as a file, for commands with ``--data-dir``."""
        (self.data_dir / SERVERS_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(self.env)) + b"\n")

    def _service_env(self, name: str) -> dict[str, str]:
        env = {**self.env, "MOORAGE_METRICS_PORT": str(self._metrics_ports[name])}
        if name in ("coordinator", "standby"):
            port = self._rest_port if name == "coordinator" else self._standby_port
            env |= {"MOORAGE_REST_HOST": LOOPBACK, "MOORAGE_REST_PORT": str(port)}
            env |= {"MOORAGE_REST_TOKEN": self._token or ""}
        if name.startswith("worker-"):
            env |= {"MOORAGE_WORKER_NAME": name}
        return env | self._env

    def _wait_for_services(self) -> None:
        deadline_s = time.monotonic() + SERVICES_TIMEOUT_S
        with self.client(timeout_s=2.0) as client:
            while True:
                try:
                    if len(client.task_managers()) >= self.workers:
                        return
                    state = f"{len(client.task_managers())} of {self.workers} workers have registered"
                except (CoordinatorUnreachableError, RestError) as error:
                    state = str(error)
                if (hopeless := self._hopeless()) is not None:
                    raise StackError(f"{hopeless} while starting. {log_tail(self._services[hopeless.name].spec.log)}")
                if time.monotonic() > deadline_s:
                    hint = " Does another stack use the same Redis?" if self._external_redis is not None else ""
                    raise StackError(f"the services were not ready after {SERVICES_TIMEOUT_S:.0f} s: {state}.{hint}")
                time.sleep(0.1)

    def _hopeless(self) -> ProcessExit | None:
        """The death of a service that won't start: for its settings, or for anything else several times in a row."""
        exits = [exit_ for exit_ in self._exits if exit_.name in self._services]
        deaths = Counter(exit_.name for exit_ in exits)
        return next(
            (e for e in exits if e.returncode == SETTINGS_EXIT_CODE or deaths[e.name] >= MAX_START_DEATHS), None
        )

    def _stop_services(self) -> None:
        # All at once: none of them needs another one to end well.
        for service in self._services.values():
            service.terminate()
        for service in self._services.values():
            service.stop()

    def _exited(self, exit_: ProcessExit) -> None:
        self._exits.append(exit_)
        self._on_exit(exit_)


def servers_of(data_dir: Path) -> dict[str, str]:
    """The settings that lead to the servers and the storage of a stack in ``data_dir``; StackError: there was none."""
    try:
        return msgspec.json.decode((data_dir / SERVERS_FILE).read_bytes(), type=dict[str, str])
    except (OSError, msgspec.DecodeError) as error:
        raise StackError(f"there is no `moorage dev` in {data_dir}: {error}") from None
