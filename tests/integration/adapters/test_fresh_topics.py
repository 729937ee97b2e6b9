"""A topic that was made a moment ago: its partitions get their leaders while the first frames are under way.

With several requests in flight librdkafka lost frames here without an error (see ``adapters/kafka/log.py``).
"""

from __future__ import annotations

import time
from contextlib import closing
from functools import partial

from moorage.adapters.kafka import KafkaLog
from moorage.errors import LogError
from moorage.ids import TopicPartition
from moorage.ports import OffsetSpec, TopicSpec

TOPICS = 6
PARTITIONS = 64
ROUNDS = 30


def _note(confirmed: list[LogError | None], _offset: int, error: LogError | None) -> None:
    confirmed.append(error)


def test_every_confirmed_frame_is_in_the_log(kafka: str) -> None:
    with closing(KafkaLog(kafka, client_id="fresh-topics")) as log:
        for number in range(TOPICS):
            topic = f"fresh-{time.time_ns()}-{number}"
            log.create_topics([TopicSpec(topic, PARTITIONS, {})])
            confirmed: list[LogError | None] = []
            with closing(log.writer(topic)) as writer:
                for _ in range(ROUNDS):
                    for partition in range(PARTITIONS):
                        writer.append(topic, partition, bytes(3_000), partial(_note, confirmed))
                    writer.poll()
                    time.sleep(0.004)
                deadline_s = time.monotonic() + 30
                while len(confirmed) < ROUNDS * PARTITIONS and time.monotonic() < deadline_s:
                    writer.poll()
                    time.sleep(0.01)
            ends = log.offsets([TopicPartition(topic, p) for p in range(PARTITIONS)], OffsetSpec.LATEST)
            assert confirmed == [None] * (ROUNDS * PARTITIONS)
            assert set(ends.values()) == {ROUNDS}
            log.delete_topics([topic])
