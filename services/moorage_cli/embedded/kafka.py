"""One Apache Kafka broker in KRaft mode on loopback, broker and controller in one Java process.

The jars are resolved once by Maven from ``pom.xml`` into the cache; with them the JVM's archive of parsed classes,
which halves the start. The data directory is formatted once: its cluster id and logs last over restarts.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from moorage_cli.embedded.cache import cache_dir
from moorage_cli.embedded.errors import LOOPBACK, StackError, choose_port, port_taken
from moorage_cli.embedded.processes import ManagedProcess, ProcessExit, ProcessSpec, wait_until_ready

JAVA_VERSION = 17
START_TIMEOUT_S = 90.0

_HERE = Path(__file__).parent
_JVM_OPTIONS = (
    *("-Xms256m", "-Xmx768m", "-Djava.awt.headless=true"),
    *("-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20", "-XX:+ExplicitGCInvokesConcurrent"),
)
_TERMINATED_JVM = 128 + signal.SIGTERM
"""Exit code of a JVM that was told to end by SIGTERM and ran its shutdown hooks."""

_SETTINGS = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@{host}:{controller_port}
listeners=PLAINTEXT://{host}:{port},CONTROLLER://{host}:{controller_port}
advertised.listeners=PLAINTEXT://{host}:{port}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
log.dirs={log_dir}

# One node: internal topics can't be replicated, and few partitions start faster.
default.replication.factor=1
min.insync.replicas=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=1

# After a crash the controller gives the broker's place away only when its old session has expired.
broker.session.timeout.ms=4000
broker.heartbeat.interval.ms=1000

# Nobody else will join a group in the next seconds.
group.initial.rebalance.delay.ms=0
# A typo in a topic's name must be an error, not a topic.
auto.create.topics.enable=false
# A transaction may stay open while a whole stack is down.
transaction.max.timeout.ms=86400000

# Threads and buffers for two cores, not for a data centre.
num.network.threads=2
num.io.threads=4
num.recovery.threads.per.data.dir=2
background.threads=4
log.cleaner.dedupe.buffer.size=16777216
log.index.size.max.bytes=2097152
"""


class Java(NamedTuple):
    path: str
    banner: str
    """What ``java -version`` says: it tells one build from another."""


def find_java() -> Java:
    """A Java that is new enough, from ``JAVA_HOME`` or PATH."""
    home = os.environ.get("JAVA_HOME")
    java = str(Path(home) / "bin" / "java") if home else shutil.which("java")
    needed = f"The embedded Kafka needs Java {JAVA_VERSION} or newer"
    if java is None:
        raise StackError(f"{needed}, and there is no java on PATH. Install one, or name a running Kafka instead.")
    try:
        banner = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=30, check=True).stderr
    except (OSError, subprocess.SubprocessError) as error:
        raise StackError(f"{needed}, and {java} does not run: {error}") from None
    version = re.search(r'version "(?:1\.)?(\d+)', banner)
    if version is None or int(version[1]) < JAVA_VERSION:
        found = version[1] if version else banner.strip() or "nothing"
        raise StackError(f"{needed}; {java} is version {found}. Set JAVA_HOME to a newer one.")
    return Java(java, banner)


