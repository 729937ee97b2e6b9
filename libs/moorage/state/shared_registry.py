"""Which files of earlier checkpoints a checkpoint may refer to (Flink: SharedStateRegistry).

Flink's registry counts: a shared file is deleted when no checkpoint uses it any more. Here the cleaner marks and
sweeps, and its argument rests on one promise (W1 in ``moorage.cleaner``): what a checkpoint refers to was written for
it, or is referred to by the checkpoint that it builds on. The registry holds every acknowledgement against that
promise. So a checkpoint that refers to something which may be gone, or which belongs to a savepoint's owner, is never
completed; and it knows which files of an acknowledgement that nobody wants can be thrown away (docs/decisions/0006).

- A completed checkpoint registers its files, and a file is known until no retained checkpoint uses it.
- A restored checkpoint of the job itself is registered as if it had been completed now.
- A savepoint is restored in one of two modes. CLAIM: what lies in its folder is the job's from then on, and later
  checkpoints may refer to it. NO_CLAIM: it stays its owner's, so the first checkpoint must be full; one that is not is
  refused.
- A leader that did not see the base complete knows nothing of its files, and then the name of a file must do: one of
  this job that was written for a checkpoint up to the base. The next completed checkpoint ends that.
"""

from __future__ import annotations

from collections.abc import Iterable

from moorage.ids import CheckpointId, JobId
from moorage.naming import folder_of, job_prefix, parse_storage_path


class SharedStateRegistry:
    """Of one job. Costs of a call depend on what it is given, but for ``subsumed``."""

    def __init__(self, job: JobId) -> None:
        self._job = job
        self._last_used: dict[str, CheckpointId] = {}
        """Every file of a retained checkpoint -> the newest completed one that refers to it."""
        self._completed: set[CheckpointId] = set()
        """Retained checkpoints whose files are known."""
        self._claimed: str | None = None
        """Files whose paths begin with it are the job's, too."""

    # --- what is known -----------------------------------------------------------------------------------------------

    def claim(self, metadata_path: str) -> None:
        """The job was restored in the mode CLAIM from the savepoint or checkpoint with this ``_metadata``."""
        checkpoint = parse_storage_path(metadata_path)
        self._claimed = f"{folder_of(metadata_path)}/" if checkpoint is None else job_prefix(checkpoint.job)

    def completed(self, checkpoint: CheckpointId, paths: Iterable[str]) -> None:
        """A checkpoint of this job, not a savepoint, is completed, or is restored: it refers to ``paths``."""
        self._completed.add(checkpoint)
        for path in paths:
            self._last_used[path] = max(checkpoint, self._last_used.get(path, checkpoint))

    def subsumed(self, oldest_retained: CheckpointId) -> frozenset[str]:
        """Checkpoints older than that are gone; which files nobody needs any more."""
        self._completed = {checkpoint for checkpoint in self._completed if checkpoint >= oldest_retained}
        gone = frozenset(path for path, last in self._last_used.items() if last < oldest_retained)
        for path in gone:
            del self._last_used[path]
        return gone

    # --- what follows from it ----------------------------------------------------------------------------------------

    def foreign(
        self, paths: Iterable[str], checkpoint: CheckpointId, base: CheckpointId, location: str | None = None
    ) -> list[str]:
        """Those files that ``checkpoint``, which builds on ``base`` (0: on nothing), must not refer to.

        ``location``: the folder of a savepoint, which may refer to nothing outside of it.
        """
        if location is not None:
            return sorted({path for path in paths if not path.startswith(f"{location}/")})
        return sorted({path for path in paths if not self._may_refer(path, checkpoint, base)})

    def unreferenced(self, paths: Iterable[str]) -> list[str]:
        """Those files that no retained checkpoint refers to."""
        return sorted({path for path in paths if path not in self._last_used})

    def __len__(self) -> int:
        """Files that retained checkpoints refer to."""
        return len(self._last_used)

    def _may_refer(self, path: str, checkpoint: CheckpointId, base: CheckpointId) -> bool:
        written = parse_storage_path(path)
        if written is not None and (written.job, written.checkpoint) == (self._job, checkpoint):
            return True
        if base in self._completed:
            return self._last_used.get(path, CheckpointId(0)) >= base
        if self._claimed is not None and path.startswith(self._claimed):
            return True
        return written is not None and written.job == self._job and written.checkpoint <= base

    def validate(self) -> None:
        assert all(last in self._completed for last in self._last_used.values())
