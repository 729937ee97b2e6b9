"""`moorage demo`: the pipeline ``orders`` under load, a worker and the coordinator killed, and every result counted.

Orders are produced at a steady rate while the pipeline runs. A third of the way in, a worker that runs subtasks gets
SIGKILL; two thirds in, the coordinator. At the end the output topic is read anew, read-committed, and the oracle counts
what was lost or doubled: an output says which order of its user it answers (``count``), and its running total is right
only if all orders before it were counted once and in order.
"""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Hashable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table

from moorage.api.loader import load_pipeline
from moorage.errors import MoorageError
from moorage.ids import TopicPartition
from moorage.ports import RecordReader, TransactionalWriter
from moorage.testing.oracle import Oracle
from moorage_cli.checkpoint_view import history_table
from moorage_cli.client import CheckpointSummary, CoordinatorUnreachableError, RestError
from moorage_cli.embedded.errors import StackError
from moorage_cli.embedded.stack import Stack
from moorage_cli.kafka import connect, create_missing
from moorage_cli.screen import Screen, processes_table

INPUT_TOPIC = "orders"
OUTPUT_TOPIC = "totals"
TOPIC_PREFIX = "moorage."
"""Of every topic that Moorage makes."""
PARTITIONS = 8
_OUTPUT_PARTITIONS = tuple(TopicPartition(OUTPUT_TOPIC, partition) for partition in range(PARTITIONS))
USERS = 1_000
POLL_S = 0.02
READ_AT_ONCE = 10_000
STATISTICS_INTERVAL_S = 0.5
SETTLE_S = 3.0
"""After the last missing output: time for a wrong, second one to show up."""


class NotExactlyOnceError(MoorageError):
    """The demo has shown that Moorage does not do what it promises."""


class Output(msgspec.Struct):
    user: str
    count: int
    total: float


class DemoReport(msgspec.Struct, frozen=True, kw_only=True):
    """What `moorage demo --json` prints."""

    records_in: int
    records_out: int
    lost: int
    duplicated: int
    out_of_order: int
    corrupt: int
    checkpoints_completed: int
    checkpoints_failed: int
    recovery_seconds: dict[str, float | None]
    """By name of the killed process: from SIGKILL until a reader saw the first result of an order sent after it."""
    seconds: float
    exactly_once: bool


@dataclass
class Kill:
    """A process that was killed, and the way back."""

    name: str
    at_s: float
    newest: dict[Hashable, int]
    """Number of every user's newest order at that moment."""
    recovered_s: float | None = None

    def saw(self, output: Output, now_s: float) -> bool:
        """True for the first result of an order sent after the kill: it has gone all the way, commit included."""
        if self.recovered_s is None and output.count > self.newest.get(output.user, 0):
            self.recovered_s = now_s - self.at_s
            return True
        return False


class OrderStream:
    """The same random orders in every run; tells the oracle what each must give.

    Amounts are quarters, so that totals are exact in binary.
    """

    def __init__(self, oracle: Oracle, *, users: int = USERS, seed: int = 1) -> None:
        self._oracle = oracle
        self._random = random.Random(seed)  # noqa: S311 - reproducible on purpose
        self._users = [f"user-{i:04}" for i in range(users)]
        self._totals = dict.fromkeys(self._users, 0.0)
        self._encode = msgspec.json.Encoder().encode

    def next(self) -> tuple[bytes, bytes]:
        """Key and value of the next order."""
        user = self._random.choice(self._users)
        amount = self._random.randrange(1, 40_000) / 4
        self._totals[user] += amount
        number = self._oracle.expect(user, self._totals[user])
        return user.encode(), self._encode({"user": user, "amount": amount, "number": number})


def pipeline_file() -> Path:
    """``examples/orders.py`` of the checkout, else the copy that the wheel carries."""
    packaged = Path(__file__).with_name("_examples") / "orders.py"
    return packaged if packaged.is_file() else Path(__file__).parents[2] / "examples" / "orders.py"