def resolve_jars(announce: Callable[[str], None] = lambda _: None) -> Path:
    """The directory of Kafka's jars; fetched by Maven the first time, safe to call from several processes at once."""
    pom = _HERE / "pom.xml"
    home = cache_dir() / f"kafka-{hashlib.sha256(pom.read_bytes()).hexdigest()[:12]}"
    jars = home / "lib"
    with _locked(home):
        if jars.is_dir():
            return jars
        maven = shutil.which("mvn")
        if maven is None:
            raise StackError(
                "The embedded Kafka's jars are fetched by Maven, and there is no mvn on PATH."
                " Install Maven, or name a running Kafka instead."
            )
        announce("fetching Kafka's jars with Maven, once for this user")
        with tempfile.TemporaryDirectory(dir=home) as scratch:
            shutil.copy(pom, scratch)
            fetched = Path(scratch) / "lib"
            command = [maven, "-q", "-B", "--strict-checksums", "dependency:copy-dependencies"]
            command += ["-DincludeScope=runtime", f"-DoutputDirectory={fetched}"]
            result = subprocess.run(command, cwd=scratch, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            if result.returncode != 0:
                tail = "\n".join(result.stdout.strip().splitlines()[-15:])
                raise StackError(f"Maven could not fetch Kafka's jars (exit code {result.returncode}):\n{tail}")
            fetched.rename(jars)
    return jars


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Hold a directory (made if needed) for this process alone."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class EmbeddedKafka:
    """A broker under ``data_dir``; its log goes to ``log``. A port of 0 is chosen at the first start and then kept."""

    def __init__(
        self,
        data_dir: Path,
        log: Path,
        *,
        port: int = 0,
        on_exit: Callable[[ProcessExit], None] = lambda _: None,
        announce: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._data_dir = data_dir
        self._log = log
        self._port = port
        self._controller_port = 0
        self._on_exit = on_exit
        self._announce = announce
        self._process: ManagedProcess | None = None
        self._new_archive: _NewArchive | None = None

    @property
    def bootstrap_servers(self) -> str:
        """Known once the broker was started."""
        return f"{LOOPBACK}:{self._port}"

    @property
    def process(self) -> ManagedProcess:
        if self._process is None:
            raise StackError("Kafka was not started")
        return self._process

    def start(self) -> None:
        """Start the broker and wait until it answers a metadata request; StackError says what is in the way."""
        java = find_java()
        jars = resolve_jars(self._announce)
        self._port = choose_port("Kafka", self._port)
        self._controller_port = choose_port("Kafka's controller", self._controller_port)
        self._data_dir.mkdir(parents=True, exist_ok=True)
        log_dir = self._data_dir / "data"
        properties = self._data_dir / "server.properties"
        properties.write_text(
            _SETTINGS.format(host=LOOPBACK, port=self._port, controller_port=self._controller_port, log_dir=log_dir)
        )
        class_path = ["-cp", os.pathsep.join(str(jar) for jar in sorted(jars.glob("*.jar")))]
        logging = [f"-Dlog4j2.configurationFile={_HERE / 'log4j2.properties'}"]
        if not (log_dir / "meta.properties").is_file():
            self._format([java.path, *logging, *class_path], properties)
        archive = jars.parent / f"classes-{hashlib.sha256(java.banner.encode()).hexdigest()[:12]}.jsa"
        if archive.is_file():
            sharing = [f"-XX:SharedArchiveFile={archive}"]
        else:
            self._new_archive = _NewArchive(archive.with_suffix(f".{os.getpid()}"), archive)
            sharing = [
                f"-XX:ArchiveClassesAtExit={self._new_archive.written}",
                "-Xlog:cds=off",
                "-Xlog:cds+dynamic=off",
            ]
        command = [java.path, *_JVM_OPTIONS, *sharing, *logging, *class_path, "kafka.Kafka", str(properties)]
        self._process = ManagedProcess(ProcessSpec("kafka", command, self._log, stop_grace_s=30.0), self._on_exit)
        self._process.start()
        try:
            cluster = _cluster_id(log_dir)
            wait_until_ready(self._process, lambda: self._is_up(cluster), START_TIMEOUT_S)
        except BaseException:
            self._process.stop()
            raise

    def _is_up(self, cluster: str) -> bool:
        """Our own broker answers; one of somebody else's may have taken the port after we looked."""
        found = answering_cluster(self.bootstrap_servers)
        if found not in (None, cluster):
            raise port_taken("Kafka", self._port, "another Kafka answers there")
        return found == cluster

    def _format(self, java: list[str], properties: Path) -> None:
        command = [*java, "kafka.tools.StorageTool", "format", "-t", _random_cluster_id(), "-c", str(properties)]
        result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if result.returncode != 0:
            raise StackError(f"Kafka can't format {self._data_dir}:\n{result.stdout.strip()}")

    def stop(self) -> None:
        """Clean shutdown: the logs are closed, the next start needs no recovery."""
        if self._process is None:
            return
        self._process.stop()
        if self._new_archive is not None:
            self._new_archive.publish(complete=self._process.returncode == _TERMINATED_JVM)
            self._new_archive = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class _NewArchive(NamedTuple):
    """The JVM writes its class archive when it ends; only a complete one may get the name that others look for."""

    written: Path
    final: Path

    def publish(self, *, complete: bool) -> None:
        if complete and self.written.is_file():
            self.written.rename(self.final)
        else:
            self.written.unlink(missing_ok=True)


def _random_cluster_id() -> str:
    """As Kafka's ``Uuid.randomUuid``: base64 of 16 bytes, not starting with a dash, which would look like an option."""
    while (text := base64.urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode()).startswith("-"):
        pass
    return text


def _cluster_id(log_dir: Path) -> str:
    match = re.search(r"^cluster\.id=(.*)$", (log_dir / "meta.properties").read_text(), re.MULTILINE)
    if match is None:
        raise StackError(f"{log_dir / 'meta.properties'} names no cluster: Kafka's data is damaged")
    return match[1].strip()


def answering_cluster(bootstrap_servers: str, timeout_s: float = 1.0) -> str | None:
    """Id of the cluster whose broker answers a metadata request there; None: none does."""
    # The client's own log lines about refused connections would only repeat what our caller is about to say.
    client = AdminClient({"bootstrap.servers": bootstrap_servers, "log_level": 0, "reconnect.backoff.max.ms": 200})
    try:
        found = client.list_topics(timeout=timeout_s)
    except KafkaException:
        return None
    return found.cluster_id if found.brokers else None
