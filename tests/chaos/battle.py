"""The orders pipeline on a real stack under steady load, with somebody who kills processes; an oracle judges it."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from types import TracebackType
from typing import Self, TypeVar

import msgspec

from moorage.adapters.redis_registry import RedisRegistry
from moorage.api.loader import load_pipeline
from moorage.cluster.protocol import RestoreFrom
from moorage.ids import JobId, TopicPartition
from moorage.messages.registry import JobRecord, JobStatus
from moorage.testing.oracle import Oracle, OracleReport
from moorage_cli.client import CoordinatorClient, CoordinatorUnreachableError
from moorage_cli.demo import USERS, Kill, OrderStream, Output, pipeline_file
from moorage_cli.embedded.stack import Stack
from moorage_cli.kafka import connect, create_missing
from moorage_cli.overrides import overridden

T = TypeVar("T")

PARTITIONS = 4
RECOVERY_TIMEOUT_S = 90.0
SETTLE_S = 3.0


class Battle:
    """``rate``: orders per second while anything goes on. Use as a context manager on a started stack."""

    def __init__(
        self, stack: Stack, *, rate: int = 2_000, seed: int = 1, users: int = USERS, settings: Sequence[str] = ()
    ) -> None:
        """``settings``: of the job, as `moorage submit --set` takes them."""
        self._users = users
        self.stack = stack
        self._settings = settings
        self.oracle = Oracle()
        self._orders = OrderStream(self.oracle, users=users, seed=seed)
        self._rate = rate
        self._decode = msgspec.json.Decoder(Output).decode
        self._outputs = [TopicPartition("totals", number) for number in range(PARTITIONS)]
        self._cleanup = ExitStack()
        self._kills: list[Kill] = []
        self._debt = 0.0
        self._last_s = time.monotonic()
        self._seen = 0

    def __enter__(self) -> Self:
        with self._cleanup:
            self._registry = self._cleanup.enter_context(closing(RedisRegistry(self.stack.redis_url)))
            self._log = self._cleanup.enter_context(closing(connect(self.stack.bootstrap_servers)))
            create_missing(self._log, ["orders", "totals"], PARTITIONS)
            with self.stack.client() as client:
                graph = load_pipeline(f"{pipeline_file()}:pipeline").graph
                self._graph = overridden(graph, self._settings)
                self._job = client.submit(self._graph)
            self._writer = self._cleanup.enter_context(closing(self._log.record_writer("battle-orders")))
            self._reader = self._cleanup.enter_context(
                closing(
                    self._log.record_reader("battle-results", group=None, read_committed=True, max_poll_records=20_000)
                )
            )
            self._reader.assign(dict.fromkeys(self._outputs, 0))
            self._last_s = time.monotonic()
            self.wait(lambda: self._seen > 0, "the first result")
            self._cleanup = self._cleanup.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._cleanup.close()

    # --- time passes -------------------------------------------------------------------------------------------------

    def run(self, seconds: float) -> None:
        """Produce and read for a while."""
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s:
            self._turn(producing=True)

    def fill(self) -> None:
        """Send as many orders at once as there are users, and wait for the results: most users have a row then."""
        self._send(self._users)
        self.wait(lambda: self._seen >= self.oracle.inputs, "the first results of all users", producing=False)

    def wait(self, what: Callable[[], bool], name: str, *, producing: bool = True) -> float:
        """Seconds until ``what`` holds; AssertionError when it takes too long."""
        started_s = time.monotonic()
        while not what():
            assert time.monotonic() < started_s + RECOVERY_TIMEOUT_S, f"{name} does not come: {self._state()}"
            self._turn(producing=producing)
        return time.monotonic() - started_s

    def _turn(self, *, producing: bool) -> None:
        now_s = time.monotonic()
        self._debt += (now_s - self._last_s) * self._rate if producing else 0.0
        self._last_s = now_s
        count = int(self._debt)
        if count:
            self._debt -= count
            self._send(count)
        self._writer.poll()
        for batch in self._reader.poll(20_000):
            self._seen += len(batch.values)
            for output in map(self._decode, filter(None, batch.values)):
                self.oracle.observe(output.user, output.count, output.total)
                for kill in self._kills:
                    kill.saw(output, time.monotonic())
        time.sleep(0.01)

    def _send(self, count: int) -> None:
        orders = [self._orders.next() for _ in range(count)]
        stamps = [time.time_ns() // 1_000_000] * count
        self._writer.append_records("orders", [k for k, _ in orders], [v for _, v in orders], stamps, None)

    # --- what is done to processes -----------------------------------------------------------------------------------

    def kill(self, *names: str, number: int = signal.SIGKILL) -> Kill:
        """Send a signal to processes; the Kill tells when the first order sent after it has its result."""
        kill = self.mark("+".join(names))
        for name in names:
            self.stack.kill(name, number)
        return kill

    def mark(self, name: str) -> Kill:
        """Something is done: the Kill tells when the first order sent after it has its result."""
        self._writer.commit()  # what was sent before is there
        kill = Kill(name, time.monotonic(), self.oracle.highest_inputs())
        self._kills.append(kill)
        return kill

    def rescale(self, parallelism: int) -> None:
        """Go on with another parallelism; returns when the new attempt is stored."""
        # A worker that was killed just now may not be back: its slots are needed.
        self.wait(lambda: self._ask(lambda client: client.overview()).slots_total >= parallelism, "room for a rescale")
        self._ask(lambda client: client.rescale(self._job, parallelism, {}))
        self.mark(f"rescale to {parallelism}")

    def savepoint(self) -> str:
        location = self._ask(lambda client: client.savepoint(self._job).wait(RECOVERY_TIMEOUT_S)).location
        assert location is not None
        self.mark("savepoint")
        return location

    def stop_and_restore(self, *, drain: bool = False) -> None:
        """Stop with a savepoint and start from it: the same results as if nothing had been."""
        location = self._ask(lambda client: client.stop(self._job, drain=drain).wait(RECOVERY_TIMEOUT_S)).location
        assert location is not None
        self._ask(lambda client: client.submit(self._graph, RestoreFrom(path=location)))
        self.mark("stop and restore")

    def _ask(self, request: Callable[[CoordinatorClient], T]) -> T:
        """The answer of a coordinator, while orders go on; asked again while none leads."""
        while True:
            with ThreadPoolExecutor(1) as thread, self.stack.client(timeout_s=RECOVERY_TIMEOUT_S) as client:
                answer = thread.submit(request, client)
                self.wait(answer.done, "an answer of the coordinator")
                try:
                    return answer.result()
                except CoordinatorUnreachableError:
                    self.run(0.5)

    def recovered(self, kill: Kill) -> float:
        """Run until the results of orders sent after the kill are there; seconds since the kill."""
        self.wait(lambda: kill.recovered_s is not None, f"a result after the end of {kill.name}")
        assert kill.recovered_s is not None
        return kill.recovered_s

    def wait_for_last(self) -> float:
        """``recovered`` of the last kill."""
        return self.recovered(self._kills[-1])

    def job(self) -> JobRecord:
        return next(job for job in self._registry.jobs() if job.job == self._job)

    def knows_job(self) -> bool:
        """Does the registry?"""
        return any(job.job == self._job for job in self._registry.jobs())

    def newest_checkpoint(self) -> int:
        return max((record.checkpoint for record in self._registry.checkpoints(JobId(self._job))), default=0)

    def _state(self) -> str:
        job = self.job()
        return f"attempt {job.attempt} is {job.status.value}, {job.failure or 'no failure'}"

    # --- the verdict -------------------------------------------------------------------------------------------------

    def finish(self) -> OracleReport:
        """Stop producing, wait for every result and a little longer, and judge what came out of the output topic."""
        self._writer.commit()
        self.wait(lambda: self._seen >= self.oracle.inputs, "the rest of the results", producing=False)
        end_s = time.monotonic() + SETTLE_S
        while time.monotonic() < end_s:
            self._turn(producing=False)
        assert self.job().status is JobStatus.RUNNING
        return self.oracle.report()
