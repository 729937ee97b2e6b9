"""The coordinator's loop."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from moorage.checkpoint.notices import HooksNotClosed
from moorage.cluster.coordinator import CoordinatorCore
from moorage.cluster.protocol import (
    CallFinished,
    ClientRequest,
    CoreEvent,
    EventsLost,
    LeaderState,
    LogSilence,
    Received,
    Refusal,
    Refused,
    Stop,
    SubmitJob,
    Tick,
)
from moorage.coordinator_process.broadcaster import Broadcaster
from moorage.coordinator_process.calls import EVENTS, call_error, run_call
from moorage.coordinator_process.hook_queue import HookQueue
from moorage.coordinator_process.hooks import HookRunner
from moorage.coordinator_process.storage_calls import STORAGE_OPERATIONS
from moorage.effects import (
    Action,
    Broadcast,
    Call,
    CloseHooks,
    FollowEvents,
    HookOperation,
    Notice,
    Operation,
    RebuildJob,
    Reply,
    Report,
    SendCleanup,
)
from moorage.errors import CorruptDataError, LogError, MoorageError, UnknownSchemaError
from moorage.graph.job_graph import JobGraph
from moorage.ids import Attempt, CheckpointId, Epoch
from moorage.messages.commands import CoordinatorHeartbeat, DeployJob
from moorage.naming import CLEANUP_TOPIC, COMMANDS_TOPIC
from moorage.ports import CheckpointStorage, Clock, Executor, Log, LogReader, Registry
from moorage.serde import control

EVENTS_PER_STEP = 1_000


class MalformedMessage(Notice, frozen=True, kw_only=True):
    """A message of the events topic can't be read; it is skipped."""

    topic: str
    offset: int
    detail: str


class MessageLost(Notice, frozen=True, kw_only=True):
    """Kafka will never take this message."""

    kind: str
    detail: str


def unsendable(graph: JobGraph) -> str | None:
    """Why no message can carry a graph that somebody posted; None: one can. One that was stored all the same would end
    every leader that deploys it."""
    deploy = DeployJob(
        epoch=Epoch(1),
        job=graph.job,
        attempt=Attempt(1),
        graph=graph,
        slots=(),
        lineage=(),
        restore_checkpoint=None,
        restore_path=None,
        restore_checksum=None,
        base_checkpoint_id=CheckpointId(0),
    )
    try:
        control.encode(deploy)
    except (TypeError, ValueError, OverflowError) as error:
        return f"job {graph.job} can't be sent to workers: {error}"
    return None


