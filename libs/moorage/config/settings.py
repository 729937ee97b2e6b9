"""Every setting of Moorage."""

# ruff: noqa: RUF009 (setting() declares a field)

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from moorage.config.declaration import Options, Secret, Settings, setting

GIB = 1 << 30
MIB = 1 << 20
KIB = 1 << 10

# --- what the services talk to ---------------------------------------------------------------------------------------

_OFFSETS = "offsets live in checkpoints"
_DELIVERY = "exactly-once rests on it"
OWNED_KAFKA_OPTIONS: Mapping[str, str] = {
    "bootstrap.servers": "use MOORAGE_KAFKA_BOOTSTRAP_SERVERS",
    "metadata.broker.list": "use MOORAGE_KAFKA_BOOTSTRAP_SERVERS",
    "client.id": "Moorage names its clients after what they are for",
    "group.id": "Moorage names its groups after job and source",
    "enable.auto.commit": _OFFSETS,
    "enable.auto.offset.store": _OFFSETS,
    "auto.offset.reset": _OFFSETS,
    "enable.partition.eof": "Moorage finds the end of a partition itself",
    "isolation.level": _DELIVERY,
    "enable.idempotence": _DELIVERY,
    "acks": _DELIVERY,
    "request.required.acks": _DELIVERY,
    "max.in.flight": _DELIVERY,
    "max.in.flight.requests.per.connection": _DELIVERY,
    "transactional.id": "Moorage names transactions after job, sink and subtask",
    "transaction.timeout.ms": "use MOORAGE_WORKER_TRANSACTION_TIMEOUT_MS",
    "delivery.report.only.error": "Moorage counts what the broker confirms",
}
"""Options of librdkafka that no one but Moorage may set, and why."""

OWNED_REDIS_OPTIONS: Mapping[str, str] = {
    "password": "use MOORAGE_REDIS_PASSWORD",
    "socket_timeout": "use MOORAGE_REDIS_SOCKET_TIMEOUT_MS",
    "socket_connect_timeout": "use MOORAGE_REDIS_SOCKET_TIMEOUT_MS",
    "decode_responses": "Moorage decodes what it reads itself",
}
"""Options of redis-py that no one but Moorage may set, and why."""


@dataclass(frozen=True, kw_only=True)
class KafkaSettings(Settings, prefix="KAFKA_"):
    """The Kafka that carries data and control messages. Read by every service."""

    bootstrap_servers: str = setting(
        "localhost:9092",
        "Brokers to ask first.",
        pattern=r"[^\s,]+(,[^\s,]+)*",
        form="host:port, several with a comma between them",
    )
    options: Options = setting(
        Options(),
        "Any option of librdkafka for all clients, by its name there (TLS, SASL):"
        ' {"security.protocol": "SASL_SSL", ...}. Not those that Moorage needs for itself.',
    )
    consumer_options: Options = setting(Options(), "The same for consumers only; goes before the common ones.")
    producer_options: Options = setting(Options(), "The same for producers only; goes before the common ones.")
    replication_factor: int = setting(
        -1,
        "Replicas of each topic that Moorage creates; -1: the broker's default.replication.factor.",
        minimum=-1,
        maximum=32_767,
    )

    def check(self) -> None:
        for name in ("options", "consumer_options", "producer_options"):
            _refuse_owned(self, name, OWNED_KAFKA_OPTIONS)
        if self.replication_factor == 0:
            raise self.refuse("replication_factor", "must be -1, or a whole number of at least 1")

    def common_config(self) -> dict[str, str]:
        """Of a client of any kind, as librdkafka takes it."""
        return {**self.options, "bootstrap.servers": self.bootstrap_servers}

    def consumer_config(self) -> dict[str, str]:
        return {**self.common_config(), **self.consumer_options}

    def producer_config(self) -> dict[str, str]:
        return {**self.common_config(), **self.producer_options}


