"""The operator coordinators of one job, held for as long as its coordinator leads (Flink: OperatorCoordinatorHolder).

They are told of what happens while an attempt runs, and stand for themselves: an error in one of them fails the attempt
of its job, never the coordinator of all jobs. What subtasks send while the state is still being read waits.

One belongs to one vertex. When a part of the job restarts, those of the vertices that go on hear nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial

from moorage.checkpoint.notices import OperatorCoordinatorNotClosed
from moorage.checkpoint.operator_coordinators import Kinds, OperatorContext
from moorage.effects import Effects, ReadOperatorStates
from moorage.graph.execution import Execution
from moorage.graph.job_graph import JobGraph, OperatorNode
from moorage.ids import CheckpointId, JobId, OperatorId, OperatorUid, SubtaskId, VertexId
from moorage.messages.commands import OperatorCommand
from moorage.messages.events import OperatorEvent

EVENTS_KEPT = 10_000
"""Events that may come while the state is read; more of them fail the attempt, for none may be lost."""


def problem_of(graph: JobGraph, kinds: Kinds) -> str | None:
    """Why the coordinators that a job needs can't be made here; None: they can."""
    return OperatorCoordinators(Effects(), graph, kinds, backlog=lambda _: None, fail_job=lambda _: None).problem


class _Holder:
    def __init__(self, vertex: VertexId, node: OperatorNode, context: OperatorContext, kinds: Kinds) -> None:
        assert node.coordinator is not None
        self.vertex = vertex
        self.node = node
        self.context = context
        self.coordinator = kinds[node.coordinator.kind](context)
        self.has_backlog = False
        self.is_ready = False
        """It has its state."""