class CoordinatorProcess:
    """One coordinator, leading or waiting. It holds nothing that counts and may be dropped between any two steps.

    ``step`` never blocks: what blocks goes to ``executor``, whose results its owner hands back between two steps.
    ``storage_executor``, if there is one, takes the calls of the checkpoint storage, so that a slow one holds up
    neither the lease nor anything else. ``hooks`` are the master hooks; ``hook_executor``, if there is one, has
    threads for them alone. ``on_notice`` gets what people want to see, ``on_reply`` the answers to ``request``,
    ``on_call`` each call that ended: its operation, how long it took, whether it went well. All are called from the
    loop.
    """

    def __init__(
        self,
        core: CoordinatorCore,
        *,
        registry: Registry,
        storage: CheckpointStorage,
        log: Log,
        executor: Executor,
        clock: Clock,
        storage_executor: Executor | None = None,
        hooks: HookRunner | None = None,
        hook_executor: Executor | None = None,
        on_notice: Callable[[Notice], None] = lambda _: None,
        on_reply: Callable[[int, object], None] = lambda _request, _result: None,
        on_call: Callable[[str, int, bool], None] = lambda _operation, _duration_ms, _ok: None,
    ) -> None:
        self.core = core
        self._registry = registry
        self._storage = storage
        self._log = log
        self._executor = executor
        self._storage_executor = storage_executor or executor
        self._hooks = HookQueue(hooks or HookRunner(), hook_executor or executor, self._hooks_closed)
        self._clock = clock
        self._on_notice = on_notice
        self._on_reply = on_reply
        self._on_call = on_call
        self.events_delay_ms = 0
        """How long the newest event that was read had waited in the log."""
        self._now_ms = 0
        self._reader: LogReader | None = None
        self._broadcaster = Broadcaster(log, lambda kind, why: on_notice(MessageLost(kind=kind, detail=why)))

    def step(self, now_ms: int) -> bool:
        """Tell the core the time, take messages in, send messages out. ``now_ms`` is the clock's monotonic time.

        False: no message came. Raises what is not a MoorageError: a bug, nothing to go on from.
        """
        self._now_ms = now_ms
        self._handle(Tick(now_ms, self._clock.wall_ms()))
        self._broadcaster.serve(now_ms)
        self._handle(LogSilence(self._broadcaster.silence_ms(now_ms)))
        return self._read_events()

    def request(self, request: ClientRequest) -> None:
        """The answer comes by ``on_reply``, at once or later, exactly once."""
        if isinstance(request, SubmitJob) and (problem := unsendable(request.graph)):
            self._on_reply(request.request, Refused(Refusal.INVALID, problem))
        else:
            self._handle(request)

    def stop(self) -> None:
        """Give the lease back; step on until ``is_stopped``."""
        self._handle(Stop())

    @property
    def is_stopped(self) -> bool:
        """The lease is given back, and hooks are closed."""
        return self.core.is_stopped and self._hooks.is_idle

    def close(self) -> None:
        self._disconnect()

    # -----------------------------------------------------------------------------------------------------------------

    def _handle(self, event: CoreEvent) -> None:
        for action in self.core.handle(event):
            self._carry_out(action)
        if self.core.state not in (LeaderState.LOADING, LeaderState.LEADING):
            self._disconnect()

    def _carry_out(self, action: Action) -> None:
        match action:
            case Broadcast(command):
                kind = type(command).__name__
                # Heartbeats that nobody gets must not pile up.
                if isinstance(command, CoordinatorHeartbeat) and self._broadcaster.is_waiting(kind):
                    return
                self._broadcaster.send(COMMANDS_TOPIC, control.encode(command), kind, self._now_ms)
            case SendCleanup(message):
                self._broadcaster.send(CLEANUP_TOPIC, control.encode(message), type(message).__name__, self._now_ms)
            case Call(call, operation):
                self._call(call, operation)
            case Reply(request, result):
                self._on_reply(request, result)
            case Report(notice):
                self._on_notice(notice)

    def _call(self, call: int, operation: Operation[Any]) -> None:
        finished = partial(self._finished, call, operation, self._clock.monotonic_ms())
        if isinstance(operation, HookOperation):
            self._hooks.submit(operation, finished)
            return
        is_storage = isinstance(operation, (*STORAGE_OPERATIONS, RebuildJob))
        executor = self._storage_executor if is_storage else self._executor
        run = partial(
            run_call,
            operation,
            registry=self._registry,
            storage=self._storage,
            log=self._log,
        )
        executor.submit(run, finished)

    def _finished(
        self, call: int, operation: Operation[Any], started_ms: int, result: Any, error: Exception | None
    ) -> None:
        if error is not None and not isinstance(error, MoorageError):
            raise error
        self._on_call(type(operation).__name__, self._clock.monotonic_ms() - started_ms, error is None)
        if error is None and isinstance(operation, FollowEvents) and self.core.state is LeaderState.LOADING:
            self._follow(result)
        self._handle(CallFinished(call, result, None if error is None else call_error(error)))

    def _hooks_closed(self, operation: CloseHooks, error: Exception | None) -> None:
        if error is not None:
            self._on_notice(HooksNotClosed(job=operation.job, detail=str(error)))

    def _follow(self, end: int) -> None:
        if self._reader is None:
            self._reader = self._log.reader("coordinator")
        self._reader.assign({EVENTS: end})

    def _read_events(self) -> bool:
        if self._reader is None:
            return False
        try:
            messages = self._reader.poll(EVENTS_PER_STEP)
        except LogError as error:
            self._handle(EventsLost(str(error)))
            return False
        for message in messages:
            if self._reader is None:
                break  # The leadership has ended.
            try:
                event = control.decode(message.value, control.EVENTS)
            except (CorruptDataError, UnknownSchemaError) as error:
                self._on_notice(MalformedMessage(topic=message.topic, offset=message.offset, detail=str(error)))
                continue
            self._handle(Received(event))
        if messages:
            self.events_delay_ms = max(0, self._clock.wall_ms() - messages[-1].timestamp_ms)
        return bool(messages)

    def _disconnect(self) -> None:
        """Not leading: nothing is said and nothing is heard."""
        self._broadcaster.close()
        self._hooks.close_all()
        if self._reader is not None:
            self._reader.close()
            self._reader = None