@dataclass(frozen=True, kw_only=True)
class RedisSettings(Settings, prefix="REDIS_"):
    """The Redis that holds the checkpoint registry. Read by coordinator and cleaner."""

    url: str = setting(
        "redis://localhost:6379/0",
        "Where it is; rediss:// for TLS, unix:// for a socket. memory: does without one: a single coordinator keeps the"
        " registry in its memory, and brings running jobs back from the checkpoint storage when it starts again. Only"
        " for trying things out: nothing is cleaned up, and no other service may need the registry.",
        pattern=r"memory:|(rediss?|unix)://(?!\S*:\S*@)(?!\S*password=)\S+",
        form="a redis://, rediss:// or unix:// URL without password, which belongs into MOORAGE_REDIS_PASSWORD",
    )
    password: Secret | None = setting(None, "Its password.")
    namespace: str = setting(
        "moorage",
        "Keys start with it: several Moorages can share one Redis.",
        pattern=r"[A-Za-z0-9_-]{1,64}",
        form="1 to 64 letters, digits, '_' and '-'",
    )
    socket_timeout_ms: int = setting(5_000, "An answer that takes longer is an error.", minimum=100, maximum=60_000)
    options: Options = setting(
        Options(), "Any option of redis-py by its name there, as in the query of a redis:// URL (ssl_ca_certs, ...)."
    )

    def check(self) -> None:
        _refuse_owned(self, "options", OWNED_REDIS_OPTIONS)


def _refuse_owned(settings: Settings, name: str, owned: Mapping[str, str]) -> None:
    for option in getattr(settings, name):
        if option in owned:
            raise settings.refuse(name, f"can't hold {option}: {owned[option]}")


@dataclass(frozen=True, kw_only=True)
class StorageSettings(Settings):
    """Where checkpoints are kept. Read by every service, and the same for all of them."""

    checkpoint_dir: str = setting(
        "moorage-data/checkpoints",
        "Root of the checkpoint storage: a folder that all services share, file:///folder, s3://bucket/prefix,"
        " gs://bucket/prefix or az://container/prefix.",
        pattern=r"(file:///|(s3|gs|az)://[^/\s])\S*|(?!\w+://).+",
        form="a path, or a URL such as file:///folder, s3://bucket/prefix, gs://bucket/prefix or az://container/prefix",
    )

    @property
    def url(self) -> str:
        """``checkpoint_dir`` as a URL; a path is taken from the current folder."""
        return self.checkpoint_dir if "://" in self.checkpoint_dir else Path(self.checkpoint_dir).resolve().as_uri()


# --- the services ----------------------------------------------------------------------------------------------------


def _metrics_port(default: int) -> int:
    return setting(
        default,
        "Port of the Prometheus metrics; 0: any free one.",
        minimum=0,
        maximum=65_535,
        variable="MOORAGE_METRICS_PORT",
    )


def _rest_token(doc: str) -> Secret | None:
    """Short enough to guess is as good as none; and what a header can't carry would lock everybody out, or nobody."""
    return setting(
        None,
        doc,
        pattern=r"[!-~]{8,}",
        form="at least 8 letters, digits or signs of ASCII, none of them blank",
        variable="MOORAGE_REST_TOKEN",
    )


def _pipeline_path() -> tuple[str, ...]:
    return setting(
        (), "Folders from which pipelines are imported, before the usual ones.", variable="MOORAGE_PIPELINE_PATH"
    )


@dataclass(frozen=True, kw_only=True)
class ServiceSettings(Settings):
    """What coordinator, worker and cleaner have in common."""

    metrics_host: str = setting("127.0.0.1", "Address at which the metrics are served; 0.0.0.0: all.")
    log_level: str = setting(
        "info", "Lines of less weight are not logged.", choices=("debug", "info", "warning", "error")
    )
    log_json: bool = setting(False, "Log one JSON object per line instead of text.")
    failpoint: str | None = setting(
        None,
        "For tests: the process kills itself with SIGKILL when it gets to the point of that name, such as"
        " after-flush-before-ack.",
        pattern=r"[a-z0-9-]+",
        form="the name of a failpoint",
    )


