"""What the embedded servers need from the machine, and what they say when it is not there."""

from __future__ import annotations

import fcntl
import socket
import stat
from pathlib import Path

import pytest

from moorage_cli.embedded import kafka, redis
from moorage_cli.embedded.cache import cache_dir
from moorage_cli.embedded.errors import StackError, choose_port, log_tail
from moorage_cli.embedded.stack import Stack, servers_of


@pytest.fixture
def bin_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only directory on PATH; the cache is empty."""
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", str(directory))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("MOORAGE_CACHE_DIR", str(tmp_path / "cache"))
    return directory


def _program(path: Path, script: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def _java(path: Path, version: str) -> None:
    _program(path, f"echo 'openjdk version \"{version}\" 2025-04-15' >&2")


@pytest.mark.parametrize("version", ["17.0.15", "21", "25-ea"])
def test_takes_a_java_that_is_new_enough(bin_dir: Path, version: str) -> None:
    _java(bin_dir / "java", version)

    assert kafka.find_java().path == str(bin_dir / "java")


@pytest.mark.parametrize(("version", "named"), [("1.8.0_402", "8"), ("11.0.2", "11"), ("16", "16")])
def test_names_the_version_of_a_java_that_is_too_old(bin_dir: Path, version: str, named: str) -> None:
    _java(bin_dir / "java", version)

    with pytest.raises(StackError, match=rf"needs Java 17 or newer; {bin_dir}/java is version {named}\. Set JAVA_HOME"):
        kafka.find_java()


def test_java_home_goes_before_path(bin_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _java(bin_dir / "java", "11")
    _java(tmp_path / "jdk" / "bin" / "java", "21")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "jdk"))

    assert kafka.find_java().path == str(tmp_path / "jdk" / "bin" / "java")


def test_says_when_java_home_has_no_java(bin_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "nothing"))

    with pytest.raises(StackError, match=r"nothing/bin/java does not run: .*No such file"):
        kafka.find_java()


@pytest.mark.usefixtures("bin_dir")
def test_says_when_maven_is_needed_and_missing() -> None:
    with pytest.raises(StackError, match=r"fetched by Maven, and there is no mvn on PATH"):
        kafka.resolve_jars()


def test_repeats_what_maven_said(bin_dir: Path) -> None:
    _program(bin_dir / "mvn", "echo '[ERROR] Could not resolve dependencies'; exit 1")

    with pytest.raises(StackError, match=r"(?s)exit code 1.*Could not resolve dependencies"):
        kafka.resolve_jars()
    assert not list(cache_dir().rglob("*.jar"))


def test_fetches_jars_once(bin_dir: Path) -> None:
    for name in ("mkdir", "touch"):
        (bin_dir / name).symlink_to(f"/bin/{name}")
    _program(bin_dir / "mvn", 'for a; do :; done; d="${a#-DoutputDirectory=}"; mkdir -p "$d" && touch "$d/kafka.jar"')
    announced: list[str] = []

    jars = kafka.resolve_jars(announced.append)

    assert [jar.name for jar in jars.iterdir()] == ["kafka.jar"]
    assert kafka.resolve_jars(announced.append) == jars
    assert len(announced) == 1


def test_takes_the_redis_server_on_path_first(bin_dir: Path) -> None:
    brought = redis.find_redis_server()
    _program(bin_dir / "redis-server", "exit 0")

    assert brought != redis.find_redis_server() == str(bin_dir / "redis-server")


def test_a_free_port_is_free_and_a_taken_one_refused() -> None:
    port = choose_port("The test", 0)
    refusal = rf"^The test can't listen on 127\.0\.0\.1:{port}: Address already in use\."
    with socket.create_server(("127.0.0.1", port)), pytest.raises(StackError, match=refusal):
        choose_port("The test", port)
    assert choose_port("The test", port) == port


def test_shows_the_end_of_a_log(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    assert log_tail(log) == f"{log} is empty."
    log.write_bytes(b"".join(b"line %d \xff\n" % n for n in range(1_000)))

    assert (
        log_tail(log, 2)
        == f"Last lines of {log}:\nline 998 \N{REPLACEMENT CHARACTER}\nline 999 \N{REPLACEMENT CHARACTER}"
    )


def test_refuses_a_directory_in_which_another_stack_runs(tmp_path: Path) -> None:
    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)

        with pytest.raises(StackError, match=rf"{tmp_path} is in use: end what runs there, or name another directory"):
            Stack(tmp_path).start()

    assert [entry.name for entry in tmp_path.iterdir()] == ["lock"]


def test_says_which_directory_can_not_be_used(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()

    with pytest.raises(StackError, match=rf"^the data directory {file} can't be used: File exists$"):
        Stack(file).start()


def test_a_rest_port_that_is_taken_is_refused_before_anything_starts(tmp_path: Path) -> None:
    steps: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as taken:
        stack = Stack(tmp_path, rest_port=taken.getsockname()[1], announce=steps.append)

        with pytest.raises(StackError, match=r"^The REST API can't listen on .*--rest-port"):
            stack.start()

    assert steps == []


def test_a_kafka_port_that_is_taken_is_refused_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOORAGE_CACHE_DIR", str(tmp_path / "cache"))
    steps: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            StackError, match=rf"^Kafka can't listen on .*:{port}: .* port with --kafka-port; 0 takes any"
        ):
            Stack(tmp_path, kafka_port=port, announce=steps.append).start()
        with pytest.raises(StackError, match=r"^The metrics of cleaner can't listen on .* with --metrics-port"):
            Stack(tmp_path, metrics_port=port - 1, announce=steps.append).start()
    assert steps == []


def test_of_two_stacks_that_start_at_the_same_time_one_gets_the_port(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing listens there yet when the second one looks."""
    monkeypatch.setenv("MOORAGE_CACHE_DIR", str(tmp_path / "cache"))
    port = choose_port("The test", 0)
    (tmp_path / "cache" / "ports").mkdir(parents=True)
    with (tmp_path / "cache" / "ports" / f"{port}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(StackError, match=rf":{port}: another `moorage dev` has it\. .* --kafka-port"):
            Stack(tmp_path / "data", kafka_port=port).start()


def test_commands_find_the_servers_of_a_stack(tmp_path: Path) -> None:
    stack = Stack(tmp_path, kafka="localhost:9092", redis="redis://localhost")
    with pytest.raises(StackError, match=f"there is no `moorage dev` in {tmp_path}: .*servers.json"):
        servers_of(tmp_path)
    stack.write_servers()
    assert servers_of(tmp_path) == {
        "MOORAGE_KAFKA_BOOTSTRAP_SERVERS": "localhost:9092",
        "MOORAGE_REDIS_URL": "redis://localhost",
        "MOORAGE_CHECKPOINT_DIR": str(tmp_path / "checkpoints"),
    }
