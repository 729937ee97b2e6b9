"""How the cleaner goes about it: how old, how often, how fast; it must never compete with checkpoints."""

from __future__ import annotations

import msgspec


class CleanerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of the cleaner. Times in ms."""

    grace_age_ms: int = 600_000
    """A file that nobody has called subsumed or aborted stays until it is so old."""
    prompt_interval_ms: int = 5_000
    """A job is cleaned at most this often, however many messages ask for it."""
    sweep_interval_ms: int = 300_000
    """Every job is cleaned this often without any message, and its manifests are read anew."""
    delete_batch_files: int = 500
    """Files of one delete call."""
    deletes_per_second: int = 2_000
    """Rate limit of deleted files."""
    retry_initial_ms: int = 1_000
    """Pause of a job after an error; doubled with each further one."""
    retry_max_ms: int = 60_000
    ended_job_ttl_ms: int = 3_600_000
    """A job that has ended and of which nothing is kept is shown for so long, then it is purged (Flink:
    jobstore.expiration-time)."""
    purge_hold_ms: int = 30_000
    """Between the last deletion of a purge and the moment when the registry forgets the job."""
    dry_run: bool = False
    """Only log what would go."""

    @property
    def claim_ttl_ms(self) -> int:
        """So long after its last sign of life the jobs of a cleaner go to another one: who works keeps its own."""
        return 2 * self.sweep_interval_ms

    def retry_pause_ms(self, failures: int) -> int:
        """How long a job is left alone after so many errors in a row."""
        return min(self.retry_max_ms, self.retry_initial_ms << min(failures - 1, 30))

    def delete_pause_ms(self, files: int) -> int:
        """How long the next delete call waits after one of so many files."""
        return -(-1_000 * files // self.deletes_per_second)
