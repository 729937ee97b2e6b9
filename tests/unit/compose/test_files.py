"""What is true of every container, whatever the engine says of the files."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml
from tests.unit.monitoring.queries import ROOT

import moorage

FILES = ("servers", "services", "monitoring")
SERVICES: dict[str, Any] = {
    name: service
    for file in FILES
    for name, service in yaml.safe_load((ROOT / "compose" / f"{file}.yaml").read_text("utf-8"))["services"].items()
}
LONG_RUNNING = {name: service for name, service in SERVICES.items() if name not in ("topics", "load")}
WRITABLE_ROOT = {"kafka"}


@pytest.fixture(params=SERVICES, ids=str)
def service(request: pytest.FixtureRequest) -> Any:
    return {"name": request.param, **SERVICES[request.param]}


def test_all_files_are_included() -> None:
    included = yaml.safe_load((ROOT / "compose.yaml").read_text("utf-8"))["include"]
    assert included == [f"compose/{file}.yaml" for file in FILES]


def test_ports_are_bound_to_this_machine(service: Any) -> None:
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))


def test_images_are_pinned(service: Any) -> None:
    image = re.sub(r"\$\{\w+:-(.*)\}", r"\1", service["image"])
    tag = image.rpartition(":")[2]
    assert re.search(r"\d", tag), image
    assert tag != "latest"


def test_nobody_has_more_rights_than_needed(service: Any) -> None:
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service.get("read_only", False) == (service["name"] not in WRITABLE_ROOT)
    assert "privileged" not in service


def test_who_stays_is_watched_and_comes_back() -> None:
    for name, service in LONG_RUNNING.items():
        assert service["restart"] == "unless-stopped", name
        assert service["healthcheck"]["test"][0] == "CMD", name


def test_who_starts_first_is_ready_first(service: Any) -> None:
    conditions = [needed["condition"] for needed in service.get("depends_on", {}).values()]
    assert set(conditions) <= {"service_healthy", "service_completed_successfully"}


def test_the_image_is_named_after_the_version() -> None:
    assert SERVICES["worker"]["image"] == f"${{IMAGE:-moorage:{moorage.__version__}}}"


def test_redis_confirms_only_what_is_on_the_disk() -> None:
    command = SERVICES["redis"]["command"]
    options = dict(zip(command[1::2], command[2::2], strict=True))
    assert options["--appendonly"] == "yes"
    assert options["--appendfsync"] == "always"
    assert options["--maxmemory-policy"] == "noeviction"
