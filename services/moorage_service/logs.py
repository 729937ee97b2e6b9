"""Log lines: text for people, or one JSON object per line."""

from __future__ import annotations

import logging
import sys

import msgspec


class _JsonLines(logging.Formatter):
    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S") + f".{int(record.msecs):03d}",
            "level": record.levelname.lower(),
            "service": self._service,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        # What a log call gave as ``extra={"event": ..., "fields": ...}``: the parts that its message is made of.
        if (event := getattr(record, "event", None)) is not None:
            line["event"] = event
        for name, value in getattr(record, "fields", {}).items():
            line.setdefault(name, value)
        return msgspec.json.encode(line).decode()


def configure_logging(level: str, *, json_lines: bool, service: str) -> None:
    """Everything goes to standard error, once."""
    handler = logging.StreamHandler(sys.stderr)
    if json_lines:
        handler.setFormatter(_JsonLines(service))
    else:
        handler.setFormatter(
            logging.Formatter(f"%(asctime)s.%(msecs)03d %(levelname)-7s {service} %(message)s", "%H:%M:%S")
        )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for chatty in ("uvicorn.access", "httpx", "httpcore"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
