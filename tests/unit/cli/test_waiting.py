"""`submit --wait`, on a coordinator that answers as it is told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.unit.cli.test_app import run

from moorage.cluster.protocol import RestoreFrom
from moorage_cli.client import CoordinatorClient, RestError
from moorage_cli.jobs import with_hint
from moorage_cli.waiting import JobEndedError, wait_for_job


def job(state: str, running: int = 0, **more: Any) -> dict[str, Any]:
    return {
        "jid": "orders",
        "name": "orders",
        "state": state,
        "start-time": 1,
        "end-time": -1,
        "duration": 1,
        "tasks": {"running": running, "total": 6},
        **more,
    }


def waited(
    *states: dict[str, Any] | None, until_end: bool = False, timeout_s: float | None = None
) -> tuple[str, list[str]]:
    """What it came to and what was told; None: the coordinator does not answer, {}: it does not lead. The last state
    lasts."""
    left: Iterator[dict[str, Any] | None] = iter(states)
    last = states[-1]

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path != "/jobs/overview":
            return httpx.Response(404)
        state = next(left, last)
        if state is None:
            raise httpx.ConnectError("refused")
        if not state:
            return httpx.Response(503, json={"errors": ["no leader is known"]})
        return httpx.Response(200, content=json.dumps({"jobs": [state] if state["jid"] else []}))

    told: list[str] = []
    with CoordinatorClient("http://coordinator:8081", transport=httpx.MockTransport(answer)) as client:
        state = wait_for_job(
            client,
            "orders",
            until_end=until_end,
            timeout_s=timeout_s,
            tell=lambda line: None if told[-1:] == [line] else told.append(line),
            tell_failure=lambda failure: told.append(f"failed: {failure}"),
            sleep=lambda _: None,
        )
    return state, told


SLOTS = {"waiting-for": "slots: it needs 4, 2 are free"}


def test_waits_until_every_task_runs() -> None:
    without_leader = None, {}
    state, told = waited(
        job("CREATED", **SLOTS), job("CREATED", **SLOTS), *without_leader, job("RUNNING", 2), job("RUNNING", 6)
    )
    assert state == "RUNNING"
    assert told == [
        "orders is CREATED and waits for slots: it needs 4, 2 are free",
        "no coordinator answers at http://coordinator:8081: refused",
        "no leader is known",
        "orders is RUNNING with 2 of 6 tasks",
    ]


def test_waits_until_the_end() -> None:
    failures = [job("RESTARTING", failure=f"boom at offset {offset} on w1/{offset:x}f") for offset in (8, 9)]
    state, told = waited(job("RUNNING", 6), *failures, job("FINISHED"), until_end=True)
    assert state == "FINISHED"
    assert told == [
        "orders is RUNNING with 6 of 6 tasks",
        "failed: boom at offset 8 on w1/8f",
        "orders is RESTARTING",
    ], "each cause once"


def test_a_short_job_may_have_finished_already() -> None:
    assert waited(job("FINISHED")) == ("FINISHED", [])


@pytest.mark.parametrize("until_end", [False, True])
@pytest.mark.parametrize("state", ["FAILED", "CANCELED", "SUSPENDED"])
def test_any_other_end_is_an_error_with_its_cause(state: str, until_end: bool) -> None:
    with pytest.raises(JobEndedError, match=f"^orders is {state}: boom"):
        waited(job("RUNNING", 1), job(state, failure="boom"), until_end=until_end)


def test_a_job_that_is_purged_meanwhile_is_gone() -> None:
    with pytest.raises(JobEndedError, match="orders is gone"):
        waited(job("CREATED"), job("CREATED") | {"jid": ""})


def test_time_may_be_out() -> None:
    with pytest.raises(
        RestError, match=r"^no more waiting after 0.01 s: orders is CREATED and waits for slots: .*; it goes on$"
    ):
        waited(job("CREATED", **SLOTS), timeout_s=0.01)


PIPELINE = """\
import moorage as mo
pipeline = mo.Pipeline('orders')
pipeline.source('in', mo.KafkaSource('in')).sink('out', mo.KafkaSink('out', key=None))
"""


def test_as_a_command(coordinator_url: str, tmp_path: Path) -> None:
    (tmp_path / "fine.py").write_text(PIPELINE)
    submit = ("submit", "fine:pipeline", "--rest", coordinator_url)
    at_once = run(*submit, cwd=tmp_path)
    assert (at_once.returncode, at_once.stdout) == (0, "submitted orders\n")
    waited_for = run(*submit, "--wait", "--json", cwd=tmp_path)
    assert json.loads(waited_for.stdout) == {"jobid": "orders", "state": "RUNNING"}
    too_long = run(*submit, "--wait-end", "--timeout", "0.1", cwd=tmp_path)
    assert (too_long.returncode, too_long.stdout) == (1, "")
    assert "no more waiting after 0.1 s: orders is RUNNING with 4 of 4 tasks; it goes on" in too_long.stderr
    assert run(*submit, "--timeout", "1", cwd=tmp_path).returncode == 2


def test_a_path_that_is_meant_from_here_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "savepoint-1").mkdir()
    error = RestError("job orders was not submitted: savepoint-1/_metadata does not exist", 400)
    hint = with_hint(error, RestoreFrom(path="savepoint-1"))
    assert hint.status == 400
    assert str(hint).endswith(
        f"A relative path is one in the checkpoint storage; the one here is {tmp_path}/savepoint-1"
    )
    for path in ("savepoint-2", str(tmp_path / "savepoint-1"), "s3://bucket/savepoint-1"):
        assert with_hint(error, RestoreFrom(path=path)) is error
    assert with_hint(error, None) is error
