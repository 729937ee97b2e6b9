"""/jobs/:job/checkpoints and what is below."""

from __future__ import annotations

from typing import Literal

import msgspec

from moorage.checkpoint.notices import CheckpointDone, CheckpointFailed
from moorage.checkpoint.stats import CheckpointStats
from moorage.cluster.protocol import CheckpointRequested
from moorage.cluster.views import JobView
from moorage.ids import JobId
from moorage_coordinator.flink import checkpoint_shapes as shapes
from moorage_coordinator.flink import checkpoints as flink
from moorage_coordinator.flink.operations import CheckpointInfo, OperationResult, TriggerResponse
from moorage_coordinator.rest.endpoints import Call, Endpoint, RestError, TriggerId
from moorage_coordinator.rest.operations import Operations, cause_of
from moorage_coordinator.rest.questions import Questions


class CheckpointTrigger(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """``checkpoint_type``: FULL refers to no file of an earlier checkpoint, the other two are what the job takes
    periodically. ``trigger_id``: 32 hex digits that the client chose; with the same one it happens once."""

    checkpoint_type: Literal["CONFIGURED", "INCREMENTAL", "FULL"] = "CONFIGURED"
    trigger_id: TriggerId | None = None


class CheckpointsResource:
    def __init__(self, questions: Questions, operations: Operations) -> None:
        self._questions = questions
        self._operations = operations

    def endpoints(self) -> list[Endpoint]:
        base = "/jobs/{job_id}/checkpoints"
        return [
            Endpoint(
                "GET",
                base,
                self.statistics,
                shapes.CheckpointingStatistics,
                "Counts, summary, latest ones and history.",
            ),
            Endpoint(
                "POST",
                base,
                self.trigger,
                TriggerResponse,
                "Take a checkpoint now; how it goes is told under the id that is answered.",
                status=202,
                body=CheckpointTrigger,
                errors=(409,),
            ),
            Endpoint("GET", f"{base}/config", self.config, shapes.CheckpointingConfig, "How checkpoints are taken."),
            Endpoint(
                "GET",
                f"{base}/details/{{checkpoint_id}}",
                self.details,
                shapes.AnyCheckpoint,
                "A checkpoint of the history with its vertices.",
            ),
            Endpoint(
                "GET",
                f"{base}/details/{{checkpoint_id}}/subtasks/{{vertex_id}}",
                self.subtasks,
                shapes.TaskCheckpointDetails,
                "A vertex in a checkpoint with its subtasks.",
            ),
            Endpoint(
                "GET",
                f"{base}/{{trigger_id}}",
                self.status,
                OperationResult[CheckpointInfo],
                "How a checkpoint goes that was asked for.",
            ),
        ]

    async def statistics(self, call: Call) -> shapes.CheckpointingStatistics:
        job = await self._job(call, "Checkpointing has not been enabled.")
        return flink.checkpointing_statistics(job.checkpoints, self._questions.storage_url)

    async def config(self, call: Call) -> shapes.CheckpointingConfig:
        job = await self._job(call, f"Checkpointing is not enabled for this job ({call.path['job_id']}).")
        return flink.checkpointing_config(job.graph.checkpoint, job.graph.state.backend, self._questions.storage_url)

    async def details(self, call: Call) -> shapes.AnyCheckpoint:
        return flink.checkpoint(await self._find(call), self._questions.storage_url, with_tasks=True)

    async def subtasks(self, call: Call) -> shapes.TaskCheckpointDetails:
        stats, vertex = await self._find(call), call.path["vertex_id"]
        task = next((task for task in stats.tasks if task.vertex == vertex), None)
        if task is None or task.details is None:
            raise RestError(404, f"nothing is known of the subtasks of {vertex} in checkpoint {stats.checkpoint}")
        return flink.task_details(stats, task, task.details)

    async def trigger(self, call: Call) -> TriggerResponse:
        wanted: CheckpointTrigger = call.body or CheckpointTrigger()
        job = JobId((await self._questions.live_job(call.path["job_id"])).job)
        full = wanted.checkpoint_type == "FULL"
        request_id = self._operations.start(
            _operations_of(job), wanted.trigger_id, lambda number: CheckpointRequested(number, job, full)
        )
        return TriggerResponse(request_id=request_id)

    async def status(self, call: Call) -> OperationResult[CheckpointInfo]:
        return await self._operations.result(_operations_of(call.path["job_id"]), call.trigger_id, _info)

    async def _job(self, call: Call, deactivated: str) -> JobView:
        """``deactivated``: what is answered for a job without checkpointing, in Flink's words."""
        job = await self._questions.job(call.path["job_id"])
        if not job.graph.checkpoint.enabled:
            raise RestError(404, deactivated)
        return job

    async def _find(self, call: Call) -> CheckpointStats:
        number = call.number("checkpoint_id")
        job = await self._job(call, f"Checkpointing was not enabled for job {call.path['job_id']}.")
        stats = job.checkpoints.find(number)
        if stats is None:
            raise RestError(404, f"checkpoint {number} is not in the history of job {job.job}")
        return stats


def _operations_of(job: str) -> str:
    return f"/jobs/{job}/checkpoints"


def _info(result: object) -> CheckpointInfo:
    match result:
        case CheckpointDone(checkpoint=checkpoint) | CheckpointFailed(checkpoint=checkpoint):
            return CheckpointInfo(checkpoint_id=checkpoint, failure_cause=cause_of(result))
        case _:
            return CheckpointInfo(checkpoint_id=None, failure_cause=cause_of(result))
