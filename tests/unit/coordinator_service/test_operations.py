"""Operations by their ids: how many are remembered, and which are forgotten first."""

from __future__ import annotations

import asyncio

import pytest

from moorage.checkpoint.notices import CheckpointDone
from moorage.cluster.protocol import CheckpointRequested
from moorage.ids import CheckpointId, JobId
from moorage_coordinator.desk import RequestDesk
from moorage_coordinator.rest import operations
from moorage_coordinator.rest.operations import Operations
from moorage_coordinator.rest.questions import Questions

OF = "/jobs/orders/checkpoints"


@pytest.fixture
def desk() -> RequestDesk:
    return RequestDesk()


@pytest.fixture
def started(desk: RequestDesk) -> Operations:
    return Operations(Questions(desk, "file:///checkpoints"))


def start(started: Operations, trigger_id: str | None = None) -> str:
    return started.start(OF, trigger_id, lambda number: CheckpointRequested(number, JobId("orders")))


def is_done(started: Operations, trigger_id: str) -> bool:
    return asyncio.run(started.result(OF, trigger_id, lambda result: result)).operation is not None


def test_decided_ones_are_forgotten_first(
    started: Operations, desk: RequestDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operations, "OPERATIONS_KEPT", 3)
    first, second, third = (start(started) for _ in range(3))
    requests = list(desk.take())
    desk.answer(requests[1].request, CheckpointDone(CheckpointId(1), "orders/chk-1/_metadata"))
    assert [is_done(started, trigger) for trigger in (first, second, third)] == [False, True, False]
    fourth = start(started)
    assert [started.is_known(OF, trigger) for trigger in (first, second, third, fourth)] == [True, False, True, True]
    fifth = start(started)
    assert not started.is_known(OF, first)
    assert not any(is_done(started, trigger) for trigger in (third, fourth, fifth))


def test_an_operation_with_an_id_of_its_own_is_asked_for_once(started: Operations, desk: RequestDesk) -> None:
    assert start(started, "mine") == start(started, "mine") == "mine"
    assert len(list(desk.take())) == 1


def test_an_id_belongs_to_one_resource(started: Operations) -> None:
    start(started, "mine")
    assert started.is_known(OF, "mine")
    assert not started.is_known("/jobs/other/checkpoints", "mine")
