"""What `moorage registry rebuild` does, on the settings of the services."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from contextlib import closing

from moorage.config import RedisSettings, StorageSettings, load
from moorage.coordinator_process.rebuild import rebuild_job
from moorage.effects import JobHistory, RebuildJob
from moorage.errors import MoorageError, StaleAttemptError
from moorage.ids import Attempt, JobId
from moorage.ports import CheckpointStorage, Registry
from moorage_service.wiring import present_checkpoint_storage, redis_registry

_LEASE_MS = 60_000


class NotRebuiltError(MoorageError):
    """The job can't be brought back, or needs not to be."""


def rebuild_registry(environ: Mapping[str, str], job: JobId) -> JobHistory:
    """NotRebuiltError says why it was not done."""
    storage = present_checkpoint_storage(load(StorageSettings, environ))
    with closing(redis_registry(load(RedisSettings, environ))) as registry:
        return rebuild_under_lease(registry, storage, job)


def rebuild_under_lease(registry: Registry, storage: CheckpointStorage, job: JobId) -> JobHistory:
    """*Blocking.* As a leader for a moment, so that no coordinator does the same or starts jobs meanwhile."""
    holder = f"{socket.gethostname()}/registry-rebuild-{os.getpid()}"
    lease = registry.acquire_lease(holder, _LEASE_MS)
    if lease is None:
        leader = registry.lease()
        who = "another process" if leader is None else leader.holder
        raise NotRebuiltError(
            f"{who} leads: a coordinator brings back by itself the jobs that workers run; for others stop it first"
        )
    try:
        history = rebuild_job(registry, storage, RebuildJob(epoch=lease.epoch, job=job, running=Attempt(0)))
    except StaleAttemptError:
        raise NotRebuiltError(f"the registry knows job {job}: there is nothing to bring back") from None
    finally:
        registry.release_lease(holder, lease.epoch)
    if history is None:
        raise NotRebuiltError(f"the storage holds no checkpoint of job {job} that is whole")
    return history
