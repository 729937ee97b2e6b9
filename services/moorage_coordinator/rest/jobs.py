"""/jobs and what is below, but for checkpoints and savepoints."""

from __future__ import annotations

from typing import Annotated

import msgspec

from moorage.checkpoint.notices import CheckpointFailed
from moorage.cluster.protocol import CancelRequested, RescaleRequested, RestoreFrom, SubmitJob
from moorage.graph.job_graph import JobGraph
from moorage.ids import JobId, VertexId
from moorage_coordinator.flink import exceptions as flink_exceptions
from moorage_coordinator.flink import jobs as flink
from moorage_coordinator.flink.checkpoints import internal_path
from moorage_coordinator.rest.endpoints import Call, Empty, Endpoint, Parameter, RestError
from moorage_coordinator.rest.questions import Questions

EXCEPTIONS_SHOWN = 20
RESCALE_TIMEOUT_S = 600.0
"""A checkpoint is taken first."""
Parallelism = Annotated[int, msgspec.Meta(ge=1, le=2**15)]
"""At most Flink's upper bound of the maximum parallelism."""


class Submission(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``graph``: what ``moorage.api`` compiles a pipeline to; ``restore``: what the job starts from."""

    graph: JobGraph
    restore: RestoreFrom | None = None


class Submitted(msgspec.Struct, frozen=True):
    jobid: str


class ParallelismBounds(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """The job runs with the upper bound; the lower one is at most as high."""

    lower_bound: Parallelism = 1
    upper_bound: Parallelism


class VertexRequirements(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Flink: JobVertexResourceRequirements."""

    parallelism: ParallelismBounds


class JobsResource:
    def __init__(self, questions: Questions) -> None:
        self._questions = questions

    def endpoints(self) -> list[Endpoint]:
        mode = Parameter({"enum": ["cancel"], "default": "cancel"}, "The only one is `cancel`.")
        at_most = Parameter({"type": "integer", "minimum": 0, "default": EXCEPTIONS_SHOWN}, "How many, newest first.")
        automatic = Parameter(
            {"type": "boolean", "default": False},
            "Vertices that are not named take as many slots as there are, now and whenever workers join.",
        )
        requirements = dict[str, VertexRequirements]
        return [
            Endpoint("GET", "/jobs", self.jobs, flink.Jobs, "Every job and its status."),
            Endpoint(
                "POST",
                "/jobs",
                self.submit,
                Submitted,
                "Start a job; answered when it is stored.",
                status=201,
                body=Submission,
                body_required=True,
                errors=(409,),
            ),
            Endpoint("GET", "/jobs/overview", self.overview, flink.JobsOverview, "Every job in short."),
            Endpoint("GET", "/jobs/{job_id}", self.job, flink.JobDetails, "A job with its vertices and its plan."),
            Endpoint(
                "PATCH",
                "/jobs/{job_id}",
                self.cancel,
                Empty,
                "End a job for good, without a savepoint; answered when the intent is stored.",
                status=202,
                query={"mode": mode},
                errors=(409,),
            ),
            Endpoint("GET", "/jobs/{job_id}/config", self.config, flink.JobConfig, "A job's configuration."),
            Endpoint(
                "GET",
                "/jobs/{job_id}/exceptions",
                self.exceptions,
                flink_exceptions.Exceptions,
                "Why attempts of a job ended, as far as the present leader has seen it.",
                query={"maxExceptions": at_most},
            ),
            Endpoint(
                "GET",
                "/jobs/{job_id}/resource-requirements",
                self.requirements,
                requirements,
                "The parallelism of each vertex.",
            ),
            Endpoint(
                "PUT",
                "/jobs/{job_id}/resource-requirements",
                self.rescale,
                Empty,
                "Go on from a checkpoint with another parallelism; answered when the new attempt is stored.",
                body=requirements,
                body_required=True,
                query={"automatic": automatic},
                errors=(409,),
            ),
        ]

    async def jobs(self, _: Call) -> flink.Jobs:
        return flink.jobs(await self._questions.view())

    async def overview(self, _: Call) -> flink.JobsOverview:
        return flink.jobs_overview(await self._questions.view())

    async def job(self, call: Call) -> flink.JobDetails:
        job = await self._questions.job(call.path["job_id"])
        return flink.job_details(job)

    async def config(self, call: Call) -> flink.JobConfig:
        job = await self._questions.job(call.path["job_id"])
        return flink.job_config(job)

    async def exceptions(self, call: Call) -> flink_exceptions.Exceptions:
        at_most = call.query_number("maxExceptions")
        job = await self._questions.job(call.path["job_id"])
        return flink_exceptions.exceptions(job, EXCEPTIONS_SHOWN if at_most is None else at_most)

    async def submit(self, call: Call) -> Submitted:
        submission: Submission = call.body
        restore = submission.restore
        if restore is not None:
            path = internal_path(restore.path, self._questions.storage_url)
            restore = msgspec.structs.replace(restore, path=path)
        await self._questions.ask(lambda number: SubmitJob(number, submission.graph, restore))
        return Submitted(submission.graph.job)

    async def cancel(self, call: Call) -> Empty:
        if (mode := call.query.get("mode", "cancel")) != "cancel":
            raise RestError(400, f"mode {mode!r} is not known, only 'cancel' is")
        job = JobId(call.path["job_id"])
        await self._questions.ask(lambda number: CancelRequested(number, job))
        return Empty()

    async def requirements(self, call: Call) -> dict[str, VertexRequirements]:
        job = await self._questions.job(call.path["job_id"])
        return {
            vertex.vertex: VertexRequirements(parallelism=ParallelismBounds(upper_bound=vertex.parallelism))
            for vertex in job.graph.vertices
        }

    async def rescale(self, call: Call) -> Empty:
        body: dict[str, VertexRequirements] = call.body
        for vertex, wanted in body.items():
            bounds = wanted.parallelism
            if bounds.lower_bound > bounds.upper_bound:
                raise RestError(
                    400, f"parallelism of {vertex}: lowerBound {bounds.lower_bound} is above {bounds.upper_bound}"
                )
        job = JobId(call.path["job_id"])
        vertices = {VertexId(vertex): wanted.parallelism.upper_bound for vertex, wanted in body.items()}
        automatic = call.query_flag("automatic")
        result = await self._questions.ask(
            lambda number: RescaleRequested(request=number, job=job, vertices=vertices, automatic=automatic),
            RESCALE_TIMEOUT_S,
        )
        if isinstance(result, CheckpointFailed):
            raise RestError(409, f"there is no checkpoint to go on from: {result.message}")
        return Empty()
