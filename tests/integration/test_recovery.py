"""The main job on real processes survives the end of each of them, of all at once, and of Kafka and Redis."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
from tests.chaos.battle import Battle

from moorage_cli.embedded.stack import Stack

SERVICES = ("worker-0", "worker-1", "coordinator", "cleaner")


@pytest.mark.kafka
@pytest.mark.timeout(420)
def test_the_main_job_survives_everything(tmp_path: Path) -> None:
    """One story, because a stack takes seconds to start; the oracle judges it as a whole."""
    env = {"MOORAGE_COORDINATOR_WORKER_HEARTBEAT_TIMEOUT_MS": "3000"}
    with Stack(tmp_path, workers=2, env=env) as stack, Battle(stack) as battle:
        battle.run(3)

        attempt = battle.job().attempt
        battle.recovered(battle.kill("worker-0"))
        assert battle.job().attempt > attempt, "a lost worker ends the attempt"

        battle.run(2)
        attempt = battle.job().attempt
        battle.recovered(battle.kill("coordinator"))
        assert battle.job().attempt == attempt, "running subtasks are adopted"

        battle.recovered(battle.kill("cleaner"))
        assert battle.job().attempt == attempt

        zombie = battle.kill("worker-1", number=signal.SIGSTOP)
        battle.wait(lambda: battle.job().attempt > attempt, "the attempt without the stopped worker")
        battle.recovered(zombie)
        stack.kill("worker-1", signal.SIGCONT)
        battle.run(3)

        battle.recovered(battle.kill(*SERVICES))

        redis = battle.kill("redis")
        time.sleep(1)
        stack.start_server("redis")
        battle.recovered(redis)

        kafka = battle.kill("kafka")
        time.sleep(1)
        stack.start_server("kafka")
        battle.recovered(kafka)

        report = battle.finish()
    assert report.exactly_once, report
    assert report.inputs == report.outputs > 0
