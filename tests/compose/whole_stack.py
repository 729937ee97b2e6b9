"""`docker compose up`, as a user has it: records from the host, dashboards, alerts, crashes, a pipeline of one's own.

Not collected with the other tests; `make test-compose` runs it. The tests are the chapters of one story on one project
and run in their order, while orders are sent all the time.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from confluent_kafka import Producer
from tests.compose.project import IMAGE, ROOT, Project, eventually, fetch
from tests.compose.traffic import Traffic, read_results

from moorage_cli.metrics_page import METRICS

pytestmark = pytest.mark.timeout(600)

RATE = 300
MOORAGE = ("coordinator", "standby", "worker", "cleaner")
DASHBOARDS = ("moorage-checkpoints", "moorage-pipeline", "moorage-services")
BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
NOT_HERE = re.compile(r"moorage_rocksdb_|_last_failed_|_savepoints_left_|_checkpoint_hooks_")
"""Metrics without samples as long as no checkpoint fails, no job keeps its state in RocksDB, and there are no hooks."""
SCREENSHOTS = ROOT / "build" / "screenshots"


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder of pipelines; at first it holds the example."""
    folder = tmp_path_factory.mktemp("pipelines")
    shutil.copy(ROOT / "examples" / "orders.py", folder)
    for path in (folder.parent, folder):
        path.chmod(0o755)
    return folder


@pytest.fixture(scope="module")
def project(pipelines: Path, request: pytest.FixtureRequest) -> Iterator[Project]:
    project = Project(f"moorage-test-{os.getpid()}", PIPELINES_DIR=str(pipelines))
    project.compose("build", "--quiet", "worker")
    try:
        report(f"up --wait: {project.up():.1f} s")
        yield project
    finally:
        if request.session.testsfailed:
            print(project.compose("logs", "--tail", "60", *MOORAGE))
        project.compose("down", "--volumes", "--timeout", "10")


@pytest.fixture(scope="module")
def traffic(project: Project) -> Iterator[Traffic]:
    eventually("the pipeline runs", lambda: project.is_running("orders"))
    with Traffic(project.bootstrap_servers, RATE) as traffic:
        yield traffic


def report(line: str) -> None:
    """Facts that people want to know, whatever the outcome."""
    print(f"\n    {line}", flush=True)


# --- all is well -----------------------------------------------------------------------------------------------------


def test_results_of_records_from_the_host_appear(traffic: Traffic) -> None:
    eventually("the first result", lambda: traffic.results > 0)


def test_nobody_runs_as_root_or_can_write_where_nobody_should(project: Project) -> None:
    for service in (*MOORAGE, "kafka", "redis", "prometheus", "grafana"):
        for container in project.containers(service):
            inspected = project.inspect(container)
            assert inspected["Config"]["User"] not in ("", "0", "root"), service
            assert inspected["HostConfig"]["ReadonlyRootfs"] == (service != "kafka"), service
            bindings = inspected["HostConfig"]["PortBindings"] or {}
            assert {b["HostIp"] for bound in bindings.values() for b in bound} <= {"127.0.0.1"}, service


def test_the_command_line_of_the_image_finds_the_job(project: Project, traffic: Traffic) -> None:
    for service in ("coordinator", "standby"):
        listed = json.loads(project.compose("exec", "--no-TTY", service, "moorage", "jobs", "--json"))
        assert [(job["jid"], job["state"]) for job in listed] == [("orders", "RUNNING")]


def test_prometheus_has_every_metric(project: Project, traffic: Traffic) -> None:
    def missing() -> set[str]:
        known = {name.removesuffix("_total") for name in project.get("PROMETHEUS_PORT", "/api/v1/metadata")["data"]}
        return {entry.name for entries in METRICS.values() for entry in entries if entry.plain_name not in known}

    eventually("every metric was scraped", lambda: not missing())

    def up() -> list[str]:
        found = project.query('up{job=~"coordinator|worker|cleaner"} == 1')
        return sorted(series["metric"]["job"] for series in found)

    everybody = ["cleaner", *["coordinator"] * 2, *["worker"] * 2]
    eventually("everybody is scraped", lambda: up() == everybody)


def test_every_query_of_every_dashboard_returns_data(project: Project, traffic: Traffic) -> None:
    found = {entry["uid"] for entry in project.get("GRAFANA_PORT", "/api/search?type=dash-db")}
    assert found == set(DASHBOARDS)
    project.compose("exec", "--no-TTY", "coordinator", "moorage", "savepoint", "orders")

    def without_data() -> list[str]:
        return [name for uid in DASHBOARDS for name in _panels_without_data(project, uid)]

    eventually("every panel has data", lambda: not without_data(), timeout_s=90, interval_s=5)
    assert without_data() == []