class Demo:
    """One run on a stack that was started."""

    def __init__(self, stack: Stack, screen: Screen, *, orders: int, seconds: float, timeout_s: float) -> None:
        self._stack = stack
        self._screen = screen
        self._orders = orders
        self._rate = orders / seconds
        self._deadline_s = time.monotonic() + timeout_s
        self._client = stack.client(timeout_s=2.0)
        self._pipeline = load_pipeline(f"{pipeline_file()}:pipeline")
        self._oracle = Oracle()
        self._stream = OrderStream(self._oracle)
        self._log = connect(stack.bootstrap_servers)
        self._outputs = 0
        self._kills: list[Kill] = []
        self._checkpoints: dict[int, CheckpointSummary] = {}
        self._statistics_due_s = 0.0
        self._decode = msgspec.json.Decoder(Output).decode

    def run(self) -> DemoReport:
        """Produce, kill, wait, count. MoorageError when the run can't be judged; its verdict is in the report."""
        started_s = time.monotonic()
        with self._client, closing(self._log):
            create_missing(self._log, [INPUT_TOPIC, OUTPUT_TOPIC], PARTITIONS)
            self._submit()
            self._run_under_fire()
            return self._report(started_s)

    def _submit(self) -> None:
        job = self._client.submit(self._pipeline.graph)
        self._screen.event(f"submitted the pipeline {job}")
        while (state := self._client.job(job)["state"]) != "RUNNING":
            if state in ("FAILED", "CANCELED", "FINISHED"):
                raise StackError(f"the job {job} is {state} before it ran; see {self._stack.logs_dir}")
            self._check_time("the job does not run")
            time.sleep(0.1)
        self._screen.event(f"{job} runs; producing {self._orders:,} orders, {self._rate:,.0f} per second")

    # --- the run ---------------------------------------------------------------------------------------------------

    def _run_under_fire(self) -> None:
        plan = iter([(self._orders // 3, self._busy_worker), (2 * self._orders // 3, lambda: "coordinator")])
        kill_at, victim = next(plan)
        complete_s: float | None = None
        writer = self._log.record_writer("demo-orders")
        reader = self._log.record_reader("demo-results", group=None, read_committed=True, max_poll_records=READ_AT_ONCE)
        with closing(writer), closing(reader):
            reader.assign(dict.fromkeys(_OUTPUT_PARTITIONS, 0))
            producing_since_s = time.monotonic()
            while complete_s is None or time.monotonic() < complete_s + SETTLE_S:
                due = int((time.monotonic() - producing_since_s) * self._rate)
                self._produce(writer, min(due, self._orders))
                if self._oracle.inputs >= kill_at:
                    self._kill(victim())
                    kill_at, victim = next(plan, (self._orders + 1, victim))
                self._read(reader)
                if complete_s is None and self._oracle.inputs == self._orders <= self._outputs:
                    complete_s = time.monotonic()
                    self._screen.event("every order has its result; waiting for any that should not be there")
                self._watch()
                self._screen.update(self._view, self._line)
                if complete_s is None and time.monotonic() > self._deadline_s:
                    self._screen.event("out of time: counting what is there", "red")
                    break
                time.sleep(POLL_S)
            writer.commit()  # nothing can be counted unless Kafka has every order

    def _produce(self, writer: TransactionalWriter, up_to: int) -> None:
        orders = [self._stream.next() for _ in range(up_to - self._oracle.inputs)]
        keys, values = [key for key, _ in orders], [value for _, value in orders]
        writer.append_records(INPUT_TOPIC, keys, values, [time.time_ns() // 1_000_000] * len(orders), None)
        writer.poll()

    def _read(self, reader: RecordReader) -> None:
        """Count results as they become visible; the verdict is found later, from the topic itself."""
        for batch in reader.poll(READ_AT_ONCE):
            self._outputs += len(batch.values)
            for output in map(self._decode, filter(None, batch.values)):
                for kill in self._kills:
                    if kill.saw(output, time.monotonic()):
                        self._screen.event(f"{kill.name}: results flow again after {kill.recovered_s:.1f} s", "green")

    def _busy_worker(self) -> str:
        """A worker that runs subtasks; the first one if the coordinator can't say."""
        try:
            busy = [w.id for w in self._client.task_managers() if w.free_slots < w.slots_number]
        except (CoordinatorUnreachableError, RestError):
            busy = []
        return min(busy, default="worker-0").partition("/")[0]

    def _kill(self, name: str) -> None:
        newest = self._oracle.highest_inputs()
        pid = self._stack.kill(name, signal.SIGKILL)
        self._kills.append(Kill(name, time.monotonic(), newest))
        self._screen.event(f"kill -9 {pid}: {name}", "bold red")

    def _watch(self) -> None:
        """Collect checkpoints. Counted by id, because the counts of a coordinator end with it."""
        if time.monotonic() < self._statistics_due_s:
            return
        self._statistics_due_s = time.monotonic() + STATISTICS_INTERVAL_S
        try:
            history = self._client.checkpoints(self._pipeline.graph.job).history
        except (CoordinatorUnreachableError, RestError):
            return  # it was killed, by us
        self._checkpoints.update((checkpoint.id, checkpoint) for checkpoint in history)

    def _check_time(self, what: str) -> None:
        if time.monotonic() > self._deadline_s:
            raise StackError(f"{what}, and time is out; see {self._stack.logs_dir}")

    # --- the verdict -----------------------------------------------------------------------------------------------

    def _report(self, started_s: float) -> DemoReport:
        self._statistics_due_s = 0.0
        self._watch()
        for message in self._log.read_to_end(_OUTPUT_PARTITIONS, read_committed=True):
            output = self._decode(message.value)
            self._oracle.observe(output.user, output.count, output.total)
        verdict = self._oracle.report()
        return DemoReport(
            records_in=verdict.inputs,
            records_out=verdict.outputs,
            lost=verdict.lost,
            duplicated=verdict.duplicated,
            out_of_order=verdict.out_of_order,
            corrupt=verdict.corrupt,
            checkpoints_completed=self._count("COMPLETED"),
            checkpoints_failed=self._count("FAILED"),
            recovery_seconds={
                kill.name: None if kill.recovered_s is None else round(kill.recovered_s, 2) for kill in self._kills
            },
            seconds=round(time.monotonic() - started_s, 1),
            exactly_once=verdict.exactly_once,
        )

    def _count(self, status: str) -> int:
        return sum(checkpoint.status == status for checkpoint in self._checkpoints.values())

    # --- what is shown ---------------------------------------------------------------------------------------------

    def _view(self) -> RenderableType:
        progress = Table.grid(padding=(0, 1))
        for name, done in (("orders sent", self._oracle.inputs), ("results committed", self._outputs)):
            bar = ProgressBar(total=self._orders, completed=done, width=40)
            progress.add_row(name, bar, f"{done:,} of {self._orders:,}")
        newest = [self._checkpoints[id_] for id_ in sorted(self._checkpoints, reverse=True)[:5]]
        title = f"Checkpoints: {self._count('COMPLETED')} completed, {self._count('FAILED')} failed"
        return Group(progress, history_table(newest, title), processes_table(self._stack.processes))

    def _line(self) -> str:
        return (
            f"{self._oracle.inputs:,} orders sent, {self._outputs:,} results committed,"
            f" {self._count('COMPLETED')} checkpoints completed, {self._count('FAILED')} failed"
        )


def report_table(report: DemoReport) -> Table:
    """The last lines of the demo."""
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(justify="right")
    rows: dict[str, object] = {
        "records in": f"{report.records_in:,}",
        "records out": f"{report.records_out:,}",
        "lost": report.lost,
        "duplicated": report.duplicated,
        "out of order": report.out_of_order,
        "corrupt": report.corrupt,
        "checkpoints completed": report.checkpoints_completed,
        "checkpoints failed": report.checkpoints_failed,
    }
    for name, seconds in report.recovery_seconds.items():
        rows[f"recovery from kill -9 of {name}"] = "never" if seconds is None else f"{seconds:.1f} s"
    for label, value in rows.items():
        table.add_row(label, str(value))
    return table


@contextmanager
def borrowed_kafka(bootstrap_servers: str) -> Iterator[None]:
    """Use a Kafka that is not ours: StackError when it has topics that we would write to, else ours go in the end.

    Old or foreign records would spoil the count, and two Moorages on the same control topics would spoil each other.
    """
    with closing(connect(bootstrap_servers)) as log:
        if used := _our_topics(log.topics()):
            raise StackError(
                f"the demo needs topics of its own, and Kafka at {bootstrap_servers} has {', '.join(sorted(used))}"
                " already. Delete them, or use another Kafka."
            )
        try:
            yield
        finally:
            log.delete_topics(_our_topics(log.topics()))


def _our_topics(present: Iterable[str]) -> set[str]:
    return {name for name in present if name in (INPUT_TOPIC, OUTPUT_TOPIC) or name.startswith(TOPIC_PREFIX)}
