"""Jobs (Flink: JobDetailsInfo, MultipleJobsDetails, JobConfigInfo)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Literal

import msgspec

from moorage.cluster.views import ClusterView, JobView
from moorage.graph.execution import ExecutionState
from moorage.graph.job_graph import ExchangeKind, JobVertex, RestartConfig
from moorage.ids import SubtaskId, VertexId
from moorage.messages.registry import JobStatus

TaskState = Literal[
    "CREATED",
    "SCHEDULED",
    "DEPLOYING",
    "RECONCILING",
    "INITIALIZING",
    "RUNNING",
    "FINISHED",
    "CANCELING",
    "CANCELED",
    "FAILED",
]
_TASK_STATES: tuple[TaskState, ...] = TaskState.__args__  # type: ignore[attr-defined]
_JOB_STATES = ("INITIALIZING", "RECONCILING", *(status.value for status in JobStatus))
_SHIP_STRATEGIES = {
    ExchangeKind.KEYED: "HASH",
    ExchangeKind.FORWARD: "FORWARD",
    ExchangeKind.REBALANCE: "REBALANCE",
    ExchangeKind.BROADCAST: "BROADCAST",
}


class JobIdWithStatus(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    status: JobStatus


class Jobs(msgspec.Struct, frozen=True):
    jobs: tuple[JobIdWithStatus, ...]


class JobOverview(msgspec.Struct, frozen=True, kw_only=True, rename="kebab"):
    """``waiting_for`` and ``failure``: why a job does not run; Flink has no such fields."""

    jid: str
    name: str
    start_time: int
    end_time: int
    duration: int
    state: JobStatus
    last_modification: int
    tasks: dict[str, int]
    """``total``, and how many are in each state, in lower case."""
    pending_operators: int = 0
    waiting_for: str | None
    failure: str | None


class JobsOverview(msgspec.Struct, frozen=True):
    jobs: tuple[JobOverview, ...]


class VertexMetrics(msgspec.Struct, frozen=True, kw_only=True, rename="kebab"):
    """Of the running attempt, as the last heartbeats say. Complete: each subtask is counted."""

    read_bytes: int
    read_bytes_complete: bool
    write_bytes: int
    write_bytes_complete: bool
    read_records: int
    read_records_complete: bool
    write_records: int
    write_records_complete: bool
    accumulated_backpressured_time: int = 0
    accumulated_idle_time: int = 0
    accumulated_busy_time: float = 0.0


class Vertex(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    slot_sharing_group_id: str = msgspec.field(name="slotSharingGroupId")
    name: str
    max_parallelism: int = msgspec.field(name="maxParallelism")
    parallelism: int
    status: TaskState
    start_time: int = msgspec.field(name="start-time")
    end_time: int = msgspec.field(name="end-time")
    duration: int
    tasks: dict[TaskState, int]
    metrics: VertexMetrics


class PlanInput(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    num: int
    exchange: Literal["log"] = "log"
    ship_strategy: str


class PlanNode(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    operator: str = ""
    parallelism: int
    operator_strategy: str = ""
    description: str
    optimizer_properties: dict[str, str] = {}
    inputs: tuple[PlanInput, ...] | msgspec.UnsetType = msgspec.UNSET
    """Not there: it is a source."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    jid: str
    name: str
    type: Literal["STREAMING"] = "STREAMING"
    nodes: tuple[PlanNode, ...]


class JobDetails(msgspec.Struct, frozen=True, kw_only=True):
    """From ``fingerprint`` on, Flink has no such fields."""

    jid: str
    name: str
    is_stoppable: bool = msgspec.field(name="isStoppable")
    state: JobStatus
    job_type: Literal["STREAMING"] = msgspec.field(name="job-type", default="STREAMING")
    start_time: int = msgspec.field(name="start-time")
    end_time: int = msgspec.field(name="end-time")
    duration: int
    max_parallelism: int = msgspec.field(name="maxParallelism")
    now: int
    timestamps: dict[str, int]
    """When the job last entered each status, as far as this leader knows; 0: never."""
    vertices: tuple[Vertex, ...]
    status_counts: dict[TaskState, int] = msgspec.field(name="status-counts")
    plan: Plan
    pending_operators: int = msgspec.field(name="pending-operators", default=0)
    fingerprint: str
    attempt: int
    vertex_attempts: Mapping[VertexId, int] = msgspec.field(name="vertex-attempts")
    """In which each vertex was started: not in the last one, if it went on while others restarted."""
    waiting_for: str | None = msgspec.field(name="waiting-for")
    failure: str | None
    unreadable_checkpoints: tuple[int, ...] = msgspec.field(name="unreadable-checkpoints")


