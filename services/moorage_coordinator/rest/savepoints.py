"""/jobs/:job/savepoints, /jobs/:job/stop, /savepoint-disposal."""

from __future__ import annotations

from typing import Literal

import msgspec

from moorage.checkpoint.notices import CheckpointDone
from moorage.cluster.protocol import DisposeSavepointRequested, SavepointRequested, StopWithSavepointRequested
from moorage_coordinator.flink.checkpoints import external_path, internal_path
from moorage_coordinator.flink.operations import OperationInfo, OperationResult, SavepointInfo, TriggerResponse
from moorage_coordinator.rest.endpoints import Call, Endpoint, TriggerId
from moorage_coordinator.rest.operations import Operations, cause_of
from moorage_coordinator.rest.questions import Questions

FormatType = Literal["CANONICAL", "NATIVE"]
_DISPOSALS = "/savepoint-disposal"


class SavepointTrigger(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``target-directory`` null: the job's own folder of savepoints in the checkpoint storage."""

    target_directory: str | None = msgspec.field(name="target-directory", default=None)
    cancel_job: bool = msgspec.field(name="cancel-job", default=False)
    format_type: FormatType = msgspec.field(name="formatType", default="CANONICAL")
    trigger_id: TriggerId | None = msgspec.field(name="triggerId", default=None)


class StopTrigger(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """``drain``: sources end their data first, as if the input had ended for good."""

    target_directory: str | None = None
    drain: bool = False
    format_type: FormatType = "CANONICAL"
    trigger_id: TriggerId | None = None


class Disposal(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    savepoint_path: str


class SavepointsResource:
    def __init__(self, questions: Questions, operations: Operations) -> None:
        self._questions = questions
        self._operations = operations

    def endpoints(self) -> list[Endpoint]:
        return [
            Endpoint(
                "POST",
                "/jobs/{job_id}/savepoints",
                self.trigger,
                TriggerResponse,
                "Take a savepoint; how it goes is told under the id that is answered.",
                status=202,
                body=SavepointTrigger,
                errors=(409,),
            ),
            Endpoint(
                "GET",
                "/jobs/{job_id}/savepoints/{trigger_id}",
                self.status,
                OperationResult[SavepointInfo],
                "How a savepoint goes that was asked for, also one to stop with.",
            ),
            Endpoint(
                "POST",
                "/jobs/{job_id}/stop",
                self.stop,
                TriggerResponse,
                "Stop with a savepoint; how it goes is told at /jobs/{job_id}/savepoints/{trigger_id}.",
                status=202,
                body=StopTrigger,
                errors=(409,),
            ),
            Endpoint(
                "POST",
                _DISPOSALS,
                self.dispose,
                TriggerResponse,
                "Delete a savepoint with its files.",
                status=202,
                body=Disposal,
                body_required=True,
            ),
            Endpoint(
                "GET",
                f"{_DISPOSALS}/{{trigger_id}}",
                self.disposal_status,
                OperationResult[OperationInfo],
                "How a disposal goes.",
            ),
        ]

    async def trigger(self, call: Call) -> TriggerResponse:
        wanted: SavepointTrigger = call.body or SavepointTrigger()
        if wanted.cancel_job:
            return await self._stop(
                call, wanted.trigger_id, wanted.target_directory, wanted.format_type, drain=False, cancel=True
            )
        job = (await self._questions.live_job(call.path["job_id"])).job
        request_id = self._operations.start(
            _operations_of(job),
            wanted.trigger_id,
            lambda number: SavepointRequested(
                request=number,
                job=job,
                location=self._location(wanted.target_directory),
                native=wanted.format_type == "NATIVE",
            ),
        )
        return TriggerResponse(request_id=request_id)

    async def stop(self, call: Call) -> TriggerResponse:
        wanted: StopTrigger = call.body or StopTrigger()
        return await self._stop(
            call, wanted.trigger_id, wanted.target_directory, wanted.format_type, drain=wanted.drain, cancel=False
        )

    async def _stop(
        self, call: Call, trigger_id: str | None, location: str | None, form: FormatType, *, drain: bool, cancel: bool
    ) -> TriggerResponse:
        job = (await self._questions.live_job(call.path["job_id"])).job
        request_id = self._operations.start(
            _operations_of(job),
            trigger_id,
            lambda number: StopWithSavepointRequested(
                request=number,
                job=job,
                location=self._location(location),
                native=form == "NATIVE",
                drain=drain,
                cancel=cancel,
            ),
        )
        return TriggerResponse(request_id=request_id)

    async def status(self, call: Call) -> OperationResult[SavepointInfo]:
        return await self._operations.result(_operations_of(call.path["job_id"]), call.trigger_id, self._info)

    async def dispose(self, call: Call) -> TriggerResponse:
        wanted: Disposal = call.body
        path = internal_path(wanted.savepoint_path, self._questions.storage_url)
        await self._questions.view()  # A standby says so at once.
        request_id = self._operations.start(
            _DISPOSALS, None, lambda number: DisposeSavepointRequested(request=number, path=path)
        )
        return TriggerResponse(request_id=request_id)

    async def disposal_status(self, call: Call) -> OperationResult[OperationInfo]:
        return await self._operations.result(
            _DISPOSALS, call.trigger_id, lambda result: OperationInfo(failure_cause=cause_of(result))
        )

    def _location(self, directory: str | None) -> str | None:
        return None if directory is None else internal_path(directory, self._questions.storage_url)

    def _info(self, result: object) -> SavepointInfo:
        path = result.path if isinstance(result, CheckpointDone) else None
        return SavepointInfo(location=external_path(path, self._questions.storage_url), failure_cause=cause_of(result))


def _operations_of(job: str) -> str:
    return f"/jobs/{job}/savepoints"
