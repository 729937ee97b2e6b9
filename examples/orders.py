"""Running totals per user: every order in, the user's new total out, exactly once.

Orders look like ``{"user": "ada", "amount": 12.5}``; further fields are ignored.
"""

from collections.abc import Iterator
from typing import Any

import msgspec

import moorage as mo


class Order(msgspec.Struct):
    user: str
    amount: float


class RunningTotal(mo.KeyedState):
    count: int = 0
    total: float = 0.0

    def process(self, order: Order, ctx: mo.KeyedContext) -> Iterator[dict[str, Any]]:
        self.count += 1
        self.total += order.amount
        yield {"user": ctx.key, "count": self.count, "total": self.total}


pipeline = mo.Pipeline("orders", parallelism=2)
(
    pipeline.source("orders", mo.KafkaSource("orders", value=mo.Json(Order)))
    .key_by("user")
    .process("totals", RunningTotal)
    .sink("results", mo.KafkaSink("totals", key="user", value=mo.Json()))
)
