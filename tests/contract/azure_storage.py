"""What every ``ports.CheckpointStorage`` promises, on Azure; and what is said where it can't be used.

Not part of `make test`, for azurite is 190 MB that npm brings: `make test-clouds`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from tests.azure_server import AzureServer, running_azure_server
from tests.contract.test_storage_contract import *  # noqa: F403 - all of its tests
from tests.unit.worker_service.test_storage_at_start import start_with

from moorage.adapters.object_storage import StorageOptions, check_storage, open_storage
from moorage.errors import ObjectMissingError, StorageError
from moorage.ports import CheckpointStorage


@pytest.fixture(scope="session")
def azure() -> Iterator[AzureServer]:
    with running_azure_server() as server:
        yield server


@pytest.fixture
def storage(azure: AzureServer) -> CheckpointStorage:
    return open_storage(f"az://{azure.new_container()}/check/points", azure.options)


def refusal(url: str, options: StorageOptions) -> str:
    with pytest.raises(StorageError) as error:
        check_storage(open_storage(url, options), url)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_service_is_told_by_its_environment(azure: AzureServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AZURE_")]:
        monkeypatch.delenv(name)
    for name, value in azure.environment.items():
        monkeypatch.setenv(name, value)
    url = f"az://{azure.new_container()}/check/points"
    check_storage(open_storage(url), url)


def test_a_container_that_is_not_there_is_named(azure: AzureServer) -> None:
    assert refusal("az://no-such-container/a", azure.options) == (
        "checkpoint storage az://no-such-container/a can't be used: The specified container does not exist."
        " (ContainerNotFound)"
    )


def test_a_container_that_vanishes_does_not_pass_for_a_missing_object(azure: AzureServer) -> None:
    storage = open_storage("az://no-such-container/a", azure.options)
    for call in (
        lambda: storage.read("job/chk-1/_metadata"),
        lambda: storage.read_range("job/chk-1/_metadata", 0, 1),
        lambda: storage.delete(["job/chk-1/_metadata"]),
    ):
        with pytest.raises(StorageError, match="container does not exist") as error:
            call()
        assert not isinstance(error.value, ObjectMissingError)


def test_a_key_that_is_refused_is_told(azure: AzureServer) -> None:
    url = f"az://{azure.new_container()}/a"
    message = refusal(url, azure.options_of("d3Jvbmc="))
    assert message.startswith(f"checkpoint storage {url} can't be used: Server failed to authenticate the request.")
    assert "(AuthorizationFailure)" in message


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({}, "The specified container does not exist. (ContainerNotFound)"),
        ({"AZURE_STORAGE_ACCOUNT_KEY": "d3Jvbmc="}, "(AuthorizationFailure)"),
    ],
)
def test_a_worker_does_not_start(azure: AzureServer, changed: dict[str, str], reason: str) -> None:
    done = start_with("az://no-such-container/a", {**azure.environment, **changed})
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "checkpoint storage az://no-such-container/a can't be used: " in line
    assert line.endswith(reason)
