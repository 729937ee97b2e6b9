"""States besides the row: values, lists, maps and sums that belong to a key and are stored entry by entry.

::

    class Basket(mo.KeyedState):
        orders: int = 0
        items: mo.MapState[str, int] = mo.MapState()
        recent: mo.ListState[Order] = mo.ListState(ttl=mo.Ttl(after_ms=3_600_000))
        total: mo.ReducingState[float] = mo.ReducingState(operator.add)

What stands in the class declares a state; every row has its own, bound to its key. A checkpoint stores the entries that
changed, so a map may be large: nothing writes it whole. Rows that were not made by a backend (in your own tests, say)
have states too, which are just kept in memory.

What a state returns may be changed in place where its type can be changed (a list, a Struct that is not frozen): such a
read counts as a write. Flink: ValueState, ListState, MapState, ReducingState, StateTtlConfig.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, MutableMapping
from typing import Any, Generic, Literal, Protocol, TypeVar, cast, get_args, get_origin, get_type_hints

import msgspec
from msgspec import inspect

from moorage.errors import PipelineError

K = TypeVar("K")
V = TypeVar("V")


_MISSING: Any = object()
"""There is no such entry."""


class Ttl(msgspec.Struct, frozen=True, kw_only=True):
    """Time to live of a state's entries; every entry of a list or map has its own (Flink: StateTtlConfig).

    An entry that is over is gone for whoever reads it, and is left out when its key group is written in full.
    """

    after_ms: int
    update: Literal["on_write", "on_read_and_write"] = "on_write"
    """What begins the time anew (Flink: UpdateType)."""
    visibility: Literal["never_expired", "until_cleaned_up"] = "never_expired"
    """Whether an entry that is over may be returned once more (Flink: StateVisibility)."""
    time: Literal["processing", "record"] = "processing"
    """Whose time passes: the worker's clock, or the timestamps of the key's own records."""

    def __post_init__(self) -> None:
        if type(self.after_ms) is not int or self.after_ms <= 0:
            raise PipelineError(f"Ttl(after_ms={self.after_ms!r}): it must be a whole number of ms, more than 0")
        for name, allowed in _TTL_CHOICES.items():
            if getattr(self, name) not in allowed:
                raise PipelineError(
                    f"Ttl({name}={getattr(self, name)!r}): it must be one of {', '.join(map(repr, allowed))}"
                )


_TTL_CHOICES = {name: get_args(hint) for name, hint in get_type_hints(Ttl).items() if get_origin(hint) is Literal}


class StateTime(Protocol):
    """What time it is for the record at hand."""

    timestamp_ms: int
    processing_ms: int


class Changes(Protocol):
    def add(self, change: tuple[Any, Any], /) -> None:
        """Key and entry: the entry was put, removed, or handed out to be changed.

        Clearing reports the entries of a dict only; other mappings of a backend notice that they are cleared.
        """


class _Unbound:
    """Time and changes of states that belong to no backend."""

    timestamp_ms = 0
    processing_ms = 0

    def add(self, change: tuple[Any, Any], /) -> None:
        """Nobody asks."""


_UNBOUND = _Unbound()


class StateTable:
    """What the states of one name in one key group share; backends make them and take ``changed``."""

    __slots__ = ("changed", "mutable", "time", "ttl")

    def __init__(self, ttl: Ttl | None, mutable: bool, time: StateTime, changed: Changes) -> None:
        self.ttl = ttl
        self.mutable = mutable
        """Values can be changed in place."""
        self.time = time
        self.changed = changed

    def expired(self, stored: Any) -> bool:
        """Whether what is stored under an entry is over."""
        return self.ttl is not None and bool(stored[1] + self.ttl.after_ms <= self.now_ms())

    def now_ms(self) -> int:
        if self.ttl is not None and self.ttl.time == "record":
            return self.time.timestamp_ms
        return self.time.processing_ms


class State:
    """A state of one key. ``_entries`` is what a backend keeps: entry -> value, or (value, ms) where there is a ttl."""

    __slots__ = ("_entries", "_key", "_table")

    def __init__(self, *, ttl: Ttl | None = None) -> None:
        if not isinstance(ttl, Ttl | None):
            raise PipelineError(f"{type(self).__name__}(ttl={ttl!r}): it must be a moorage.Ttl")
        self._key: Any = None
        self._entries: MutableMapping[Any, Any] = {}
        self._table = StateTable(ttl, False, _UNBOUND, _UNBOUND)

    def fresh(self) -> Any:
        """Another state of the same declaration."""
        return type(self)(ttl=self._table.ttl)

    def bind(self, key: Any, entries: MutableMapping[Any, Any], table: StateTable) -> None:
        """For backends: from now on this is the state of ``key``."""
        self._key = key
        self._entries = entries
        self._table = table

    def __bool__(self) -> bool:
        return any(True for _ in self._live())

    def __repr__(self) -> str:
        shown = repr([(entry, value) for entry, value in self._live()])
        return f"{type(self).__name__}({shown:.200})"

    def clear(self) -> None:
        """Remove every entry."""
        if isinstance(self._entries, dict):
            # Any other mapping knows itself that it was cleared, and may be too large to be listed.
            add, key = self._table.changed.add, self._key
            for entry in self._entries:
                add((key, entry))
        self._entries.clear()

    # --- for the kinds -----------------------------------------------------------------------------------------------

    def _get(self, entry: Any) -> Any:
        stored = self._entries.get(entry, _MISSING)
        return stored if stored is _MISSING else self._seen(entry, stored)

    def _seen(self, entry: Any, stored: Any) -> Any:
        """The value of an entry that user code gets to see; _MISSING when its time is over."""
        table = self._table
        ttl = table.ttl
        if ttl is None:
            if table.mutable:
                table.changed.add((self._key, entry))
            return stored
        value, _ = stored
        if table.expired(stored):
            self._remove(entry)
            return value if ttl.visibility == "until_cleaned_up" else _MISSING
        if ttl.update == "on_read_and_write":
            self._put(entry, value)
        elif table.mutable:
            table.changed.add((self._key, entry))
        return value

    def _put(self, entry: Any, value: Any) -> None:
        table = self._table
        table.changed.add((self._key, entry))
        self._entries[entry] = value if table.ttl is None else (value, table.now_ms())

    def _remove(self, entry: Any) -> None:
        self._table.changed.add((self._key, entry))
        self._entries.pop(entry, None)

    def _live(self) -> Iterator[tuple[Any, Any]]:
        """Entry and value of all that are not over, without counting as read."""
        if self._table.ttl is None:
            return iter(self._entries.items())
        expired = self._table.expired
        return ((entry, stored[0]) for entry, stored in self._entries.items() if not expired(stored))


class ValueState(State, Generic[V]):
    """One value, or none."""

    __slots__ = ()

    def get(self, default: Any = None) -> V | Any:
        value = self._get(None)
        return default if value is _MISSING else value

    def set(self, value: V) -> None:
        self._put(None, value)


class ReducingState(State, Generic[V]):
    """Everything that was added, as one value: ``reduce(value, added)``."""

    __slots__ = ("_reduce",)

    def __init__(self, reduce: Callable[[V, V], V], *, ttl: Ttl | None = None) -> None:
        super().__init__(ttl=ttl)
        if not callable(reduce):
            raise PipelineError(f"ReducingState({reduce!r}): expected a function of two values")
        self._reduce = reduce

    def fresh(self) -> Any:
        return type(self)(self._reduce, ttl=self._table.ttl)

    def get(self, default: Any = None) -> V | Any:
        value = self._get(None)
        return default if value is _MISSING else value

    def add(self, value: V) -> None:
        former = self._get(None)
        self._put(None, value if former is _MISSING else self._reduce(former, value))


class ListState(State, Generic[V]):
    """Values in the order in which they were appended."""

    __slots__ = ()

    def append(self, value: V) -> None:
        self._put(self._end(), value)

    def extend(self, values: Iterable[V]) -> None:
        for index, value in enumerate(values, self._end()):
            self._put(index, value)

    def replace(self, values: Iterable[V]) -> None:
        """Forget what there is, keep these (Flink: update)."""
        values = list(values)
        self.clear()
        self.extend(values)

    def _end(self) -> int:
        return next(reversed(cast("dict[int, Any]", self._entries)), -1) + 1

    def __iter__(self) -> Iterator[V]:
        for entry, stored in list(self._entries.items()):
            value = self._seen(entry, stored)
            if value is not _MISSING:
                yield value

    def __len__(self) -> int:
        return len(self._entries) if self._table.ttl is None else sum(1 for _ in self._live())


class MapState(State, MutableMapping[K, V]):
    """A mapping; keys must be hashable and are stored each by itself."""

    __slots__ = ()

    def __getitem__(self, key: K) -> V:
        value = self._get(key)
        if value is _MISSING:
            raise KeyError(key)
        return cast("V", value)

    def __setitem__(self, key: K, value: V) -> None:
        self._put(key, value)

    def __delitem__(self, key: K) -> None:
        if key not in self:
            raise KeyError(key)
        self._remove(key)

    def __contains__(self, key: object) -> bool:
        stored = self._entries.get(key, _MISSING)
        return stored is not _MISSING and not self._table.expired(stored)

    def __iter__(self) -> Iterator[K]:
        return iter([entry for entry, _ in self._live()])

    def __len__(self) -> int:
        return len(self._entries) if self._table.ttl is None else sum(1 for _ in self._live())


class StateField(msgspec.Struct, frozen=True, kw_only=True):
    """A state as a KeyedState class declares it."""

    name: str
    kind: Literal["value", "reducing", "list", "map"]
    entry_type: Any
    """Type of what tells entries apart: None, the index, the map's key."""
    value_type: Any
    declaration: State

    @property
    def ttl(self) -> Ttl | None:
        return self.declaration._table.ttl  # noqa: SLF001 - declared in this module

    @property
    def stored_type(self) -> Any:
        """Type of what ``State._entries`` holds."""
        value: Any = self.value_type
        return value if self.ttl is None else tuple[value, int]

    def table(self, time: StateTime, changed: Changes) -> StateTable:
        return StateTable(self.ttl, is_mutable(self.value_type), time, changed)


