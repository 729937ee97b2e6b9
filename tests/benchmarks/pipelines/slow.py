"""Running totals that take their time: SLOW_US microseconds of CPU for each order."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import moorage as mo

_SLOW_NS = int(os.environ.get("SLOW_US", "0")) * 1_000


class Total(mo.KeyedState):
    count: int = 0
    total: float = 0.0

    def process(self, order: dict[str, Any], ctx: mo.KeyedContext) -> Iterator[dict[str, Any]]:
        end_ns = time.perf_counter_ns() + _SLOW_NS
        while time.perf_counter_ns() < end_ns:
            pass
        self.count += 1
        self.total += order["amount"]
        yield {"user": ctx.key, "count": self.count, "total": self.total}


pipeline = mo.Pipeline("slow", parallelism=2, checkpoint=mo.CheckpointConfig(interval_ms=2_000, timeout_ms=120_000))
(
    pipeline.source("orders", mo.KafkaSource("orders"))
    .key_by("user")
    .process("totals", Total)
    .sink("results", mo.KafkaSink("totals", key="user"))
)