class OperatorCoordinators:
    """Those of one job. ``backlog`` and ``fail_job`` are called as the coordinators say."""

    def __init__(
        self,
        effects: Effects,
        graph: JobGraph,
        kinds: Kinds,
        backlog: Callable[[bool], None],
        fail_job: Callable[[str], None],
    ) -> None:
        self._effects = effects
        self._job: JobId = graph.job
        self._backlog = backlog
        self._fail_job = fail_job
        self.problem: str | None = None
        """Why they could not be made."""
        self._execution: Execution | None = None
        self._is_ready = False
        """All of them have their state."""
        self._waiting: list[OperatorEvent] = []
        """Came before."""
        self._holders: dict[tuple[VertexId, OperatorUid], _Holder] = {}
        needed = {o.coordinator.kind for v in graph.vertices for o in v.operators if o.coordinator is not None}
        if missing := sorted(needed - kinds.keys()):
            self.problem = f"no operator coordinator of kind {', '.join(missing)} is configured here"
        else:
            self._make(graph, kinds)

    def _make(self, graph: JobGraph, kinds: Kinds) -> None:
        for vertex in graph.vertices:
            for node in vertex.operators:
                if node.coordinator is None:
                    continue
                key = (vertex.vertex, node.uid)
                try:
                    self._holders[key] = _Holder(vertex.vertex, node, self._context(key, node), kinds)
                except Exception as error:  # noqa: BLE001 - code of others
                    self.problem = f"the coordinator of operator {node.uid} can't be made: {error!r}"
                    return

    def _context(self, key: tuple[VertexId, OperatorUid], node: OperatorNode) -> OperatorContext:
        return OperatorContext(
            self._effects,
            node,
            lambda subtask, payload: self._send(key, subtask, payload),
            lambda has_backlog: self._set_backlog(key, has_backlog),
            self._fail_job,
        )

    # --- life of an attempt ------------------------------------------------------------------------------------------

    def start(self, execution: Execution, checkpoint: CheckpointId | None, path: str | None, checksum: int) -> None:
        """An attempt runs that started from ``checkpoint``, whose ``_metadata`` is at ``path``; None: from nothing, or
        from a checkpoint of another job. What goes on in it is not reset."""
        self._execution = execution
        self._waiting.clear()
        if self.problem is not None:
            self._fail_job(self.problem)
        elif not self._holders or path is None:
            self._reset(checkpoint, {})
        else:
            self._effects.call(
                ReadOperatorStates(path=path, checksum=checksum),
                lambda states: self._reset(checkpoint, states) if self._execution is execution else None,
                lambda error: self._fail_job(f"the state of operator coordinators can't be read: {error.detail}"),
                repeats=True,
            )

    def _reset(self, checkpoint: CheckpointId | None, states: Mapping[OperatorId, bytes]) -> None:
        execution = self._execution
        assert execution is not None
        self._is_ready = True
        started = [holder for holder in self._holders.values() if not holder.is_ready]
        for holder in started:
            holder.is_ready = True
        self._tell(started, lambda holder: holder.coordinator.reset(checkpoint, states.get(holder.node.operator_id)))
        if self._execution is execution and any(holder.has_backlog for holder in self._holders.values()):
            self._backlog(True)  # Said before this attempt began.
        for subtask, state in execution.states():
            if state.is_running and self._execution is execution and subtask.vertex not in execution.goes_on:
                self.subtask_ready(subtask)
        waiting, self._waiting = self._waiting, []
        for event in waiting:
            self.handle_event(event)  # Once the attempt has ended nobody is interested.

    def stop(self, goes_on: Collection[VertexId] = ()) -> None:
        """The attempt has ended, but for these vertices."""
        self._is_ready = False
        if not goes_on:
            self._execution = None
        for holder in [holder for holder in self._holders.values() if holder.vertex not in goes_on]:
            was_ready, holder.is_ready = holder.is_ready, False
            holder.context.forget_calls()
            holder.has_backlog = False
            try:
                if was_ready:
                    holder.coordinator.close()
            except Exception as error:  # noqa: BLE001 - code of others; there is no attempt left to fail
                self._effects.report(
                    OperatorCoordinatorNotClosed(job=self._job, operator=holder.node.uid, detail=repr(error))
                )

    @property
    def is_ready(self) -> bool:
        """Checkpoints may be taken."""
        return self._is_ready

    # --- what happens ------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        self._tell(self._all(), lambda holder: holder.coordinator.tick(self._effects.now_ms))
        for key, holder in self._holders.items():
            if holder.has_backlog and self._has_ended(holder):
                self._set_backlog(key, False)  # Its subtasks won't say so: they wait for a checkpoint to finish with.

    def subtask_ready(self, subtask: SubtaskId) -> None:
        self._tell(self._of(subtask.vertex), lambda holder: holder.coordinator.subtask_ready(subtask.subtask))

    def subtask_failed(self, subtask: SubtaskId, cause: str) -> None:
        self._tell(self._of(subtask.vertex), lambda holder: holder.coordinator.subtask_failed(subtask.subtask, cause))

    def handle_event(self, event: OperatorEvent) -> bool:
        """False: nobody is interested."""
        holder = self._holders.get((event.vertex, event.operator))
        if holder is None or self._execution is None or event.attempt != self._execution.attempt_of(event.vertex):
            return False
        if holder.is_ready:
            self._tell([holder], lambda holder: holder.coordinator.handle_event(event.subtask, event.payload))
        elif len(self._waiting) < EVENTS_KEPT:
            self._waiting.append(event)
        else:
            self._fail_job(f"more than {EVENTS_KEPT} events came before operator coordinators had their state")
        return True

    def _all(self) -> Collection[_Holder]:
        return [holder for holder in self._holders.values() if holder.is_ready]

    def _of(self, vertex: VertexId) -> Collection[_Holder]:
        return [holder for holder in self._all() if holder.vertex == vertex]

    def _send(self, key: tuple[VertexId, OperatorUid], subtask: int | None, payload: bytes) -> None:
        if self._execution is not None:
            vertex, operator = key
            self._effects.broadcast(
                OperatorCommand(
                    epoch=self._effects.epoch,
                    job=self._job,
                    attempt=self._execution.attempt_of(vertex),
                    vertex=vertex,
                    operator=operator,
                    subtask=subtask,
                    payload=payload,
                )
            )

    def _set_backlog(self, key: tuple[VertexId, OperatorUid], has_backlog: bool) -> None:
        before = any(holder.has_backlog for holder in self._holders.values())
        self._holders[key].has_backlog = has_backlog and not self._has_ended(self._holders[key])
        after = any(holder.has_backlog for holder in self._holders.values())
        if before != after:
            self._backlog(after)

    def _has_ended(self, holder: _Holder) -> bool:
        return self._execution is None or self._execution.input_of_has_ended(holder.vertex)

    # --- checkpoints -------------------------------------------------------------------------------------------------

    def uids(self) -> frozenset[OperatorUid]:
        """Those whose state a checkpoint waits for."""
        return frozenset(uid for _, uid in self._holders)

    def checkpoint(
        self, checkpoint: CheckpointId, done: Callable[[OperatorUid, bytes], None], failed: Callable[[str], None]
    ) -> None:
        """``failed``: one of them failed, or handed in what is no state."""
        execution = self._execution
        for holder in self._all():
            if self._execution is not execution:
                return
            uid = holder.node.uid
            try:
                holder.coordinator.checkpoint(checkpoint, partial(_answered, uid, done, failed))
            except Exception as error:  # noqa: BLE001 - code of others
                failed(f"operator {uid}: {error!r}")
                return

    def completed(self, checkpoint: CheckpointId) -> None:
        self._tell(self._all(), lambda holder: holder.coordinator.completed(checkpoint))

    def aborted(self, checkpoint: CheckpointId) -> None:
        self._tell(self._all(), lambda holder: holder.coordinator.aborted(checkpoint))

    def _tell(self, holders: Iterable[_Holder], call: Callable[[_Holder], None]) -> None:
        """An error in code of others fails the attempt, not the coordinator of all jobs; those who have not heard by
        then hear nothing more of this attempt."""
        execution = self._execution
        for holder in holders:
            if self._execution is not execution:
                return
            holder.context.guard(call, holder)


def _answered(
    uid: OperatorUid, done: Callable[[OperatorUid, bytes], None], failed: Callable[[str], None], state: bytes
) -> None:
    if isinstance(state, bytes):
        done(uid, state)
    else:
        failed(f"operator {uid}: its state is bytes, not {state!r}")