@dataclass(frozen=True, kw_only=True)
class CoordinatorSettings(ServiceSettings, prefix="COORDINATOR_"):
    """The coordinator that leads, and those that stand by. Besides those of all services."""

    metrics_port: int = _metrics_port(9101)
    rest_host: str = setting(
        "127.0.0.1",
        "Address at which the REST API is served; anything but a loopback address needs MOORAGE_REST_TOKEN.",
        variable="MOORAGE_REST_HOST",
    )
    rest_port: int = setting(
        8081, "Port of the REST API; 0: any free one.", minimum=0, maximum=65_535, variable="MOORAGE_REST_PORT"
    )
    rest_token: Secret | None = _rest_token("Callers of the REST API must send it as a bearer token.")
    rest_allow_insecure: bool = setting(
        False,
        "Serve the REST API to other machines without a token: something in front of it keeps strangers out.",
        variable="MOORAGE_REST_ALLOW_INSECURE",
    )
    lease_ttl_ms: int = setting(
        3_000, "A leader that could not renew its lease for so long is replaced.", minimum=1_000, maximum=600_000
    )
    heartbeat_interval_ms: int = setting(
        1_000,
        "Time between two heartbeats to the workers, which repeat the fate of checkpoints.",
        minimum=50,
        maximum=10_000,
    )
    # At least two of the longest interval that a worker takes, so that one lost heartbeat loses no worker.
    worker_heartbeat_timeout_ms: int = setting(
        5_000, "A worker that was not heard for so long is lost.", minimum=2_000, maximum=600_000
    )
    adoption_timeout_ms: int = setting(
        6_000,
        "How long a new leader waits for the subtasks of a running job to report.",
        minimum=2_000,
        maximum=600_000,
    )
    executor_threads: int = setting(4, "Threads for calls to Redis, Kafka and the storage.", minimum=1, maximum=64)
    master_hooks: str | None = setting(
        None,
        "Functions that make the master hook of a job, which takes part in its checkpoints, with ',' between them.",
        variable="MOORAGE_MASTER_HOOKS",
        pattern=r"[\w.]+:\w+(,[\w.]+:\w+)*",
        form="MODULE:ATTRIBUTE, or several with a comma between them",
    )
    master_hook_timeout_ms: int = setting(
        10_000,
        "A checkpoint whose master hooks have not answered after so long is aborted.",
        variable="MOORAGE_MASTER_HOOK_TIMEOUT_MS",
        minimum=1,
        maximum=3_600_000,
    )
    operator_coordinators: str | None = setting(
        None,
        "Kinds of operator coordinators besides Moorage's own, with ',' between them.",
        variable="MOORAGE_OPERATOR_COORDINATORS",
        pattern=r"\w+=[\w.]+:\w+(,\w+=[\w.]+:\w+)*",
        form="KIND=MODULE:ATTRIBUTE, or several with a comma between them",
    )
    checkpoint_history: int = setting(
        20, "Completed and failed checkpoints of a job whose statistics are kept.", minimum=1, maximum=1_000
    )
    traces_endpoint: str | None = setting(
        None,
        "Where trace spans of checkpoints are sent by OTLP over HTTP, such as http://localhost:4318/v1/traces; needs"
        " moorage[otel].",
        pattern=r"https?://\S+",
        form="an http:// or https:// URL",
    )
    pipeline: str | None = setting(
        None,
        "A pipeline to submit at the start, if its job does not run.",
        pattern=r"\S.*:\w+",
        form="MODULE:ATTRIBUTE or FILE.py:ATTRIBUTE",
    )
    pipeline_path: tuple[str, ...] = _pipeline_path()

    def check(self) -> None:
        if self.rest_token is None and not self.rest_allow_insecure and not _is_loopback(self.rest_host):
            raise self.refuse(
                "rest_host",
                "must be a loopback address, or MOORAGE_REST_TOKEN or MOORAGE_REST_ALLOW_INSECURE must be set",
            )


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _host_name() -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname()) or "worker"


