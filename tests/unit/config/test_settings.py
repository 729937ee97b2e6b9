from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from moorage.config import (
    CleanerSettings,
    CommandLineSettings,
    CoordinatorSettings,
    KafkaSettings,
    Options,
    RedisSettings,
    Secret,
    StorageSettings,
    WorkerSettings,
    load,
)
from moorage.config.declaration import Settings, settings_of
from moorage.config.settings import OWNED_KAFKA_OPTIONS, SETTINGS_CLASSES
from moorage.errors import SettingError

every_class = pytest.mark.parametrize("cls", SETTINGS_CLASSES, ids=lambda cls: cls.__name__)


@every_class
def test_the_defaults_are_allowed(cls: type[Settings]) -> None:
    assert load(cls, {}) == cls()


@every_class
def test_every_setting_says_what_it_is_for_and_what_is_allowed(cls: type[Settings]) -> None:
    for setting in settings_of(cls):
        assert setting.declared.doc.endswith("."), setting.name
        if setting.kind is int:
            assert setting.declared.minimum is not None, setting.name
            assert setting.declared.maximum is not None, setting.name
    assert max(Counter(setting.variable for setting in settings_of(cls)).values()) == 1


@every_class
def test_a_time_or_a_size_has_its_unit_last(cls: type[Settings]) -> None:
    for setting in settings_of(cls):
        if re.search("timeout|interval|linger|ttl|grace|lag|bytes", setting.name):
            assert setting.name.endswith(("_ms", "_bytes", "_frames")), setting.name


@pytest.mark.parametrize(
    ("variable", "cls", "field", "value"),
    [
        ("MOORAGE_KAFKA_BOOTSTRAP_SERVERS", KafkaSettings, "bootstrap_servers", "a:1,b:2"),
        ("MOORAGE_REDIS_URL", RedisSettings, "url", "rediss://user@redis:6380/1"),
        ("MOORAGE_CHECKPOINT_DIR", StorageSettings, "checkpoint_dir", "s3://bucket/checkpoints"),
        ("MOORAGE_REST_HOST", CoordinatorSettings, "rest_host", "::1"),
        ("MOORAGE_METRICS_HOST", CoordinatorSettings, "metrics_host", "0.0.0.0"),
        ("MOORAGE_WORKER_NAME", WorkerSettings, "name", "worker-1"),
        ("MOORAGE_FAILPOINT", WorkerSettings, "failpoint", "after-flush-before-ack"),
        ("MOORAGE_LOG_LEVEL", CleanerSettings, "log_level", "debug"),
        ("MOORAGE_COORDINATOR_PIPELINE", CoordinatorSettings, "pipeline", "/srv/orders.py:pipeline"),
    ],
)
def test_a_variable_sets_its_field(variable: str, cls: type[Settings], field: str, value: str) -> None:
    assert getattr(load(cls, {variable: value}), field) == value


@pytest.mark.parametrize(
    ("cls", "port"), [(CoordinatorSettings, 9101), (WorkerSettings, 9102), (CleanerSettings, 9103)]
)
def test_services_share_the_names_but_not_the_defaults_of_their_metrics(cls: type[Settings], port: int) -> None:
    assert load(cls, {}).metrics_port == port  # type: ignore[attr-defined]
    assert load(cls, {"MOORAGE_METRICS_PORT": "0"}).metrics_port == 0  # type: ignore[attr-defined]


# --- Kafka -----------------------------------------------------------------------------------------------------------


def test_options_of_kafka_are_passed_through_by_kind_of_client() -> None:
    kafka = load(
        KafkaSettings,
        {
            "MOORAGE_KAFKA_BOOTSTRAP_SERVERS": "kafka:9093",
            "MOORAGE_KAFKA_OPTIONS": '{"security.protocol": "SASL_SSL", "sasl.password": "a,b", "linger.ms": 5}',
            "MOORAGE_KAFKA_CONSUMER_OPTIONS": "fetch.min.bytes=100000",
            "MOORAGE_KAFKA_PRODUCER_OPTIONS": "linger.ms=20,compression.type=lz4",
        },
    )
    common = {
        "bootstrap.servers": "kafka:9093",
        "security.protocol": "SASL_SSL",
        "sasl.password": "a,b",
        "linger.ms": "5",
    }
    assert kafka.common_config() == common
    assert kafka.consumer_config() == common | {"fetch.min.bytes": "100000"}
    assert kafka.producer_config() == common | {"linger.ms": "20", "compression.type": "lz4"}


@pytest.mark.parametrize("option", OWNED_KAFKA_OPTIONS)
@pytest.mark.parametrize("name", ["options", "consumer_options", "producer_options"])
def test_options_that_moorage_needs_for_itself_are_refused(name: str, option: str) -> None:
    line = f"^MOORAGE_KAFKA_{name.upper()}: can't hold {re.escape(option)}: .+"
    with pytest.raises(SettingError, match=line):
        KafkaSettings(**{name: Options({option: "x"})})