def _panels_without_data(project: Project, uid: str) -> Iterator[str]:
    dashboard = project.get("GRAFANA_PORT", f"/api/dashboards/uid/{uid}")["dashboard"]
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            expr = target["expr"]
            for variable, value in {"$__rate_interval": "20s", "$__range": "5m", "$job": ".*"}.items():
                expr = expr.replace(variable, value)
            query = {
                **target,
                "expr": expr,
                "datasource": panel["datasource"],
                "maxDataPoints": 100,
                "intervalMs": 5000,
            }
            answer = json.loads(
                fetch(
                    f"{project.url('GRAFANA_PORT')}/api/ds/query",
                    {"queries": [query], "from": "now-5m", "to": "now"},
                )
            )
            result = answer["results"][target["refId"]]
            is_empty = not any(_values(frame) for frame in result.get("frames", ()))
            if "error" in result or (is_empty and NOT_HERE.search(expr) is None):
                yield f"{uid}: {panel['title']}: {result.get('error', 'no data')}"


def _values(frame: Any) -> bool:
    return bool(frame["data"]["values"]) and bool(frame["data"]["values"][0])


def test_dashboards_are_open_to_everybody_here_and_can_be_looked_at(project: Project, traffic: Traffic) -> None:
    browser = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    assert browser is not None, f"a headless Chromium is needed on PATH, one of {', '.join(BROWSERS)}"
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    for uid in DASHBOARDS:
        picture = SCREENSHOTS / f"{uid}.png"
        picture.unlink(missing_ok=True)
        url = f"{project.url('GRAFANA_PORT')}/d/{uid}?from=now-5m&to=now&kiosk"
        options = ("--no-sandbox", "--hide-scrollbars", "--window-size=1330,4600", "--virtual-time-budget=10000")
        subprocess.run(
            [browser, "--headless", "--disable-gpu", *options, f"--screenshot={picture}", url],
            capture_output=True,
            timeout=120,
            check=True,
        )
        assert picture.stat().st_size > 50_000, "an empty page"
    report(f"screenshots: {SCREENSHOTS}")


def test_no_alert_fires_while_all_is_well(project: Project, traffic: Traffic) -> None:
    # Long enough for every rule that was true from the start on.
    eventually("it has run for a while", lambda: (project.value("time() - min(process_start_time_seconds)") or 0) > 75)
    assert project.firing() == set()
    assert project.value('sum(moorage_checkpoints_total{outcome="completed"})')


