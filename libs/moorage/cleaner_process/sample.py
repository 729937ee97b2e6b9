"""How large the frames are that a log is about to lose. Kafka deletes records by offset and tells no bytes."""

from __future__ import annotations

from collections.abc import Mapping

from moorage.cleaner_process.runs import Run, pause
from moorage.errors import OffsetOutOfRangeError
from moorage.ids import TopicPartition
from moorage.ports import Log

_FRAMES = 16
_WAIT_MS = 20
_WAITS_MAX = 25


def sampled_bytes(log: Log, cuts: Mapping[TopicPartition, tuple[int, int]]) -> Run[float]:
    """Mean size of some frames of the partition that loses most; 0 if none could be read in time. A figure for people:
    reading everything that goes would cost as much as having processed it."""
    partition = max(cuts, key=lambda partition: cuts[partition][1] - cuts[partition][0])
    start, end = cuts[partition]
    reader = log.reader("sample")
    try:
        reader.assign({partition: start})
        for _ in range(_WAITS_MAX):
            frames = [message for message in reader.poll(_FRAMES) if message.offset < end]
            if frames:
                return sum(len(frame.value) for frame in frames) / len(frames)
            yield from pause(_WAIT_MS)
    except OffsetOutOfRangeError:
        pass  # Another cleaner has cut it.
    finally:
        reader.close()
    return 0.0
