"""The context of one subtask on the twins, for what is tested without a worker."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.unit.task.harness import EPOCH, SETTINGS, orders_pipeline

import moorage as mo
from moorage.api.compiler import compile_pipeline
from moorage.ids import Attempt, CheckpointId, WorkerId
from moorage.messages.commands import DeployJob
from moorage.messages.events import Event, ExchangeProgress
from moorage.messages.registry import LineageSegment
from moorage.naming import exchange_topic
from moorage.ports import TopicSpec
from moorage.state.operator_state import CheckpointMetadata
from moorage.task.context import TaskContext, TaskSettings
from moorage.task.fates import Fates
from moorage.task.state_writer import StateWriter
from moorage.testing.clocks import ManualClock
from moorage.testing.executor import InlineExecutor
from moorage.testing.memory_log import MemoryCluster, MemoryLog
from moorage.testing.memory_storage import MemoryStorage


@dataclass
class TaskWorld:
    """Everything around a subtask, and what it said."""

    clock: ManualClock = field(default_factory=ManualClock)
    executor: InlineExecutor = field(default_factory=InlineExecutor)
    events: list[Event] = field(default_factory=list)
    published: list[ExchangeProgress] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.cluster = MemoryCluster(self.clock)
        self.log = MemoryLog(self.cluster)
        self.storage = MemoryStorage(self.clock)

    def context(
        self,
        vertex: str,
        *,
        pipeline: mo.Pipeline | None = None,
        subtask: int = 0,
        attempt: int = 1,
        lineage: tuple[LineageSegment, ...] | None = None,
        restored: int | None = None,
        metadata: CheckpointMetadata | None = None,
        settings: TaskSettings = SETTINGS,
        **options: Any,
    ) -> TaskContext:
        compiled = compile_pipeline(pipeline or orders_pipeline(parallelism=1), "tests:pipeline")
        graph = compiled.graph
        self.log.create_topics(
            [TopicSpec(exchange_topic(graph.job, e.exchange), e.partitions, {}) for e in graph.exchanges]
        )
        return TaskContext(
            deploy=DeployJob(
                epoch=EPOCH,
                job=graph.job,
                attempt=Attempt(attempt),
                graph=graph,
                slots=(WorkerId("w/x"),) * graph.slots,
                lineage=lineage or (LineageSegment(Attempt(attempt), None, graph.parallelism()),),
                restore_checkpoint=None if restored is None else CheckpointId(restored),
                restore_path=None,
                restore_checksum=None,
                base_checkpoint_id=CheckpointId(0),
            ),
            vertex=next(v for v in graph.vertices if v.vertex == vertex),
            subtask=subtask,
            worker=WorkerId("w/x"),
            pipeline=compiled,
            log=self.log,
            writer=self.log.writer("frames"),
            storage=self.storage,
            state_writer=StateWriter(
                worker=WorkerId("w/x"),
                storage=self.storage,
                executor=self.executor,
                clock=self.clock,
                limits=settings.state_files,
            ),
            local=None,
            executor=self.executor,
            clock=self.clock,
            fates=Fates(),
            metadata=metadata,
            settings=settings,
            report=self.events.append,
            publish=self.published.append,
            warn=self.warnings.append,
            failpoint=lambda _: None,
            **options,
        )
