"""Two real coordinators, one of which leads; and a Redis that loses everything while the job runs."""

from __future__ import annotations

import signal
from contextlib import closing
from pathlib import Path

import pytest
import redis
from tests.chaos.battle import Battle

from moorage.adapters.redis_registry import RedisRegistry
from moorage_cli.embedded.stack import Stack

LEASE_MS = 3_000
SLACK_S = 2.0
"""The standby asks every third of the lease, and the machine may be busy."""


def _leader(registry: RedisRegistry) -> str:
    lease = registry.lease()
    return "" if lease is None else lease.holder


@pytest.mark.kafka
@pytest.mark.timeout(300)
def test_a_standby_takes_over_and_a_paused_leader_is_fenced(tmp_path: Path) -> None:
    with (
        Stack(tmp_path, workers=2, standby=True, env={"MOORAGE_COORDINATOR_LEASE_TTL_MS": str(LEASE_MS)}) as stack,
        closing(RedisRegistry(stack.redis_url)) as registry,
        Battle(stack) as battle,
    ):
        battle.run(3)
        attempt = battle.job().attempt
        former = _leader(registry)
        port = int(former.rpartition(":")[2])
        name = "coordinator" if port == int(stack.rest_url.rpartition(":")[2]) else "standby"

        paused = battle.kill(name, number=signal.SIGSTOP)
        took_s = battle.wait(lambda: _leader(registry) not in ("", former), "another leader")
        assert took_s < LEASE_MS / 1_000 + SLACK_S, "the standby takes over when the lease is over"
        battle.recovered(paused)
        epoch = registry.lease()
        newest = max(record.checkpoint for record in registry.checkpoints(battle.job().job))
        battle.wait(
            lambda: max(r.checkpoint for r in registry.checkpoints(battle.job().job)) > newest + 1,
            "checkpoints under the new leader",
        )
        stack.kill(name, signal.SIGCONT)
        battle.run(4)
        lease = registry.lease()
        assert lease is not None
        assert epoch is not None
        assert (lease.holder, lease.epoch) == (epoch.holder, epoch.epoch), "who was paused does not lead again"
        assert battle.job().attempt == attempt, "running subtasks were adopted"

        battle.recovered(battle.kill("coordinator", "standby"))
        assert battle.job().attempt == attempt
        report = battle.finish()
    assert report.exactly_once, report
    assert report.inputs == report.outputs > 0


@pytest.mark.kafka
@pytest.mark.timeout(300)
def test_a_registry_that_lost_its_data_is_rebuilt_while_the_job_runs(tmp_path: Path) -> None:
    with Stack(tmp_path, workers=2) as stack, Battle(stack) as battle:
        battle.run(4)
        before = battle.job()
        newest = battle.newest_checkpoint()
        emptied = battle.mark("Redis emptied")
        with closing(redis.Redis.from_url(stack.redis_url)) as client:
            client.flushall()
        battle.wait(lambda: battle.knows_job() and battle.newest_checkpoint() > newest, "the job and new checkpoints")
        battle.recovered(emptied)
        after = battle.job()
        assert (after.attempt, after.submitted_ms) == (before.attempt, before.submitted_ms), "the job was not stopped"
        battle.recovered(battle.kill("worker-0"))
        report = battle.finish()
    assert report.exactly_once, report
    assert report.inputs == report.outputs > 0
