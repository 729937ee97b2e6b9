"""What handlers ask the coordinator's loop, and what its refusals are in HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future

from moorage.cluster.protocol import ClientRequest, JobRequested, OverviewRequested, Refusal, Refused
from moorage.cluster.views import ClusterView, JobView
from moorage.ids import JobId
from moorage_coordinator.desk import RequestDesk
from moorage_coordinator.rest.endpoints import RestError

ANSWER_TIMEOUT_S = 30.0

_STATUS = {
    Refusal.NOT_LEADER: 503,
    Refusal.UNAVAILABLE: 503,
    Refusal.NOT_FOUND: 404,
    Refusal.CONFLICT: 409,
    Refusal.INVALID: 400,
}


class Questions:
    def __init__(self, desk: RequestDesk, storage_url: str) -> None:
        self._desk = desk
        self.storage_url = storage_url

    async def view(self) -> ClusterView:
        view = await self.ask(OverviewRequested)
        assert isinstance(view, ClusterView)
        return view

    async def job(self, job_id: str) -> JobView:
        view = await self.ask(lambda number: JobRequested(number, JobId(job_id)))
        assert isinstance(view, JobView)
        return view

    async def live_job(self, job_id: str) -> JobView:
        """One that has not ended."""
        job = await self.job(job_id)
        if job.status.is_terminal:
            raise RestError(409, f"job {job_id} has ended: it is {job.status.value}")
        return job

    async def ask(self, make: Callable[[int], ClientRequest], timeout_s: float = ANSWER_TIMEOUT_S) -> object:
        """The loop's answer; RestError for a refusal and for silence."""
        try:
            result = await asyncio.wait_for(asyncio.wrap_future(self.start(make)), timeout_s)
        except TimeoutError:
            raise RestError(
                503, f"the coordinator did not answer within {timeout_s:.0f} s; what was asked may still happen"
            ) from None
        if isinstance(result, Refused):
            raise RestError(_STATUS[result.refusal], result.message)
        return result

    def start(self, make: Callable[[int], ClientRequest]) -> Future[object]:
        """For what takes its time."""
        return self._desk.ask(make)
