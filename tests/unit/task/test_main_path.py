"""The orders pipeline on two workers, step by step."""

from __future__ import annotations

from tests.unit.task.harness import Harness, orders_pipeline

ORDERS = [(f"user-{i % 7}", float(i)) for i in range(200)]


def expected(orders: list[tuple[str, float]]) -> dict[str, list[int]]:
    counts: dict[str, list[int]] = {}
    for user, _ in orders:
        counts.setdefault(user, []).append(len(counts.get(user, [])) + 1)
    return counts


def test_nothing_is_visible_before_a_checkpoint_and_everything_after_it() -> None:
    harness = Harness(orders_pipeline())
    harness.started()
    harness.produce(ORDERS)
    harness.run(50)
    assert harness.output() == []
    checkpoint = harness.trigger()
    harness.run(20)
    harness.finalize(checkpoint)
    harness.run(20)
    assert harness.counts() == expected(ORDERS)
    assert harness.committed() == {1}


def test_an_aborted_checkpoint_leaves_its_output_to_the_next() -> None:
    harness = Harness(orders_pipeline())
    harness.started()
    harness.produce(ORDERS[:100])
    aborted = harness.trigger()
    harness.run(20)
    harness.abort(aborted)
    harness.produce(ORDERS[100:])
    harness.run(20)
    assert harness.output() == []
    second = harness.trigger()
    harness.run(20)
    harness.finalize(second)
    harness.run(20)
    assert harness.counts() == expected(ORDERS)


def test_a_lost_worker_loses_and_doubles_nothing() -> None:
    harness = Harness(orders_pipeline())
    harness.started()
    harness.produce(ORDERS[:100])
    harness.run(20)
    checkpoint = harness.trigger()
    harness.run(20)
    harness.finalize(checkpoint)
    harness.run(20)
    harness.produce(ORDERS[100:150])
    harness.run(20)
    harness.kill(1, keep_in_flight=True)
    harness.deploy(slots=[0, 0])
    harness.run(30)
    harness.produce(ORDERS[150:])
    harness.run(30)
    checkpoint = harness.trigger()
    harness.run(20)
    harness.finalize(checkpoint)
    harness.run(20)
    assert harness.counts() == expected(ORDERS)


def test_a_transaction_lost_after_its_checkpoint_completed_is_replayed() -> None:
    harness = Harness(orders_pipeline())
    harness.started()
    harness.produce(ORDERS[:100])
    harness.run(30)
    checkpoint = harness.trigger()
    harness.run(20)
    harness.finalize(checkpoint, notify=False)
    harness.kill(1)
    harness.kill(0)
    harness.cluster.expire_transactions()
    assert harness.output() == []
    harness.add_worker()
    harness.deploy(slots=[2, 2])
    harness.run(30)
    assert harness.counts() == expected(ORDERS[:100])
    harness.produce(ORDERS[100:])
    harness.run(30)
    checkpoint = harness.trigger()
    harness.run(20)
    harness.finalize(checkpoint)
    harness.run(20)
    assert harness.counts() == expected(ORDERS)


def test_a_sink_whose_transaction_expires_begins_it_anew() -> None:
    harness = Harness(orders_pipeline())
    harness.started()
    harness.produce(ORDERS)
    harness.run(30)
    harness.cluster.expire_transactions()
    checkpoint = harness.trigger()
    harness.run(60)
    harness.finalize(checkpoint)
    harness.run(100)
    if harness.failures():  # the broker fences an expired transaction's producer: the attempt ends, and the next heals
        harness.deploy()
        harness.run(60)
    assert harness.counts() == expected(ORDERS)
