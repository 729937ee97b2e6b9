"""Rows of a KeyedState class as they are stored, and how a class whose fields changed reads them.

A row is the array of its fields in the class's order, nil where a field is a state: those are stored entry by entry.
Beside the rows stands the schema of the class that wrote them. Whoever reads finds each field by its name or former
name (``renamed``); a field that is new has its default, one that is gone is skipped.
"""

from __future__ import annotations

import re
from typing import Any, Generic, TypeVar

import msgspec

from moorage.api.keyed_state import renamed_fields
from moorage.api.state import StateField, decode_state, encode_state, state_fields
from moorage.errors import CorruptDataError, StateError
from moorage.serde.type_schema import TypeSchema, key_mismatch, mismatch, schema_of

R = TypeVar("R", bound=msgspec.Struct)

_STATE = ["state"]
"""In place of a field's type."""

_PLACE_IN_ROWS = re.compile(r"\$\[\d+\]\[(\d+)\]")
"""Row and field, where msgspec says what does not fit."""

NEVER_WRITTEN_MS = 1 << 62
"""Time of an entry that was stored before its state had a ttl: it is not over until it is written again."""


class StateSchema(msgspec.Struct, frozen=True, array_like=True):
    """A state beside the row."""

    name: str
    kind: str
    entry: TypeSchema
    value: TypeSchema
    has_ttl: bool


class RowSchema(msgspec.Struct, frozen=True, array_like=True):
    """What a KeyedState class looked like when it was stored."""

    key: TypeSchema
    fields: list[tuple[str, TypeSchema]]
    """All fields, states too: their type is ``["state"]``."""
    states: list[StateSchema]


def _field_mismatch(written: TypeSchema, present: TypeSchema) -> str | None:
    places = tuple("a state" if schema == _STATE else "stored in the row" for schema in (written, present))
    if places[0] != places[1]:
        return "was {} and is {} now".format(*places)
    return None if present == _STATE else mismatch(written, present)


def row_schema(key_type: Any, row_type: type[msgspec.Struct]) -> RowSchema:
    states = {state.name: state for state in state_fields(row_type)}
    return RowSchema(
        schema_of(key_type),
        [
            (field.name, _STATE if field.name in states else schema_of(field.type))
            for field in msgspec.structs.fields(row_type)
        ],
        [
            StateSchema(s.name, s.kind, schema_of(s.entry_type), schema_of(s.value_type), s.ttl is not None)
            for s in states.values()
        ],
    )


class StateReader(msgspec.Struct, frozen=True):
    """How one stored state is read."""

    field: StateField | None
    """None: the class does not have it any more."""
    has_ttl: bool
    """As it was stored."""

    @property
    def stored_type(self) -> Any:
        value: Any = Any if self.field is None else self.field.value_type
        return tuple[value, int] if self.has_ttl else value

    def converted(self, values: list[Any]) -> list[Any]:
        """Values as ``State`` keeps them now."""
        wants_ttl = self.field is not None and self.field.ttl is not None
        if wants_ttl == self.has_ttl:
            return values
        return [(value, NEVER_WRITTEN_MS) for value in values] if wants_ttl else [value for value, _ in values]


class RowReader(Generic[R]):
    """Reads rows that were written with one schema into a class.

    StateError, when it is made, names operator and field whose change can't be read.
    """

    def __init__(self, operator: str, written: RowSchema, key_type: Any, row_type: type[R]) -> None:
        self._operator = operator
        self._row_type = row_type
        try:
            self._places = self._match(written, row_schema(key_type, row_type))
            self.states = self._match_states(written)
        except (TypeError, ValueError, IndexError, KeyError, AttributeError, RecursionError) as error:
            raise CorruptDataError(f"operator {operator!r}: the schema of its rows makes no sense: {error}") from error
        self.in_place = self._places == [*range(len(written.fields))]
        """Rows have the fields of the class in the class's order."""
        rows: Any = list[row_type]  # type: ignore[valid-type]
        self._rows = msgspec.msgpack.Decoder(rows, dec_hook=decode_state)
        self._raw = msgspec.msgpack.Decoder(list[list[msgspec.Raw]])
        self._encoder = msgspec.msgpack.Encoder(enc_hook=encode_state)

    def read(self, data: bytes | msgspec.Raw) -> list[R]:
        """Rows out of their msgpack array. msgspec's errors: they are not what the schema says; a field is named."""
        if self.in_place:
            return self._decode(data)
        defaults = [msgspec.Raw(self._encoder.encode(value)) for value in msgspec.structs.astuple(self._row_type())]
        rows = [
            [defaults[at] if place is None else row[place] for at, place in enumerate(self._places)]
            for row in self._raw.decode(data)
        ]
        return self._decode(self._encoder.encode(rows))

    def _decode(self, data: bytes | msgspec.Raw) -> list[R]:
        try:
            return self._rows.decode(data)  # type: ignore[no-any-return]
        except msgspec.ValidationError as error:
            place = _PLACE_IN_ROWS.search(str(error))
            if place is None:
                raise
            field = msgspec.structs.fields(self._row_type)[int(place[1])].name
            raise msgspec.ValidationError(f"field {field!r}: {error}") from error

    def _match(self, written: RowSchema, present: RowSchema) -> list[int | None]:
        """For each field of the class its place in a stored row."""
        self._refuse("the key", key_mismatch(written.key, present.key))
        renamed = renamed_fields(self._row_type).items()
        stored = {name: place for place, (name, _) in enumerate(written.fields)}
        places: list[int | None] = []
        for name, schema in present.fields:
            names = (name, *(former for former, new in renamed if new == name))
            place = next((stored[one] for one in names if one in stored), None)
            places.append(place)
            if place is not None:
                self._refuse(f"field {name!r}", _field_mismatch(written.fields[place][1], schema))
        return places

    def _match_states(self, written: RowSchema) -> list[StateReader]:
        present = {state.name: state for state in state_fields(self._row_type)}
        renamed = renamed_fields(self._row_type)
        readers = []
        for stored in written.states:
            field = present.get(stored.name) or present.get(renamed.get(stored.name, stored.name))
            if field is not None:
                what = f"state {field.name!r}"
                self._refuse(what, None if stored.kind == field.kind else f"was a {stored.kind}, is a {field.kind} now")
                self._refuse(f"{what}, its keys", mismatch(stored.entry, schema_of(field.entry_type)))
                self._refuse(what, mismatch(stored.value, schema_of(field.value_type)))
            readers.append(StateReader(field, stored.has_ttl))
        return readers

    def _refuse(self, what: str, why: str | None) -> None:
        if why is not None:
            raise StateError(
                f"operator {self._operator!r}: {what} of {self._row_type.__name__} {why}. Give it back its old type,"
                " give the new one another name, or start without this state"
            )


def misfit(operator: str, row_type: type[msgspec.Struct], error: Exception) -> StateError:
    """What to raise when stored rows, or a state of theirs, are not what their schema says."""
    return StateError(
        f"operator {operator!r}: stored rows don't fit {row_type.__name__}: {error}. Give the field back its old type,"
        " or start without this state"
    )


def mistyped(
    operator: str, row_type: type[msgspec.Struct], error: Exception, state: StateField | None = None
) -> StateError:
    """What to raise when what was just written of these rows, or of a state of theirs, can't be read back."""
    where = "" if state is None else f"state {state.name!r}: "
    return StateError(
        f"operator {operator!r}: a value in {row_type.__name__} is not of the type that is declared, and could not be"
        f" restored: {where}{error}. Convert it before it is put into state, or declare what it is"
    )