class ExecutionConfig(msgspec.Struct, frozen=True, kw_only=True, rename="kebab"):
    restart_strategy: str
    job_parallelism: int
    object_reuse_mode: bool = False
    user_config: dict[str, str]


class JobConfig(msgspec.Struct, frozen=True, kw_only=True, rename="kebab"):
    jid: str
    name: str
    execution_config: ExecutionConfig


UNLIMITED_ATTEMPTS = 2**31 - 1
"""As Flink shows that there is no limit."""


def jobs(view: ClusterView) -> Jobs:
    return Jobs(tuple(JobIdWithStatus(id=job.job, status=job.status) for job in view.jobs))


def jobs_overview(view: ClusterView) -> JobsOverview:
    return JobsOverview(tuple(_job_overview(job) for job in view.jobs))


def _job_overview(job: JobView) -> JobOverview:
    counts = _total(_state_counts(job))
    start_ms, end_ms, duration_ms = _span(job)
    return JobOverview(
        jid=job.job,
        name=job.job,
        start_time=start_ms,
        end_time=end_ms,
        duration=duration_ms,
        state=job.status,
        last_modification=max(job.status_since_ms.values()),
        tasks={"total": counts.total(), **{state.lower(): counts[state] for state in _TASK_STATES}},
        waiting_for=job.waiting_for,
        failure=job.failure,
    )


def job_details(job: JobView) -> JobDetails:
    counts_of = _state_counts(job)
    counts = _total(counts_of)
    since = {status.value: since_ms for status, since_ms in job.status_since_ms.items()}
    start_ms, end_ms, duration_ms = _span(job)
    return JobDetails(
        jid=job.job,
        name=job.job,
        is_stoppable=job.graph.checkpoint.enabled,
        state=job.status,
        start_time=start_ms,
        end_time=end_ms,
        duration=duration_ms,
        max_parallelism=job.graph.max_parallelism,
        now=job.now_ms,
        timestamps={state: since.get(state, 0) for state in _JOB_STATES},
        vertices=tuple(_vertex(job, vertex, counts_of[vertex.vertex]) for vertex in job.graph.vertices),
        status_counts={state: counts[state] for state in _TASK_STATES},
        plan=_plan(job),
        fingerprint=job.graph.fingerprint,
        attempt=job.attempt,
        vertex_attempts=job.attempts,
        waiting_for=job.waiting_for,
        failure=job.failure,
        unreadable_checkpoints=job.unreadable,
    )


def job_config(job: JobView) -> JobConfig:
    return JobConfig(
        jid=job.job,
        name=job.job,
        execution_config=ExecutionConfig(
            restart_strategy=_restart_strategy(job.graph.restart),
            job_parallelism=job.graph.slots,
            user_config={"pipeline": job.graph.pipeline_ref},
        ),
    )


def _restart_strategy(config: RestartConfig) -> str:
    attempts = UNLIMITED_ATTEMPTS if config.attempts is None else config.attempts
    match config.strategy:
        case "none":
            return "No restart"
        case "fixed_delay":
            return f"Restart with fixed delay ({config.initial_delay_ms} ms). #{attempts} restart attempts."
        case "failure_rate":
            return (
                f"Failure rate restart with maximum of {attempts} failures within interval"
                f" {config.failure_interval_ms} ms and fixed delay {config.initial_delay_ms} ms."
            )
        case "exponential_delay":
            return (
                f"Restart with exponential delay ({config.initial_delay_ms} to {config.max_delay_ms} ms, factor"
                f" {config.multiplier}, reset after {config.reset_after_ms} ms). #{attempts} restart"
                " attempts."
            )


