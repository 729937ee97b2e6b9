"""How much of the merged files is still in use, so that a file does not stay for the sake of little.

A merged file goes when no checkpoint refers to any of its segments, so one that is needed for long would keep all of
it. When less than one part in ``amplification`` of a file is in use, the subtasks that still use it write that anew
with their next checkpoints (Flink: state.checkpoints.file-merging.max-space-amplification). The cost is bounded: what
is written anew is less than what has become garbage since.

In use is what the newest acknowledgements of this worker's subtasks refer to. Of files that this worker did not write
it does not know how large they are, nor who else uses them; they are written anew after a restore, bit by bit.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from moorage.ids import Attempt, JobId, SubtaskId
from moorage.state.handles import SegmentHandle, StreamHandle

_REMEMBERED = 1_000
"""Files that nobody has referred to yet, or any more."""


class SpaceUser(NamedTuple):
    """A subtask of an attempt."""

    job: JobId
    attempt: Attempt
    subtask: SubtaskId


class MergedSpace:
    """Of one worker. Nobody but the loop touches it."""

    def __init__(self, amplification: int) -> None:
        self._amplification = amplification
        self._size_bytes: dict[str, int] = {}
        """Of files that this worker has written."""
        self._used: dict[SpaceUser, dict[str, int]] = {}
        self._used_bytes: dict[str, int] = {}
        """By file, of all users."""

    def written(self, path: str, size_bytes: int) -> None:
        self._size_bytes[path] = size_bytes
        if len(self._size_bytes) > len(self._used_bytes) + _REMEMBERED:
            unused = [path for path in self._size_bytes if path not in self._used_bytes]
            for path in unused[: _REMEMBERED // 2]:
                del self._size_bytes[path]

    def uses(self, user: SpaceUser, streams: Iterable[StreamHandle]) -> None:
        """This is all that a subtask refers to now."""
        used: dict[str, int] = {}
        for segment in {stream for stream in streams if isinstance(stream, SegmentHandle)}:
            used[segment.path] = used.get(segment.path, 0) + segment.size_bytes
        self._subtract(self._used.pop(user, {}))
        if used:
            self._used[user] = used
        for path, size_bytes in used.items():
            self._used_bytes[path] = self._used_bytes.get(path, 0) + size_bytes

    def _subtract(self, former: dict[str, int]) -> None:
        for path, size_bytes in former.items():
            self._used_bytes[path] -= size_bytes
            if self._used_bytes[path] == 0:
                del self._used_bytes[path]

    def left(self, job: JobId, attempt: Attempt) -> None:
        """No subtask of the attempt is here any more."""
        for user in [user for user in self._used if (user.job, user.attempt) == (job, attempt)]:
            self._subtract(self._used.pop(user))

    def is_sparse(self, stream: StreamHandle, used_bytes: int) -> bool:
        """``backends.keyed.IsSparse``: of the stream itself the subtask that asks still uses ``used_bytes``."""
        if used_bytes * self._amplification < stream.size_bytes:
            return True
        if not isinstance(stream, SegmentHandle):
            return False
        if stream.path not in self._size_bytes:
            return True
        return self._used_bytes.get(stream.path, 0) * self._amplification < self._size_bytes[stream.path]
