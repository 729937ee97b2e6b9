"""What `moorage clean` and `moorage purge` do: the cleaner by hand, on the settings of the services.

They speak to Redis, Kafka and the checkpoint storage themselves, so they need neither coordinator nor cleaner; one that
runs meanwhile does no harm.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import partial
from types import TracebackType
from typing import Literal, Self

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from moorage.adapters.clock import SystemClock
from moorage.adapters.executor import ThreadExecutor
from moorage.cleaner.classify import Verdict
from moorage.cleaner.pace import CleanerOptions
from moorage.cleaner_process.observer import CleanerObserver
from moorage.cleaner_process.on_demand import Preview, clean_once, preview, preview_purge, purge
from moorage.cleaner_process.process import CleanerProcess
from moorage.config import CleanerSettings, KafkaSettings, RedisSettings, StorageSettings, load
from moorage.errors import LogError, MoorageError
from moorage.ids import Epoch, JobId
from moorage.messages.cleanup import PurgeJob
from moorage.naming import CLEANUP_TOPIC
from moorage.ports import CheckpointStorage, Log, Registry
from moorage.serde.control import encode
from moorage_cleaner.main import cleaner_options
from moorage_cli.screen import plain_table, size_text
from moorage_service.wiring import kafka_log, present_checkpoint_storage, redis_registry

_WAIT_MS = 50
_SEND_WAITS_MAX = 600


What = Literal["file", "upload", "log", "checkpoint", "savepoint", "topic", "group", "transactional id"]


class NotPossibleError(MoorageError):
    """What was asked for is not there, or can't be done to it now."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """Something of a job that goes, or a file that stays."""

    job: str
    what: What
    name: str
    goes: bool
    reason: str
    size_bytes: int | None = None
    """None: it has none, or it is not known."""


class Removed(CleanerObserver):
    """What a cleaner has done; the first error ends it."""

    def __init__(self) -> None:
        self.files: Counter[str] = Counter()
        self.size_bytes: Counter[str] = Counter()
        self.offsets = 0
        self.topics = 0

    def files_deleted(self, verdict: Verdict, files: int, size_bytes: int) -> None:
        self.files[verdict.reason] += files
        self.size_bytes[verdict.reason] += size_bytes

    def log_trimmed(self, offsets: int, size_bytes: int) -> None:
        self.offsets += offsets

    def topics_deleted(self, topics: int) -> None:
        self.topics += topics

    def job_failed(self, job: JobId, error: Exception) -> None:
        raise error

    def failed(self, error: Exception) -> None:
        raise error


class Cleaning:
    """The servers that the settings name."""

    def __init__(self, registry: Registry, storage: CheckpointStorage, log: Log, options: CleanerOptions) -> None:
        self._registry = registry
        self._storage = storage
        self._log = log
        self._options = options
        self._clock = SystemClock()

    def jobs(self) -> Sequence[JobId]:
        return sorted(record.job for record in self._registry.jobs())

    def preview(self, job: JobId) -> Preview:
        return _known(preview(self._registry, self._storage, self._log, self._clock, self._options, job), job)

    def preview_purge(self, job: JobId) -> Preview:
        """NotPossibleError: it has not ended."""
        shown = _known(preview_purge(self._registry, self._storage, self._log, self._clock, self._options, job), job)
        if not shown.record.status.has_ended:
            raise NotPossibleError(f"job {job} is {shown.record.status.value}: cancel it first, then purge it")
        if shown.is_needed_elsewhere:
            raise NotPossibleError(
                f"another job was started from a checkpoint of job {job} and needs it until it has completed its own,"
                " or for longer if it has claimed it"
            )
        return shown

    def clean(self, only: JobId | None) -> Removed:
        """Everything once, or one job."""
        with self._process(only) as (process, removed, wait):
            clean_once(process, self._clock, wait)
        return removed

    def purge(self, shown: Preview, tell: Callable[[Removed, int | None], object]) -> Removed:
        """A cleaner that runs is told, too: it goes on should this process end before the job is forgotten. ``tell``:
        what was deleted so far, and for how many ms nothing will happen from now on but waiting; None: it deletes."""
        record = shown.record
        lease = self._registry.lease()
        epoch = Epoch(0) if lease is None else lease.epoch
        request = PurgeJob(epoch=epoch, job=record.job, submitted_ms=record.submitted_ms)
        with self._process(record.job) as (process, removed, wait):
            self._send(request, wait)
            purge(process, self._clock, wait, request, partial(tell, removed))
        return removed

    @contextmanager
    def _process(self, only: JobId | None) -> Iterator[tuple[CleanerProcess, Removed, Callable[[], object]]]:
        executor = ThreadExecutor("clean", threads=1)
        removed = Removed()
        process = CleanerProcess(
            registry=self._registry,
            storage=self._storage,
            log=self._log,
            executor=executor,
            clock=self._clock,
            options=self._options,
            observer=removed,
            only=only,
        )
        try:
            yield process, removed, lambda: executor.poll() or executor.wait(_WAIT_MS)
        finally:
            process.close()
            executor.close()

    def _send(self, request: PurgeJob, wait: Callable[[], object]) -> None:
        outcomes: list[LogError | None] = []
        with closing(self._log.writer("purge")) as writer:
            writer.append(CLEANUP_TOPIC, 0, encode(request), lambda _offset, error: outcomes.append(error))
            for _ in range(_SEND_WAITS_MAX):
                writer.poll()
                if outcomes:
                    break
                wait()
        error = outcomes[0] if outcomes else LogError(f"Kafka has not confirmed a message to {CLEANUP_TOPIC}")
        if error is not None:
            raise error