def _vertex(job: JobView, vertex: JobVertex, counts: Counter[TaskState]) -> Vertex:
    started_ms = job.started_ms.get(vertex.vertex, -1)
    _, ended_ms, _ = _span(job)
    return Vertex(
        id=vertex.vertex,
        slot_sharing_group_id=job.job,
        name=vertex.name,
        max_parallelism=job.graph.max_parallelism,
        parallelism=vertex.parallelism,
        status=_aggregate(counts),
        start_time=started_ms,
        end_time=ended_ms,
        duration=(ended_ms if ended_ms >= 0 else job.now_ms) - started_ms if started_ms >= 0 else -1,
        tasks={state: counts[state] for state in _TASK_STATES},
        metrics=_metrics(job, vertex),
    )


def _metrics(job: JobView, vertex: JobVertex) -> VertexMetrics:
    subtasks = (SubtaskId(vertex.vertex, index) for index in range(vertex.parallelism))
    reported = [job.reported[subtask] for subtask in subtasks if subtask in job.reported]
    is_complete = len(reported) == vertex.parallelism
    return VertexMetrics(
        read_bytes=sum(subtask.bytes_in for subtask in reported),
        read_bytes_complete=is_complete,
        write_bytes=sum(subtask.bytes_out for subtask in reported),
        write_bytes_complete=is_complete,
        read_records=sum(subtask.records_in for subtask in reported),
        read_records_complete=is_complete,
        write_records=sum(subtask.records_out for subtask in reported),
        write_records_complete=is_complete,
    )


def _plan(job: JobView) -> Plan:
    return Plan(jid=job.job, name=job.job, nodes=tuple(_plan_node(job, vertex) for vertex in job.graph.vertices))


def _plan_node(job: JobView, vertex: JobVertex) -> PlanNode:
    exchanges = [job.graph.exchange(name) for name in vertex.inputs]
    return PlanNode(
        id=vertex.vertex,
        parallelism=vertex.parallelism,
        description=" -> ".join(operator.name for operator in vertex.operators),
        inputs=msgspec.UNSET
        if vertex.is_source
        else tuple(
            PlanInput(id=exchange.producer, num=number, ship_strategy=_SHIP_STRATEGIES[exchange.kind])
            for number, exchange in enumerate(exchanges)
        ),
    )


def _span(job: JobView) -> tuple[int, int, int]:
    """Start, end (-1: it goes on) and duration."""
    ended_ms = job.status_since_ms.get(job.status, job.now_ms) if job.status.is_terminal else -1
    return job.submitted_ms, ended_ms, (ended_ms if ended_ms >= 0 else job.now_ms) - job.submitted_ms


def _state_counts(job: JobView) -> dict[VertexId, Counter[TaskState]]:
    """How many subtasks of each vertex are in each of Flink's states, or were when the job ended. Without an attempt
    all are in the one that fits the job, and so is what a worker that was lost has never ended."""
    otherwise = _STATE_WITHOUT_ATTEMPT.get(job.status, "SCHEDULED")
    counts: dict[VertexId, Counter[TaskState]] = {vertex.vertex: Counter() for vertex in job.graph.vertices}
    for view in job.subtasks:
        counts[view.subtask.vertex][view.state.value] += 1
    for ended, states in job.ended_as.items():
        for state, count in states.items():
            counts[ended][state.value if state.has_ended else otherwise] += count
    for vertex in job.graph.vertices:
        if not counts[vertex.vertex]:
            counts[vertex.vertex][otherwise] = vertex.parallelism
    return counts


def _total(counts: Mapping[VertexId, Counter[TaskState]]) -> Counter[TaskState]:
    return sum(counts.values(), Counter[TaskState]())


_STATE_WITHOUT_ATTEMPT: dict[JobStatus, TaskState] = {
    JobStatus.CREATED: "CREATED",
    JobStatus.FINISHED: "FINISHED",
    JobStatus.CANCELLING: "CANCELED",
    JobStatus.CANCELED: "CANCELED",
    JobStatus.FAILING: "FAILED",
    JobStatus.FAILED: "FAILED",
}


def _aggregate(counts: Counter[TaskState]) -> TaskState:
    """The state that describes a whole vertex: the one that is furthest from all being well."""
    order = (
        ExecutionState.FAILED,
        ExecutionState.CANCELED,
        ExecutionState.RECONCILING,
        ExecutionState.DEPLOYING,
        ExecutionState.INITIALIZING,
        ExecutionState.RUNNING,
        ExecutionState.FINISHED,
    )
    return next((state.value for state in order if counts[state.value]), next(iter(counts), "CREATED"))
