"""Log lines: one for each thing that people want to see, with the ids that belong to it."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from enum import Enum

import msgspec

from moorage.checkpoint.notices import (
    CheckpointAborted,
    HooksNotClosed,
    OperatorCoordinatorNotClosed,
    SavepointNotDeleted,
)
from moorage.checkpoint.stats import CheckpointStats
from moorage.cluster.protocol import (
    AttemptFailed,
    CheckpointUnreadable,
    JobRebuilt,
    JobUnknown,
    JobWaiting,
    LogReachability,
    MessageDropped,
    SinksCommitted,
    WorkerGone,
)
from moorage.coordinator_process.process import MalformedMessage, MessageLost
from moorage.effects import CallRepeated, Notice

Scalar = bool | int | float | str

_LEVELS: dict[type[Notice], int] = {
    AttemptFailed: logging.ERROR,
    CheckpointUnreadable: logging.ERROR,
    JobUnknown: logging.ERROR,
    MalformedMessage: logging.ERROR,
    MessageLost: logging.ERROR,
    CallRepeated: logging.WARNING,
    CheckpointAborted: logging.WARNING,
    SavepointNotDeleted: logging.WARNING,
    HooksNotClosed: logging.WARNING,
    OperatorCoordinatorNotClosed: logging.WARNING,
    JobRebuilt: logging.WARNING,
    LogReachability: logging.WARNING,
    JobWaiting: logging.WARNING,
    WorkerGone: logging.WARNING,
    MessageDropped: logging.DEBUG,
    SinksCommitted: logging.DEBUG,
}
"""All others are INFO."""

_WORD_START = re.compile(r"(?<=[a-z])(?=[A-Z])")


class Journal:
    """Every line carries its parts for the JSON form (``moorage_service.logs``): ``event`` and ``fields``."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger

    def notice(self, notice: Notice) -> None:
        level = _LEVELS.get(type(notice), logging.INFO)
        if not self._logger.isEnabledFor(level):
            return
        event, parts = event_name(notice), fields(notice)
        self._logger.log(level, "%s", _line(event, parts), extra={"event": event, "fields": parts})
        if isinstance(notice, AttemptFailed) and notice.trace:
            self._logger.log(level, "trace of %s/a%d:\n%s", notice.job, notice.attempt, notice.trace.rstrip())


def line(notice: Notice) -> str:
    """``checkpoint completed job=orders attempt=1 checkpoint=5 ...``; text of several words is quoted."""
    return _line(event_name(notice), fields(notice))


def event_name(notice: Notice) -> str:
    return _WORD_START.sub(" ", type(notice).__name__).lower()


def fields(notice: Notice) -> dict[str, Scalar]:
    """What a notice says, flat: of a checkpoint its measures, without those of its tasks."""
    flat: dict[str, Scalar] = {}
    for name in notice.__struct_fields__:
        value = getattr(notice, name)
        if isinstance(value, CheckpointStats):
            flat |= _measures(value)
        elif value is not None and name != "trace":
            flat[name] = _scalar(value)
    return flat


def _measures(stats: CheckpointStats) -> dict[str, Scalar]:
    return {
        "kind": stats.options.kind.value,
        "subtasks": stats.subtasks,
        "acknowledged": stats.acknowledged,
        "duration_ms": stats.duration_ms,
        **msgspec.structs.asdict(stats.metrics),
        **_participants(stats),
    }


def _participants(stats: CheckpointStats) -> dict[str, Scalar]:
    """Those beside the subtasks, if any, and what came twice or in vain."""
    parts: dict[str, Scalar] = {}
    if stats.hooks is not None and stats.hooks.acknowledged_ms is not None:
        parts |= {"hooks_ms": stats.hooks.duration_ms, "hooks_bytes": stats.hooks.state_bytes}
    if coordinators := stats.coordinators.values():
        parts["coordinators_acknowledged"] = sum(one.acknowledged_ms is not None for one in coordinators)
        parts["coordinators_ms"] = max(one.duration_ms for one in coordinators)
        parts["coordinators_bytes"] = sum(one.state_bytes for one in coordinators)
    counts = msgspec.structs.asdict(stats.acknowledgements)
    return parts | {f"{outcome}_acks": count for outcome, count in counts.items() if count and outcome != "success"}


def _scalar(value: object) -> Scalar:
    if isinstance(value, Enum):
        return value.name.lower()
    return value if isinstance(value, bool | int | float) else str(value)


def _line(event: str, parts: Mapping[str, Scalar]) -> str:
    return " ".join([event, *(f"{name}={_text(value)}" for name, value in parts.items())])


def _text(value: Scalar) -> str:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return text if re.fullmatch(r"[^\s\"=]+", text) else msgspec.json.encode(text).decode()