_KINDS: dict[type, Literal["value", "reducing", "list", "map"]] = {
    ValueState: "value",
    ReducingState: "reducing",
    ListState: "list",
    MapState: "map",
}


def state_fields(row_type: type[msgspec.Struct]) -> tuple[StateField, ...]:
    """The states that a KeyedState class declares, in its order. PipelineError for one that is declared wrongly."""
    declared: dict[str, State] = getattr(row_type, "__states__", {})
    found = []
    for field in msgspec.structs.fields(row_type):
        kind = _KINDS.get(get_origin(field.type) or field.type)
        declaration = declared.get(field.name)
        if kind is None and declaration is None:
            continue
        what = f"{row_type.__name__}.{field.name}"
        if kind is None or declaration is None or _KINDS.get(type(declaration)) != kind:
            raise PipelineError(f"{what}: a state is declared as `{field.name}: MapState[str, int] = MapState()`")
        arguments = get_args(field.type) or (Any,) * (2 if kind == "map" else 1)
        entry_type = {"list": int, "map": arguments[0]}.get(kind, type(None))
        for part in arguments:
            try:
                msgspec.msgpack.Decoder(part)
            except (TypeError, NameError) as error:
                raise PipelineError(f"{what}: {part} can't be stored: {error}") from error
        found.append(
            StateField(
                name=field.name,
                kind=kind,
                entry_type=entry_type,
                value_type=arguments[-1],
                declaration=declaration,
            )
        )
    return tuple(found)


