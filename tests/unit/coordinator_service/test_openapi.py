"""The OpenAPI document is true: schemathesis asks the API with what the document allows and forbids, and checks that
every answer has a status, a type and a shape that the document names. The coordinator behind it is the real core on the
twins.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis import Case
from schemathesis.specs.openapi.checks import positive_data_acceptance
from tests.unit.cluster.graphs import JOB, TOTALS, orders_graph
from tests.unit.cluster.world import running_world
from tests.unit.coordinator_service.live import STORAGE_URL, Live

from moorage.graph.job_graph import CheckpointConfig
from moorage_coordinator.desk import RequestDesk
from moorage_coordinator.rest import create_app
from moorage_coordinator.rest.app import describe

DOCUMENT = describe(needs_token=False)
SCHEMA = schemathesis.openapi.from_dict(DOCUMENT)
EXISTING = {"job_id": JOB, "vertex_id": TOTALS, "worker_id": "w1/1", "checkpoint_id": 1}
CHECKED_BEYOND_THE_SCHEMA = ("POST /jobs", "PUT /jobs/{job_id}/resource-requirements")
"""A graph and a parallelism of the right shape may still make no sense: 400 then."""


@SCHEMA.hook
def map_path_parameters(_: object, path_parameters: dict[str, Any] | None) -> dict[str, Any] | None:
    """Every second request names what there is: by chance nobody would."""
    if path_parameters is None:
        return None
    even = len(repr(path_parameters)) % 2 == 0
    return {name: EXISTING.get(name, value) if even else value for name, value in path_parameters.items()}


@pytest.fixture
def live() -> Iterator[Live]:
    world = running_world(orders_graph(2, checkpoint=CheckpointConfig(interval_ms=100)))
    with Live(world, world.coordinators[0]) as running:
        running.until("/jobs/orders/checkpoints", lambda s: s["counts"]["completed"] >= 1)
        yield running


@SCHEMA.parametrize()
@settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=list(HealthCheck),
)
def test_every_answer_is_as_documented(case: Case, live: Live) -> None:
    excluded = [positive_data_acceptance] if case.operation.label in CHECKED_BEYOND_THE_SCHEMA else []
    case.call_and_validate(base_url=live.url, excluded_checks=excluded)
    assert live.is_alive, "the coordinator's loop died of it"


def test_the_document_is_served(live: Live) -> None:
    assert live.get("/openapi.json") == msgspec.json.decode(msgspec.json.encode(DOCUMENT))


def test_with_a_token_the_document_says_so() -> None:
    served = describe(needs_token=True)
    assert served["security"] == [{"token": []}]
    assert all("401" in operation["responses"] for path in served["paths"].values() for operation in path.values())


def test_every_route_is_documented() -> None:
    app = create_app(RequestDesk(), token=None, storage_url=STORAGE_URL)
    served = {
        (method.lower(), route.path.replace(":path", ""))  # type: ignore[attr-defined]
        for route in app.routes
        for method in route.methods - {"HEAD"}  # type: ignore[attr-defined]
    }
    documented = {(method, path) for path, operations in DOCUMENT["paths"].items() for method in operations}
    assert served - {("get", "/openapi.json")} == documented
