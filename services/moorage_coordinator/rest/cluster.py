"""/overview, /config, /taskmanagers."""

from __future__ import annotations

import moorage
from moorage_coordinator.flink import cluster as flink
from moorage_coordinator.rest.endpoints import Call, Endpoint, RestError
from moorage_coordinator.rest.questions import Questions

VERSION = f"moorage-{moorage.__version__}"


class ClusterResource:
    def __init__(self, questions: Questions) -> None:
        self._questions = questions

    def endpoints(self) -> list[Endpoint]:
        return [
            Endpoint("GET", "/overview", self.overview, flink.Overview, "Workers, slots and jobs in numbers."),
            Endpoint("GET", "/config", self.config, flink.Configuration, "What a user interface needs to know."),
            Endpoint("GET", "/taskmanagers", self.workers, flink.TaskManagers, "The workers."),
            Endpoint(
                "GET",
                "/taskmanagers/{worker_id:path}",
                self.worker,
                flink.TaskManagerDetails,
                "A worker and its slots.",
            ),
        ]

    async def overview(self, _: Call) -> flink.Overview:
        return flink.overview(await self._questions.view(), VERSION)

    async def config(self, _: Call) -> flink.Configuration:
        return flink.configuration(VERSION)

    async def workers(self, _: Call) -> flink.TaskManagers:
        return flink.task_managers(await self._questions.view())

    async def worker(self, call: Call) -> flink.TaskManagerDetails:
        name = call.path["worker_id"]
        worker = flink.task_manager(await self._questions.view(), name)
        if worker is None:
            raise RestError(404, f"there is no worker {name}")
        return worker
