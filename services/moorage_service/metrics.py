"""What a service says of a metric, and the HTTP endpoint of its metrics."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple

from prometheus_client import CollectorRegistry, disable_created_metrics, start_http_server
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from moorage.errors import SettingError


class Metric(NamedTuple):
    """An entry of a service's list of metrics, from which docs/metrics.md is made."""

    name: str
    """As Prometheus shows it."""
    kind: Literal["counter", "gauge", "histogram"]
    doc: str
    labels: tuple[str, ...] = ()


def serve_metrics(host: str, port: int, collectors: Iterable[Collector] = ()) -> tuple[int, CollectorRegistry]:
    """Serve the metrics; port 0 takes a free one. Returns the port, and the registry for more.

    SettingError when the port, which is ``MOORAGE_METRICS_PORT``, is in use.
    """
    disable_created_metrics()  # type: ignore[no-untyped-call]  # nobody asks for a second series beside each counter
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    for collector in collectors:
        registry.register(collector)
    try:
        server, _ = start_http_server(port, addr=host, registry=registry)
    except OSError as error:
        raise SettingError(
            f"MOORAGE_METRICS_PORT={port}: {host}:{port} can't be used ({error.strerror});"
            " choose another, or 0 for a free one"
        ) from error
    return int(server.server_port), registry
