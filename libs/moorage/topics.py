"""The control topics as they are created: by whoever comes first, coordinator, worker or cleaner."""

from __future__ import annotations

from moorage.naming import CLEANUP_TOPIC, CONTROL_TOPICS
from moorage.ports import TopicSpec

_HOUR_MS = 3_600_000
_SEGMENT_BYTES = 16 << 20


def control_topics() -> list[TopicSpec]:
    """One partition each: commands are obeyed in their order. Who was away longer than they are kept asks anew; cleanup
    requests are kept longer, because the cleaner may be."""
    return [
        TopicSpec(
            name,
            1,
            {
                "cleanup.policy": "delete",
                "retention.ms": str(_HOUR_MS * (24 * 7 if name == CLEANUP_TOPIC else 1)),
                "segment.bytes": str(_SEGMENT_BYTES),
            },
        )
        for name in CONTROL_TOPICS
    ]