def _known(shown: Preview | None, job: JobId) -> Preview:
    if shown is None:
        raise NotPossibleError(f"the registry knows no job {job}")
    return shown


@contextmanager
def cleaning(environ: Mapping[str, str]) -> Iterator[Cleaning]:
    """*Blocking.* On the servers that the settings name."""
    options = cleaner_options(load(CleanerSettings, environ))
    storage = present_checkpoint_storage(load(StorageSettings, environ))
    registry = redis_registry(load(RedisSettings, environ))
    with closing(registry), closing(kafka_log(load(KafkaSettings, environ), "moorage-cli")) as log:
        yield Cleaning(registry, storage, log, msgspec.structs.replace(options, dry_run=False))


class PurgeScreen:
    """What a purge does and waits for: a live line on a terminal, a line for each of the two elsewhere."""

    def __init__(self, job: str, console: Console) -> None:
        self._job = job
        self._console = console
        self._status = console.status(f"deleting everything of {escape(job)}")
        self._waits = False

    def tell(self, removed: Removed, held_ms: int | None) -> None:
        if held_ms is None:
            self._status.update(f"deleting everything of {escape(self._job)}: {escape(removed_text(removed))} so far")
            return
        if not self._waits:
            self._waits = True
            self._console.print(
                f"Deleted: {removed_text(removed)}. The registry forgets {self._job} in {seconds(held_ms)}"
                " (MOORAGE_CLEANER_PURGE_HOLD_MS): a cleaner that is paused in the middle of a deletion must not go on"
                " with it when the name is in use again. Ctrl-C is safe: a cleaner that runs ends the purge.",
                markup=False,
                highlight=False,
            )
        self._status.update(f"waiting: the name {escape(self._job)} is free in {seconds(held_ms)}")

    def __enter__(self) -> Self:
        self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._status.stop()


def seconds(duration_ms: int) -> str:
    return f"{-(-duration_ms // 1_000)} s"


# --- what people and programs are shown ------------------------------------------------------------------------------


def findings(shown: Preview) -> Iterator[Finding]:
    """Everything that would go, and what stays though somebody might look for it."""
    job, plan = shown.record.job, shown.plan
    status = shown.record.status.value
    for checkpoint in shown.checkpoints:
        yield Finding(job=job, what="checkpoint", name=str(checkpoint), goes=True, reason=f"job is {status}")
    for deletion in (*plan.deletions, *shown.claimed):
        yield Finding(
            job=job,
            what="file",
            name=deletion.path,
            goes=True,
            reason=deletion.verdict.reason,
            size_bytes=deletion.size_bytes,
        )
    for upload in shown.uploads:
        yield Finding(job=job, what="upload", name=upload.path, goes=True, reason="unfinished")
    if shown.uploads_error is not None:
        yield Finding(job=job, what="upload", name=shown.uploads_error, goes=False, reason="unseen")
    for (topic, partition), (start, end) in shown.cuts.items():
        yield Finding(
            job=job, what="log", name=f"{topic}/{partition}", goes=True, reason=f"{end - start} offsets below {end}"
        )
    purged: Sequence[tuple[What, Sequence[str]]] = (
        ("topic", shown.topics),
        ("group", shown.groups),
        ("transactional id", shown.transactional_ids),
    )
    for what, names in purged:
        for name in names:
            yield Finding(job=job, what=what, name=name, goes=True, reason=f"job is {status}")
    for savepoint in shown.savepoints:
        yield Finding(job=job, what="savepoint", name=savepoint.metadata_path, goes=False, reason="until disposed of")


def summary_table(previews: Iterable[Preview]) -> Table:
    """By job and reason: how many things, how large."""
    table = plain_table("What would go", "job", "what", "why", "how many", "size", wrapped=["why"])
    stays = []
    for shown in previews:
        groups: dict[tuple[str, str], list[Finding]] = {}
        for finding in findings(shown):
            reason = "not needed" if finding.what == "log" else finding.reason
            if finding.goes:
                groups.setdefault((finding.what, reason), []).append(finding)
            else:
                stays.append(finding)
        for (what, reason), members in groups.items():
            sizes = [member.size_bytes for member in members if member.size_bytes is not None]
            table.add_row(
                escape(shown.record.job), what, reason, str(len(members)), size_text(sum(sizes)) if sizes else ""
            )
        for verdict, tally in shown.plan.kept.items():
            table.add_row(
                escape(shown.record.job),
                "file",
                f"stays: {verdict.reason}",
                str(tally.files),
                size_text(tally.size_bytes),
                style="dim",
            )
    for finding in stays:
        table.add_row(escape(finding.job), finding.what, f"stays {finding.reason}: {escape(finding.name)}", "1", "")
    return table


def files_table(previews: Iterable[Preview]) -> Table:
    """One by one."""
    table = plain_table("What would go", "job", "what", "name", "why", "size", wrapped=["name", "why"])
    for shown in previews:
        for finding in findings(shown):
            size = "" if finding.size_bytes is None else size_text(finding.size_bytes)
            reason = finding.reason if finding.goes else f"stays {finding.reason}"
            table.add_row(escape(finding.job), finding.what, escape(finding.name), reason, size)
    return table


def removed_text(removed: Removed) -> str:
    parts = [
        f"{files} files ({reason}, {size_text(removed.size_bytes[reason])})"
        for reason, files in sorted(removed.files.items())
    ]
    if removed.offsets:
        parts.append(f"{removed.offsets} offsets of exchange logs")
    if removed.topics:
        parts.append(f"{removed.topics} topics")
    return ", ".join(parts) or "nothing"
