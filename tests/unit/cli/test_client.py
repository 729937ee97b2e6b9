"""The REST client against a coordinator of canned answers in Flink's shapes."""

from __future__ import annotations

import json
from collections.abc import Callable

import httpx
import msgspec
import pytest
from tests.unit.cli.answers import ANSWERS

from moorage.graph.job_graph import CheckpointConfig, JobGraph, RestartConfig
from moorage.ids import JobId
from moorage_cli.client import (
    CheckpointCounts,
    CoordinatorClient,
    CoordinatorUnreachableError,
    Failure,
    JobOverview,
    NoLeaderError,
    Overview,
    RestError,
    TaskManager,
)

GRAPH = JobGraph(
    job=JobId("orders"),
    pipeline_ref="orders:pipeline",
    max_parallelism=32,
    vertices=(),
    exchanges=(),
    checkpoint=CheckpointConfig(),
    restart=RestartConfig(),
    fingerprint="f",
)


def _client(handler: Callable[[httpx.Request], httpx.Response], token: str | None = None) -> CoordinatorClient:
    return CoordinatorClient("http://coordinator:8081", token, transport=httpx.MockTransport(handler))


def _canned(request: httpx.Request) -> httpx.Response:
    return httpx.Response(200, json=ANSWERS[request.url.path])


def test_reads_the_overviews() -> None:
    with _client(_canned) as client:
        assert client.overview() == Overview(taskmanagers=2, slots_total=4, slots_available=2)
        assert client.task_managers() == (TaskManager(id="worker-0/ab", slots_number=2, free_slots=1),)
        assert client.jobs() == (
            JobOverview(
                jid="orders",
                name="orders",
                state="RUNNING",
                start_time=1_000,
                end_time=-1,
                duration=5_000,
                tasks={"running": 4, "total": 4},
            ),
        )
        assert client.job("orders")["state"] == "RUNNING"


def test_reads_checkpoints() -> None:
    with _client(_canned) as client:
        statistics = client.checkpoints("orders")

    assert statistics.counts == CheckpointCounts(restored=0, total=2, in_progress=0, completed=1, failed=1)
    assert [(c.id, c.status, c.failure_message) for c in statistics.history] == [
        (7, "COMPLETED", None),
        (6, "FAILED", "storage"),
    ]


def test_reads_failures() -> None:
    with _client(_canned) as client:
        newest, *_ = client.failures("orders")

    assert newest == Failure(
        cause="totals/0 failed: KeyError: 'amount'",
        trace="Traceback (most recent call last):\nKeyError: 'amount'\n",
        timestamp=3_000,
        task="totals/0",
        worker="worker-0/ab",
        attempt=4,
    )


def test_submits_the_graph_as_json_with_the_token() -> None:
    def accept(request: httpx.Request) -> httpx.Response:
        assert (request.method, request.url.path) == ("POST", "/jobs")
        assert request.headers["authorization"] == "Bearer secret"
        assert request.headers["content-type"] == "application/json"
        body = json.loads(request.content)
        assert body["restore"] is None
        assert msgspec.convert(body["graph"], JobGraph) == GRAPH
        return httpx.Response(201, json={"jobid": "orders"})

    with _client(accept, "secret") as client:
        assert client.submit(GRAPH) == "orders"


def test_cancels_by_flinks_patch_and_keeps_names_in_their_place() -> None:
    asked = []

    def accept(request: httpx.Request) -> httpx.Response:
        asked.append((request.method, request.url.raw_path))
        return httpx.Response(202, json={})

    with _client(accept) as client:
        client.cancel("orders")
        client.cancel("../overview")

    assert asked == [("PATCH", b"/jobs/orders?mode=cancel"), ("PATCH", b"/jobs/..%2Foverview?mode=cancel")]


def test_repeats_the_coordinators_own_words() -> None:
    def refuse(_request: httpx.Request) -> httpx.Response:
        return httpx.Response(404, json={"errors": ["job 'orders' does not exist", "a stack trace"]})

    with _client(refuse) as client, pytest.raises(RestError, match=r"^job 'orders' does not exist$") as caught:
        client.checkpoints("orders")
    assert caught.value.status == 404


@pytest.mark.parametrize("content", [b"<html>", b"[]", b'{"errors": []}', b'{"detail": "no"}'])
def test_says_what_was_asked_when_an_error_has_no_words(content: bytes) -> None:
    with (
        _client(lambda _: httpx.Response(502, content=content)) as client,
        pytest.raises(RestError, match=r"^http://coordinator:8081/overview answered 502 Bad Gateway$"),
    ):
        client.overview()


def test_says_who_does_not_answer() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("Connection refused", request=request)

    with (
        _client(refuse) as client,
        pytest.raises(
            CoordinatorUnreachableError,
            match=r"^no coordinator answers at http://coordinator:8081: Connection refused$",
        ),
    ):
        client.overview()


def test_says_when_something_else_answers() -> None:
    with (
        _client(lambda _: httpx.Response(200, content=b"<html>")) as client,
        pytest.raises(CoordinatorUnreachableError, match=r"/overview answers, but not as a coordinator"),
    ):
        client.overview()


@pytest.mark.parametrize("url", ["ftp://x", "nowhere", "http://[", "http://x:port"])
def test_refuses_an_address_that_is_none(url: str) -> None:
    with pytest.raises(CoordinatorUnreachableError, match=r"."), CoordinatorClient(url) as client:
        client.overview()


