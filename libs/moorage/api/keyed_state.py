"""Keyed state: a typed row per key."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

import msgspec


class KeyedContext:
    """What ``process`` may know of a record besides its value. One object, reused for every record: do not keep it."""

    __slots__ = ("_rows", "key", "timestamp_ms")

    def __init__(self) -> None:
        self.key: Any = None
        """The record's key."""
        self.timestamp_ms: int = -1
        """The record's Kafka timestamp."""
        self._rows: MutableMapping[Any, Any] = {}

    def clear(self) -> None:
        """Forget the state of this key: its next record meets a new row with the defaults."""
        self._rows.pop(self.key, None)


class KeyedState(msgspec.Struct, kw_only=True, array_like=True):
    """Base of the state of ``Stream.process``: subclass it, declare typed fields with defaults, write ``process``.

    ``process(self, value, ctx)`` is called for every record with the row of its key. It either yields results (none,
    one or many), or returns one result, or None for none. A result must not be changed afterwards: it may be encoded
    later. Records of a key come one after the other, in order. Fields may hold whatever msgpack can: numbers, str,
    bytes, lists, dicts, Structs, dataclasses; a field that is added later starts with its default on restore.
    """

    def process(self, value: Any, ctx: KeyedContext) -> Any:
        raise NotImplementedError(f"{type(self).__name__} must define process(self, value, ctx)")
