"""What the cleaner tells those who watch it."""

from __future__ import annotations

from moorage.cleaner.classify import Verdict
from moorage.ids import JobId


class CleanerObserver:
    """Does nothing; metrics and tests override what they want to see. Called from the cleaner's loop."""

    def files_deleted(self, verdict: Verdict, files: int, size_bytes: int) -> None:
        """One delete call is done."""

    def log_trimmed(self, offsets: int, size_bytes: int) -> None:
        """So many offsets of a job's exchange logs went, of about this size."""

    def topics_deleted(self, topics: int) -> None:
        """Of a purged job."""

    def backlog_changed(self, files: int, size_bytes: int, oldest_ms: int | None) -> None:
        """What was found to go and is still there; ``oldest_ms``: wall-clock time of the oldest such file."""

    def job_cleaned(self, job: JobId, duration_ms: int) -> None:
        """A job was cleaned without an error."""

    def all_swept(self, wall_ms: int) -> None:
        """Since then every job was listed and its manifests were read anew."""

    def job_failed(self, job: JobId, error: Exception) -> None:
        """The job is left alone for a while; nothing that counts was deleted."""

    def uploads_failed(self, job: JobId, error: Exception) -> None:
        """Unfinished uploads of the job could not be listed or aborted; everything else of it is cleaned."""

    def failed(self, error: Exception) -> None:
        """Registry or log do not answer, so no job could be looked at."""

    def message_rejected(self, error: Exception) -> None:
        """A message of the cleanup topic can't be read; it is skipped."""