def _pair(handler: Callable[[httpx.Request], httpx.Response]) -> CoordinatorClient:
    return CoordinatorClient("http://first:8081,http://second:8081/", transport=httpx.MockTransport(handler))


def test_of_several_coordinators_the_one_that_leads_answers() -> None:
    def only_the_second_leads(request: httpx.Request) -> httpx.Response:
        if request.url.host == "first":
            return httpx.Response(503, json={"errors": ["this coordinator does not lead"]})
        return _canned(request)

    with _pair(only_the_second_leads) as client:
        assert client.overview().taskmanagers == 2


def test_that_nobody_leads_is_worth_asking_again() -> None:
    """Whoever goes on without an answer goes on then, too."""
    with (
        _pair(lambda _: httpx.Response(503, json={"errors": ["no leader is known"]})) as client,
        pytest.raises(NoLeaderError, match="no leader is known") as failed,
    ):
        client.overview()
    assert isinstance(failed.value, CoordinatorUnreachableError)
    assert failed.value.status == 503


def test_of_several_coordinators_one_may_be_down() -> None:
    def only_the_second_is_there(request: httpx.Request) -> httpx.Response:
        if request.url.host == "first":
            raise httpx.ConnectError("refused")
        return _canned(request)

    with _pair(only_the_second_is_there) as client:
        assert client.overview().taskmanagers == 2


def test_a_refusal_is_not_asked_again_elsewhere() -> None:
    asked = []

    def refuse(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.host)
        return httpx.Response(409, json={"errors": ["it runs already"]})

    with _pair(refuse) as client, pytest.raises(RestError, match="it runs already"):
        client.submit(GRAPH)
    assert asked == ["first"]


def test_what_may_have_been_heard_is_not_said_again_elsewhere() -> None:
    asked = []

    def silent(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.host)
        raise httpx.ReadTimeout("no answer")

    with _pair(silent) as client, pytest.raises(CoordinatorUnreachableError, match="no answer"):
        client.submit(GRAPH)
    assert asked == ["first"]


# --- operations that go on after the answer --------------------------------------------------------------------------


class _Operations:
    """Answers that it is in progress once, then with ``outcome``."""

    def __init__(self, outcome: dict[str, object]) -> None:
        self.asked: list[tuple[str, str, object]] = []
        self._outcome = outcome
        self._is_done = False

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append((request.method, request.url.path, json.loads(request.content) if request.content else None))
        if request.method == "POST":
            return httpx.Response(202, json={"request-id": "ab"})
        if not self._is_done:
            self._is_done = True
            return httpx.Response(200, json={"status": {"id": "IN_PROGRESS"}, "operation": None})
        return httpx.Response(200, json={"status": {"id": "COMPLETED"}, "operation": self._outcome})


def test_waits_for_a_savepoint() -> None:
    server = _Operations({"location": "s3://b/savepoint-1", "failure-cause": None})
    with _client(server) as client:
        assert client.savepoint("orders", "s3://b", native=True).wait().location == "s3://b/savepoint-1"
    assert server.asked[0] == (
        "POST",
        "/jobs/orders/savepoints",
        {"target-directory": "s3://b", "formatType": "NATIVE"},
    )
    assert server.asked[-1][:2] == ("GET", "/jobs/orders/savepoints/ab")


def test_stops_and_cancels_with_a_savepoint() -> None:
    server = _Operations({"location": "x", "failure-cause": None})
    with _client(server) as client:
        client.stop("orders", drain=True).wait()
        client.cancel_with_savepoint("orders").wait()
    posts = [asked for asked in server.asked if asked[0] == "POST"]
    assert posts == [
        ("POST", "/jobs/orders/stop", {"targetDirectory": None, "formatType": "CANONICAL", "drain": True}),
        (
            "POST",
            "/jobs/orders/savepoints",
            {"target-directory": None, "formatType": "CANONICAL", "cancel-job": True},
        ),
    ]


def test_says_why_an_operation_failed() -> None:
    server = _Operations({"failure-cause": {"class": "x", "stack-trace": "the storage is full"}})
    with _client(server) as client, pytest.raises(RestError, match="the storage is full"):
        client.dispose("s3://b/savepoint-1").wait()
    assert server.asked[0][1:] == ("/savepoint-disposal", {"savepoint-path": "s3://b/savepoint-1"})


def test_stops_waiting_when_time_is_out() -> None:
    def never(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            return httpx.Response(202, json={"request-id": "ab"})
        return httpx.Response(200, json={"status": {"id": "IN_PROGRESS"}, "operation": None})

    with _client(never) as client, pytest.raises(RestError, match="it goes on"):
        client.savepoint("orders").wait(timeout_s=0.05)


def test_rescales_every_vertex_but_those_that_are_named() -> None:
    present = {name: {"parallelism": {"lowerBound": 1, "upperBound": 2}} for name in ("orders", "totals")}
    sent: list[tuple[str, object]] = []

    def serve(request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            return httpx.Response(200, json=present)
        sent.append((request.url.query.decode(), json.loads(request.content)))
        return httpx.Response(200, json={})

    with _client(serve) as client:
        client.rescale("orders", 4, {"totals": 3})
        client.rescale("orders", None, {}, automatic=True)
        with pytest.raises(RestError, match="no vertex 'nobody'; it has orders, totals"):
            client.rescale("orders", None, {"nobody": 1})
    assert sent == [
        (
            "",
            {
                "orders": {"parallelism": {"lowerBound": 1, "upperBound": 4}},
                "totals": {"parallelism": {"lowerBound": 1, "upperBound": 3}},
            },
        ),
        ("automatic=true", {}),
    ]