def decode_state(kind: Any, stored: object) -> Any:
    """A decoder's ``dec_hook`` for rows: their states are put in place by whoever decodes the row."""
    if (get_origin(kind) or kind) in _KINDS:
        return _PLACEHOLDERS[get_origin(kind) or kind]
    raise NotImplementedError(f"{kind} can't be stored")


def encode_state(value: Any) -> None:
    """An encoder's ``enc_hook`` for rows: their states are stored elsewhere."""
    if not isinstance(value, State):
        raise TypeError(f"Encoding objects of type {type(value).__name__} is unsupported")


_PLACEHOLDERS: dict[Any, State] = {
    ValueState: ValueState(),
    ReducingState: ReducingState(lambda _, added: added),
    ListState: ListState(),
    MapState: MapState(),
}

_IMMUTABLE = (
    inspect.NoneType,
    inspect.BoolType,
    inspect.IntType,
    inspect.FloatType,
    inspect.StrType,
    inspect.BytesType,
    inspect.DateTimeType,
    inspect.DateType,
    inspect.TimeType,
    inspect.TimeDeltaType,
    inspect.UUIDType,
    inspect.DecimalType,
    inspect.EnumType,
    inspect.LiteralType,
    inspect.RawType,
)


def is_mutable(value_type: Any) -> bool:
    """Whether a value of the type could be changed in place; yes, where that is not known."""
    return _mutable(inspect.type_info(value_type))


def _mutable(info: inspect.Type) -> bool:
    match info:
        case inspect.UnionType(types=types):
            return any(map(_mutable, types))
        case inspect.TupleType(item_types=items):
            return any(map(_mutable, items))
        case inspect.VarTupleType(item_type=item) | inspect.FrozenSetType(item_type=item):
            return _mutable(item)
        case inspect.StructType(cls=cls, fields=fields):
            return not cls.__struct_config__.frozen or any(_mutable(field.type) for field in fields)
        case _:
            return not isinstance(info, _IMMUTABLE)
