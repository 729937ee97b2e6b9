"""Log lines: one for each thing that people want to see, with the ids that belong to it."""

from __future__ import annotations

import logging
import re
from enum import Enum

import msgspec

from moorage.checkpoint.notices import CheckpointAborted
from moorage.cluster.protocol import (
    AttemptFailed,
    CheckpointUnreadable,
    JobWaiting,
    LogReachability,
    MessageDropped,
    SinksCommitted,
    WorkerGone,
)
from moorage.coordinator_process.process import MalformedMessage, MessageLost
from moorage.effects import CallRepeated, Notice

_LEVELS: dict[type[Notice], int] = {
    AttemptFailed: logging.ERROR,
    CheckpointUnreadable: logging.ERROR,
    MalformedMessage: logging.ERROR,
    MessageLost: logging.ERROR,
    CallRepeated: logging.WARNING,
    CheckpointAborted: logging.WARNING,
    LogReachability: logging.WARNING,
    JobWaiting: logging.WARNING,
    WorkerGone: logging.WARNING,
    MessageDropped: logging.DEBUG,
    SinksCommitted: logging.DEBUG,
}
"""All others are INFO."""

_WORD_START = re.compile(r"(?<=[a-z])(?=[A-Z])")


class Journal:
    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger

    def notice(self, notice: Notice) -> None:
        level = _LEVELS.get(type(notice), logging.INFO)
        if not self._logger.isEnabledFor(level):
            return
        self._logger.log(level, "%s", line(notice))
        if isinstance(notice, AttemptFailed) and notice.trace:
            self._logger.log(level, "trace of %s/a%d:\n%s", notice.job, notice.attempt, notice.trace.rstrip())


def line(notice: Notice) -> str:
    """``checkpoint completed job=orders attempt=1 checkpoint=5 ...``; text of several words is quoted."""
    event = _WORD_START.sub(" ", type(notice).__name__).lower()
    fields = {name: getattr(notice, name) for name in notice.__struct_fields__ if name != "trace"}
    return " ".join([event, *(f"{name}={_text(value)}" for name, value in fields.items() if value is not None)])


def _text(value: object) -> str:
    if isinstance(value, Enum):
        return value.name.lower()
    text = str(value)
    return text if re.fullmatch(r"[^\s\"=]+", text) else msgspec.json.encode(text).decode()
