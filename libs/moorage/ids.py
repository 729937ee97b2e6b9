"""Types of the identifiers that travel between the parts.

One type per id, so that a checker finds a checkpoint id where an attempt was meant. They are plain ``int`` and ``str``
at run time and cost nothing.
"""

from __future__ import annotations

from typing import NamedTuple, NewType

JobId = NewType("JobId", str)
"""Name of a pipeline; part of every topic, path and key (see ``naming``), so it is restricted to ``[a-z0-9_-]``."""

OperatorUid = NewType("OperatorUid", str)
"""What the user calls an operator; stable over versions of a pipeline, state is found by it."""

OperatorId = NewType("OperatorId", str)
"""32 hex digits: murmur3-128 of the uid, computed as Flink does (``StreamGraphHasherV2``)."""

VertexId = NewType("VertexId", str)
"""A chain of operators that runs as one task: the uid of its first operator."""

ExchangeId = NewType("ExchangeId", str)
"""``<producer vertex>--<consumer vertex>``: a topic between two vertices of a job."""

WorkerId = NewType("WorkerId", str)
"""One incarnation of a worker process: ``<worker name>/<random hex>``. A restarted worker is another WorkerId."""

Epoch = NewType("Epoch", int)
"""Fencing epoch of the coordinator's lease; strictly increasing, 1 is the first."""

Attempt = NewType("Attempt", int)
"""Number of a deployment of a job; strictly increasing over the life of the job, 1 is the first."""

CheckpointId = NewType("CheckpointId", int)
"""Strictly increasing over the life of a job, 1 is the first; 0 means "before the first"."""

KeyGroup = NewType("KeyGroup", int)
"""``crc32(key) % max_parallelism``; the partition of a keyed exchange."""


class TopicPartition(NamedTuple):
    """A partition of a Kafka topic."""

    topic: str
    partition: int


class SubtaskId(NamedTuple):
    """One parallel instance of a vertex."""

    vertex: VertexId
    subtask: int

    def __str__(self) -> str:
        return f"{self.vertex}/{self.subtask}"


def worker_name(worker: WorkerId) -> str:
    """The configured name of the worker, which all its incarnations share."""
    return worker.rpartition("/")[0] or worker