@dataclass(frozen=True, kw_only=True)
class WorkerSettings(ServiceSettings, prefix="WORKER_"):
    """Each worker. Besides those of all services."""

    metrics_port: int = _metrics_port(9102)
    name: str = setting(
        _host_name(),
        "Its name, which it keeps over restarts; two workers on one machine need names of their own.",
        pattern=r"[A-Za-z0-9._-]{1,128}",
        form="1 to 128 letters, digits, '.', '_' and '-'",
        shown_default="the name of the machine",
    )
    slots: int = setting(
        2, "How many slots it has: a slot runs one subtask of every vertex of a job.", minimum=1, maximum=256
    )
    # At most half of the shortest timeout that a coordinator takes.
    heartbeat_interval_ms: int = setting(
        500, "Time between two heartbeats to the coordinator.", minimum=50, maximum=1_000
    )
    step_timeout_ms: int = setting(
        600_000,
        "A call of user code that takes longer is stuck: the worker shows where, ends, and is started again.",
        minimum=5_000,
        maximum=86_400_000,
    )
    upload_threads: int = setting(
        2,
        "Files of state that are written to the storage at the same time; besides those as many of subtasks whose new"
        " state is too large to wait in memory.",
        minimum=1,
        maximum=64,
    )
    restore_threads: int = setting(
        4, "Files of state that a subtask reads at the same time when it restores.", minimum=1, maximum=64
    )
    max_poll_records: int = setting(
        10_000, "Records that a source takes from Kafka at a time.", minimum=1, maximum=1_000_000
    )
    frame_max_records: int = setting(4_000, "A frame with so many records is closed.", minimum=1, maximum=1_000_000)
    # Kafka refuses messages of more than 1,048,588 bytes unless a topic says otherwise, and a frame is closed only by
    # the record that takes it over the limit.
    frame_max_bytes: int = setting(512 * KIB, "A frame of so many bytes is closed.", minimum=KIB, maximum=900 * KIB)
    linger_ms: int = setting(
        100, "A frame that is not full is closed after so long at the latest.", minimum=0, maximum=10_000
    )
    exchange_max_lag_frames: int = setting(
        500,
        "A producer that is so many frames ahead of the slowest consumer of a partition stops reading its input.",
        minimum=2,
        maximum=1_000_000,
    )
    exchange_max_lag_bytes: int = setting(
        4 * MIB,
        "The same in bytes, all partitions of an exchange together. What lies there, a checkpoint's barrier waits for.",
        minimum=KIB,
        maximum=16 << 30,
    )
    held_max_bytes: int = setting(
        64 * MIB,
        "Frames that a subtask holds in memory while it aligns a checkpoint; what is more is read from Kafka again.",
        minimum=KIB,
        maximum=16 << 30,
    )
    # Acknowledgements must fit into a message of Kafka, with the state of all operators of a subtask.
    state_inline_max_bytes: int = setting(
        20 * KIB,
        "State of at most so many bytes goes into the checkpoint's metadata, not into a file.",
        minimum=0,
        maximum=100 * KIB,
    )
    state_merged_piece_max_bytes: int = setting(
        MIB,
        "State of at most so many bytes goes into one file with that of the worker's other subtasks; 0: each into a"
        " file of its own.",
        minimum=0,
        maximum=GIB,
    )
    state_merged_file_max_bytes: int = setting(
        32 * MIB, "A merged file of so many bytes is closed and the next one begun.", minimum=KIB, maximum=GIB
    )
    state_merged_max_space_amplification: int = setting(
        2,
        "When less than one part in so many of a merged file is still needed, what is left of it is written anew, so"
        " that the file can go.",
        minimum=2,
        maximum=1_000,
    )
    state_merge_linger_ms: int = setting(
        100,
        "A merged file that nothing was added to for so long is closed, although subtasks of the worker are missing.",
        minimum=0,
        maximum=60_000,
    )
    local_recovery_dir: str | None = setting(
        None,
        "Folder in which the worker keeps copies of the state files of its last checkpoints, to restore from them"
        " instead of the storage; not shared with another worker.",
        shown_default="no copies",
    )
    local_recovery_max_bytes: int = setting(
        10 * GIB, "What the copies may take up; the oldest make room.", minimum=0, maximum=1 << 50
    )
    state_dir: str | None = setting(
        None,
        "Local folder for state that is kept in RocksDB; several workers may share it. A fast disk, with room for the"
        " state of all subtasks and half as much again. Emptied when the worker ends.",
        shown_default="`moorage` in the folder for temporary files",
    )
    state_memory_bytes: int = setting(
        256 * MIB,
        "Memory for state that is kept in RocksDB, of all subtasks together: half of it for RocksDB (block cache,"
        " memtables, indexes, filters), half for decoded rows.",
        minimum=16 * MIB,
        maximum=1 << 40,
    )
    transaction_timeout_ms: int = setting(
        900_000,
        "Kafka aborts the transaction of an exactly-once sink that takes longer; at most the broker's"
        " transaction.max.timeout.ms. What was in it is written again.",
        minimum=10_000,
        maximum=604_800_000,
    )
    pipeline_path: tuple[str, ...] = _pipeline_path()

    def check(self) -> None:
        for name in ("exchange_max_lag_bytes", "held_max_bytes"):
            if getattr(self, name) < 2 * self.frame_max_bytes:
                raise self.refuse(
                    name,
                    f"must be at least {2 * self.frame_max_bytes}, twice MOORAGE_WORKER_FRAME_MAX_BYTES",
                )


