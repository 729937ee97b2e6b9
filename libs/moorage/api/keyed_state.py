"""Keyed state: a typed row per key."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any

import msgspec

from moorage.api.state import State
from moorage.errors import PipelineError


class KeyedContext:
    """What ``process`` may know of a record besides its value. One object, reused for every record: do not keep it."""

    __slots__ = ("_rows", "broadcast", "key", "processing_ms", "timestamp_ms")

    def __init__(self) -> None:
        self.key: Any = None
        """The record's key."""
        self.timestamp_ms: int = -1
        """The record's Kafka timestamp."""
        self.processing_ms: int = 0
        """The worker's clock (ms since 1970) when the record's batch was begun."""
        self.broadcast: Any = None
        """What ``process(..., broadcast=...)`` keeps of the broadcast stream; read it, don't change it."""
        self._rows: MutableMapping[Any, Any] = {}

    def clear(self) -> None:
        """Forget the state of this key: its next record meets a new row with the defaults."""
        self._rows.pop(self.key, None)


class KeyedStateMeta(msgspec.StructMeta):
    """Gives every row of a KeyedState class states of its own, and notes down which fields were renamed."""

    def __new__(
        mcls,
        name: str,
        bases: tuple[type, ...],
        namespace: dict[str, Any],
        renamed: Mapping[str, str] | None = None,
        **config: Any,
    ) -> KeyedStateMeta:
        declared = {field: value for field, value in namespace.items() if isinstance(value, State)}
        for field, declaration in declared.items():
            namespace[field] = msgspec.field(default_factory=declaration.fresh)
        states: dict[str, State] = {}
        names: dict[str, str] = {}
        for base in reversed(bases):
            states |= getattr(base, "__states__", {})
            names |= getattr(base, "__renamed__", {})
        namespace["__states__"] = states | declared
        namespace["__renamed__"] = {**names, **(renamed or {})}
        cls = super().__new__(mcls, name, bases, namespace, **config)
        unknown = [new for new in namespace["__renamed__"].values() if new not in cls.__struct_fields__]
        if unknown:
            raise PipelineError(f"{name}: renamed={renamed!r} names {unknown[0]!r}, which is no field of it")
        both = [former for former in namespace["__renamed__"] if former in cls.__struct_fields__]
        if both:
            raise PipelineError(
                f"{name}: renamed={renamed!r} says that {both[0]!r} has another name now, but it is a field still; of"
                " stored rows nobody could tell whose value it is. Give one of the fields a name that is new"
            )
        return cls


class KeyedState(msgspec.Struct, metaclass=KeyedStateMeta, kw_only=True, array_like=True):
    """Base of the state of ``Stream.process``: subclass it, declare typed fields with defaults, write ``process``.

    ``process(self, value, ctx)`` is called for every record with the row of its key. It either yields results (none,
    one or many), or returns one result, or None for none. A result must not be changed afterwards: it may be encoded
    later. Records of a key come one after the other, in order. Fields may hold whatever msgpack can: numbers, str,
    bytes, lists, dicts, Structs, dataclasses; or they declare a state (``moorage.api.state``), for what grows large.

    Fields may be added (they start with their default), removed, and widened (``int`` to ``float``, ``X`` to
    ``X | None``) while there is state. A field that gets another name says so:
    ``class Totals(mo.KeyedState, renamed={"n": "count"})``. Any other change of a type is refused on restore.
    """

    def process(self, value: Any, ctx: KeyedContext) -> Any:
        raise NotImplementedError(f"{type(self).__name__} must define process(self, value, ctx)")


def renamed_fields(row_type: type[msgspec.Struct]) -> Mapping[str, str]:
    """Former name -> present name, as the class declares it."""
    return dict(getattr(row_type, "__renamed__", {}))