def test_alert_rules_do_what_they_say() -> None:
    rules = ROOT / "compose" / "prometheus"
    image = yaml.safe_load((ROOT / "compose" / "monitoring.yaml").read_text())["services"]["prometheus"]["image"]
    contained = ["docker", "run", "--rm", "-v", f"{rules}:{rules}:ro", "--entrypoint", "promtool", image]
    promtool = [found] if (found := shutil.which("promtool")) else contained
    result = subprocess.run(
        [*promtool, "test", "rules", str(rules / "alerts_test.yaml")], capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stdout + result.stderr


# --- crashes ---------------------------------------------------------------------------------------------------------


def _kill(project: Project, traffic: Traffic, container: str, name: str) -> None:
    """Kill a container's process; its restart policy and Moorage do the rest."""
    restarts = project.inspect(container)["RestartCount"]
    project.kill(container)
    sent = traffic.sent_by_now()
    started_s = time.monotonic()
    eventually("results flow again", lambda: traffic.has_result_after(sent), timeout_s=120, interval_s=0.1)
    report(f"kill -9 of {name}: the first result of a later order after {time.monotonic() - started_s:.1f} s")
    eventually(f"{name} is back", lambda: project.restarted(container, restarts + 1), timeout_s=120)


def test_a_worker_may_be_killed(project: Project, traffic: Traffic) -> None:
    busy = next(w["id"] for w in project.rest("/taskmanagers")["taskmanagers"] if w["freeSlots"] < w["slotsNumber"])
    container = next(c for c in project.containers("worker") if c.startswith(busy.partition("/")[0]))
    _kill(project, traffic, container, "a worker")
    assert project.rest("/jobs/orders")["attempt"] > 1
    assert project.rest("/jobs/orders/checkpoints")["counts"]["restored"] >= 1


def test_the_leading_coordinator_may_be_killed_and_nothing_is_deployed_anew(project: Project, traffic: Traffic) -> None:
    attempt = project.rest("/jobs/orders")["attempt"]
    _kill(project, traffic, project.leader(), "the leader")
    eventually("somebody leads", project.leader_port)
    assert project.rest("/jobs/orders")["attempt"] == attempt


def test_redis_may_be_killed(project: Project, traffic: Traffic) -> None:
    _kill(project, traffic, project.containers("redis")[0], "Redis")


def test_kafka_may_be_killed(project: Project, traffic: Traffic) -> None:
    _kill(project, traffic, project.containers("kafka")[0], "Kafka")


def test_an_alert_fires_when_a_worker_is_stopped_and_ends_when_it_is_back(project: Project, traffic: Traffic) -> None:
    eventually("both workers are there", lambda: project.value("max(moorage_coordinator_workers)") == 2)
    eventually("no alert is left", lambda: not project.firing(), timeout_s=180)
    container = project.containers("worker")[0]
    project.stop(container)
    assert project.inspect(container)["State"]["ExitCode"] == 0
    eventually("the alert", lambda: "MoorageWorkerMissing" in project.firing(), timeout_s=90)
    project.start(container)
    eventually("the alert is over", lambda: "MoorageWorkerMissing" not in project.firing(), timeout_s=90)


# --- changes ---------------------------------------------------------------------------------------------------------


def test_workers_can_be_added(project: Project, traffic: Traffic) -> None:
    project.up("--no-recreate", "--scale", "worker=4")
    eventually("four workers", lambda: project.value("max(moorage_coordinator_workers)") == 4)
    eventually("Prometheus found them", lambda: project.value('count(up{job="worker"} == 1)') == 4)


def test_a_pipeline_of_ones_own_runs_beside_the_other_which_goes_on(
    project: Project, traffic: Traffic, pipelines: Path
) -> None:
    """Everything of Moorage is recreated for it, as in an upgrade."""
    package = pipelines / "shop"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "prices.py").write_text("def gross(net):\n    return round(net * 1.25, 2)\n")
    (package / "sales.py").write_text(
        "import moorage as mo\n"
        "from shop.prices import gross\n\n"
        'sales = mo.Pipeline("sales")\n'
        'sales.source("in", mo.KafkaSource("sales")).map(gross).sink("out", mo.KafkaSink("gross", key=None))\n'
    )
    sent = traffic.sent_by_now()
    project.configure(MOORAGE_COORDINATOR_PIPELINE="shop.sales:sales")
    report(f"up --wait with another pipeline: {project.up('--scale', 'worker=2'):.1f} s")
    eventually("the new job runs", lambda: project.is_running("sales"))
    eventually("the old job goes on", lambda: traffic.has_result_after(sent))

    producer = Producer({"bootstrap.servers": project.bootstrap_servers})
    for net in (1, 2, 4):
        producer.produce("sales", str(net).encode())
    assert producer.flush(30) == 0
    results = eventually(
        "the new job's results",
        lambda: sorted(map(json.loads, values)) if len(values := _values_of(project, "gross")) >= 3 else None,
    )
    assert results == [1.25, 2.5, 5.0]


def _values_of(project: Project, topic: str) -> list[bytes]:
    return list(read_results(project.bootstrap_servers, topic))


# --- the end ---------------------------------------------------------------------------------------------------------


def test_every_order_has_its_result_exactly_once(project: Project, traffic: Traffic) -> None:
    traffic.stop_sending()
    eventually("every result", traffic.is_complete, timeout_s=120)
    verdict = traffic.verdict()
    report(f"{verdict}")
    assert verdict.exactly_once
    assert verdict.inputs > 5_000


def test_services_end_cleanly_within_their_grace(project: Project, traffic: Traffic) -> None:
    containers = [container for service in MOORAGE for container in project.containers(service)]
    started_s = time.monotonic()
    project.compose("stop", *MOORAGE)
    report(f"stop: {time.monotonic() - started_s:.1f} s")
    assert [project.inspect(container)["State"]["ExitCode"] for container in containers] == [0] * len(containers)


def test_down_leaves_nothing_behind(project: Project) -> None:
    project.compose("down", "--volumes")
    assert project.left() == []


def test_checkpoints_can_go_to_s3() -> None:
    """The profile s3, and the load generator of the profile demo beside it."""
    project = Project(f"moorage-test-s3-{os.getpid()}", env_file="compose/s3.env", COMPOSE_PROFILES="s3,demo")
    try:
        project.up("s3", "coordinator", "worker", "cleaner", "load")
        eventually("results", lambda: len(_values_of(project, "totals")) > 1_000)
        path = project.rest("/jobs/orders/checkpoints")["latest"]["completed"]["external_path"]
        assert path.startswith("s3://moorage/checkpoints/orders/chk-")
        assert project.inspect(project.containers("worker")[0])["Config"]["Image"] == IMAGE
    finally:
        project.compose("down", "--volumes", "--timeout", "10")
    assert project.left() == []