@dataclass(frozen=True, kw_only=True)
class CleanerSettings(ServiceSettings, prefix="CLEANER_"):
    """The cleaner. Besides those of all services."""

    metrics_port: int = _metrics_port(9103)
    grace_ms: int = setting(
        600_000,
        "A file that no checkpoint refers to stays for so long: the checkpoint that it belongs to may be under way."
        " Longer than a checkpoint may take.",
        minimum=0,
        maximum=604_800_000,
    )
    sweep_interval_ms: int = setting(
        30_000, "Time between two looks at everything that a job has.", minimum=1_000, maximum=86_400_000
    )
    prompt_interval_ms: int = setting(
        5_000,
        "A job is cleaned at most this often when the coordinator asks for it.",
        minimum=100,
        maximum=3_600_000,
    )
    deletes_per_second: int = setting(
        2_000,
        "Files that are deleted in a second at most, so that cleaning never competes with checkpoints.",
        minimum=1,
        maximum=100_000,
    )
    ended_job_ttl_ms: int = setting(
        3_600_000,
        "A job that has ended and of which neither a checkpoint nor a savepoint is kept is shown for so long, then its"
        " topics and its entry in the registry go.",
        minimum=0,
        maximum=31_536_000_000,
    )
    purge_hold_ms: int = setting(
        30_000,
        "Time between the last deletion of a purge and the moment when the name of the job can be used again: longer"
        " than a cleaner may be paused in the middle of a call.",
        minimum=0,
        maximum=3_600_000,
    )
    dry_run: bool = setting(False, "Only log what would be deleted.")


@dataclass(frozen=True, kw_only=True)
class CommandLineSettings(Settings):
    """The command line: what its options fall back to."""

    rest_url: str = setting(
        "http://127.0.0.1:8081",
        "Where the coordinator answers; of several, the one that leads is asked.",
        pattern=r"(https?://)?(?!\w+://)[^\s,]+(,(https?://)?(?!\w+://)[^\s,]+)*",
        form="a URL or host:port, or several with a comma between them",
    )
    rest_token: Secret | None = _rest_token("The coordinator's token.")
    cache_dir: str | None = setting(
        None, "Where Kafka's jars are kept for `moorage dev`.", shown_default="the user's cache"
    )


SETTINGS_CLASSES: tuple[type[Settings], ...] = (
    KafkaSettings,
    RedisSettings,
    StorageSettings,
    CoordinatorSettings,
    WorkerSettings,
    CleanerSettings,
    CommandLineSettings,
)