def test_a_topic_has_the_brokers_default_of_replicas_or_at_least_one() -> None:
    assert KafkaSettings().replication_factor == -1
    with pytest.raises(SettingError, match="FACTOR=0: must be -1, or a whole number of at least 1"):
        KafkaSettings(replication_factor=0)


# --- Redis and storage -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["redis://:pw@h:1/0", "redis://me:pw@h", "redis://h?password=pw", "http://h", "h:6379"])
def test_a_redis_url_has_a_scheme_and_no_password(url: str) -> None:
    with pytest.raises(SettingError, match="MOORAGE_REDIS_PASSWORD") as caught:
        RedisSettings(url=url)
    assert "pw" not in str(caught.value)


def test_the_password_of_redis_is_a_secret() -> None:
    assert load(RedisSettings, {"MOORAGE_REDIS_PASSWORD": "pw"}).password == Secret("pw")
    with pytest.raises(SettingError, match=r"^MOORAGE_REDIS_OPTIONS: can't hold password: use MOORAGE_REDIS_PASSWORD$"):
        RedisSettings(options=Options({"password": "pw"}))


def test_a_path_becomes_a_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert StorageSettings().url == (tmp_path / "moorage-data" / "checkpoints").as_uri()
    assert StorageSettings(checkpoint_dir="/var/lib/my checkpoints").url == "file:///var/lib/my%20checkpoints"
    assert StorageSettings(checkpoint_dir="s3://bucket/prefix").url == "s3://bucket/prefix"


@pytest.mark.parametrize("location", ["ftp://host/folder", "s3://", "file://host/folder"])
def test_a_storage_that_is_not_known_is_refused(location: str) -> None:
    with pytest.raises(SettingError, match="MOORAGE_CHECKPOINT_DIR"):
        StorageSettings(checkpoint_dir=location)


# --- services --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_the_rest_api_needs_no_token_on_this_machine(host: str) -> None:
    assert CoordinatorSettings(rest_host=host).rest_token is None


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "coordinator", "localhost.example"])
def test_the_rest_api_for_other_machines_needs_a_token_or_a_clear_word(host: str) -> None:
    with pytest.raises(SettingError, match=r"^MOORAGE_REST_HOST=.*MOORAGE_REST_TOKEN or MOORAGE_REST_ALLOW_INSECURE"):
        CoordinatorSettings(rest_host=host)
    assert CoordinatorSettings(rest_host=host, rest_token=Secret("s3cret-t")).rest_host == host
    assert CoordinatorSettings(rest_host=host, rest_allow_insecure=True).rest_host == host


@pytest.mark.parametrize("settings", [CoordinatorSettings, CommandLineSettings])
@pytest.mark.parametrize("token", [" ", " " * 20, "7-chars", "with a blank", "with-a-newline\n", "gehöre-zu-uns"])
def test_a_token_that_protects_nothing_or_fits_no_header_is_refused(
    settings: type[CoordinatorSettings | CommandLineSettings], token: str
) -> None:
    with pytest.raises(SettingError, match=r"^MOORAGE_REST_TOKEN: must be at least 8 letters"):
        load(settings, {"MOORAGE_REST_TOKEN": token})
    assert load(settings, {"MOORAGE_REST_TOKEN": "s3cret-t"}).rest_token == Secret("s3cret-t")


def test_a_worker_is_never_lost_for_one_lost_heartbeat() -> None:
    limits = {s.name: s.declared for cls in (CoordinatorSettings, WorkerSettings) for s in settings_of(cls)}
    workers_longest_ms = next(
        s for s in settings_of(WorkerSettings) if s.name == "heartbeat_interval_ms"
    ).declared.maximum
    assert workers_longest_ms is not None
    for name in ("worker_heartbeat_timeout_ms", "adoption_timeout_ms"):
        assert limits[name].minimum == 2 * workers_longest_ms


@pytest.mark.parametrize("name", ["exchange_max_lag_bytes", "held_max_bytes"])
def test_what_holds_frames_has_room_for_two(name: str) -> None:
    with pytest.raises(SettingError, match="must be at least 1048576, twice MOORAGE_WORKER_FRAME_MAX_BYTES"):
        WorkerSettings(**{name: 1_000_000})
    assert WorkerSettings(frame_max_bytes=500_000, **{name: 1_000_000}).frame_max_bytes == 500_000


def test_a_frame_fits_into_a_message_of_kafka() -> None:
    with pytest.raises(SettingError, match=r"MOORAGE_WORKER_FRAME_MAX_BYTES=1048576: must be .* to 921600"):
        WorkerSettings(frame_max_bytes=1 << 20)


def test_a_worker_is_called_after_its_machine() -> None:
    assert re.fullmatch(r"[A-Za-z0-9._-]+", WorkerSettings().name)
    with pytest.raises(SettingError, match="MOORAGE_WORKER_NAME=a/b"):
        WorkerSettings(name="a/b")
