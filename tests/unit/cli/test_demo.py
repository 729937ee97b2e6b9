"""The demo's parts that need no stack."""

from __future__ import annotations

import msgspec

from moorage.testing.oracle import Oracle
from moorage_cli.demo import DemoReport, Kill, OrderStream, Output, pipeline_file, report_table


class Totals:
    """What the pipeline ``orders`` does, without failures."""

    def __init__(self) -> None:
        self._rows: dict[str, Output] = {}

    def process(self, order: bytes) -> Output:
        fields = msgspec.json.decode(order)
        row = self._rows.get(fields["user"], Output(fields["user"], 0, 0.0))
        row = self._rows[row.user] = Output(row.user, row.count + 1, row.total + fields["amount"])
        return row


def test_orders_of_a_faultless_run_are_exactly_once() -> None:
    oracle, totals = Oracle(), Totals()
    stream = OrderStream(oracle, users=7)

    for _ in range(500):
        key, order = stream.next()
        output = totals.process(order)
        assert output.user.encode() == key
        oracle.observe(output.user, output.count, output.total)

    assert oracle.report().inputs == oracle.report().outputs == 500
    assert oracle.report().exactly_once


def test_an_order_counted_twice_is_noticed_in_every_later_total_of_its_user() -> None:
    oracle, totals = Oracle(), Totals()
    stream = OrderStream(oracle, users=1)
    orders = [stream.next()[1] for _ in range(4)]

    for order in (orders[0], orders[1], orders[1], orders[2], orders[3]):
        output = totals.process(order)
        oracle.observe(output.user, output.count, output.total)

    assert oracle.report().corrupt == 3


def test_the_same_seed_gives_the_same_orders() -> None:
    first, second, other = (OrderStream(Oracle(), seed=seed) for seed in (1, 1, 2))

    orders = [[stream.next() for _ in range(20)] for stream in (first, second, other)]

    assert orders[0] == orders[1] != orders[2]


def test_a_process_is_made_up_for_by_the_first_result_of_an_order_sent_after_its_end() -> None:
    kill = Kill("worker-0", at_s=10.0, newest={"ada": 3})

    assert not kill.saw(Output("ada", 3, 1.0), now_s=10.1), "it may have been committed before"
    assert kill.saw(Output("ada", 4, 1.0), now_s=12.5)
    assert not kill.saw(Output("bob", 1, 1.0), now_s=13.0), "only the first one counts"
    assert kill.recovered_s == 2.5


def test_finds_its_pipeline() -> None:
    assert pipeline_file().name == "orders.py"
    assert "RunningTotal" in pipeline_file().read_text()


def test_the_report_names_what_was_killed() -> None:
    report = DemoReport(
        records_in=2_000,
        records_out=2_000,
        lost=0,
        duplicated=0,
        out_of_order=0,
        corrupt=0,
        checkpoints_completed=3,
        checkpoints_failed=1,
        recovery_seconds={"worker-0": 2.25, "coordinator": None},
        seconds=9.0,
        exactly_once=True,
    )

    labels, values = (list(column.cells) for column in report_table(report).columns)

    assert dict(zip(labels, values, strict=True)) == {
        "records in": "2,000",
        "records out": "2,000",
        "lost": "0",
        "duplicated": "0",
        "out of order": "0",
        "corrupt": "0",
        "checkpoints completed": "3",
        "checkpoints failed": "1",
        "recovery from kill -9 of worker-0": "2.2 s",
        "recovery from kill -9 of coordinator": "never",
    }
