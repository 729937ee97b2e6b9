"""Types of stored state as data, and which type can read what another one wrote.

The writer's types travel with every segment of state, so that a pipeline whose types changed either reads what is there
or is refused before it has read anything (Flink: TypeSerializerSnapshot, schema compatibility). A type is
``[kind, ...]``: what msgspec makes of it, reduced to what lies in msgpack.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import inspect

TypeSchema = Sequence[Any]
"""A nested list: ``["int"]``, ``["list", ["str"]]``, ``["struct", name, array_like, tag, fields]`` with fields
``[name, type, required]``, and ``"closed"`` behind them where fields that the class does not have are refused."""

_PLAIN: dict[type[inspect.Type], str] = {
    inspect.AnyType: "any",
    inspect.NoneType: "none",
    inspect.BoolType: "bool",
    inspect.IntType: "int",
    inspect.FloatType: "float",
    inspect.StrType: "str",
    inspect.BytesType: "bytes",
    inspect.ByteArrayType: "bytes",
    inspect.MemoryViewType: "bytes",
    inspect.DateTimeType: "datetime",
    inspect.DateType: "date",
    inspect.TimeType: "time",
    inspect.TimeDeltaType: "timedelta",
    inspect.UUIDType: "uuid",
    inspect.DecimalType: "decimal",
    inspect.ExtType: "ext",
    inspect.RawType: "any",
}


def schema_of(value_type: Any) -> TypeSchema:
    """The schema of a type that msgspec can store."""
    return _schema(inspect.type_info(value_type), ())


def _schema(info: inspect.Type, inside: tuple[str, ...]) -> list[Any]:
    match info:
        case inspect.Metadata(type=annotated):
            return _schema(annotated, inside)
        case inspect.UnionType(types=types):
            return ["union", *sorted((_schema(t, inside) for t in types), key=repr)]
        case inspect.TupleType(item_types=items):
            return ["tuple", *(_schema(t, inside) for t in items)]
        case (
            inspect.ListType(item_type=item)
            | inspect.SetType(item_type=item)
            | inspect.FrozenSetType(item_type=item)
            | inspect.VarTupleType(item_type=item)
        ):
            return ["list", _schema(item, inside)]
        case inspect.DictType(key_type=key, value_type=value):
            return ["dict", _schema(key, inside), _schema(value, inside)]
        case inspect.EnumType(cls=cls):
            return ["one of", *sorted((member.value for member in cls), key=repr)]
        case inspect.LiteralType(values=values):
            return ["one of", *sorted(values, key=repr)]
        case inspect.StructType(cls=cls, fields=fields, array_like=array_like, tag=tag, forbid_unknown_fields=closed):
            return _record(cls.__name__, array_like, tag, fields, inside, closed=closed)
        case inspect.NamedTupleType(cls=cls, fields=fields):
            return _record(cls.__name__, True, None, fields, inside, closed=True)
        case inspect.DataclassType(cls=cls, fields=fields) | inspect.TypedDictType(cls=cls, fields=fields):
            return _record(cls.__name__, False, None, fields, inside)
        case inspect.CustomType(cls=cls):
            return ["custom", cls.__name__]
        case _:
            return [_PLAIN[type(info)]]


def _record(
    name: str,
    array_like: bool,
    tag: Any,
    fields: Sequence[inspect.Field],
    inside: tuple[str, ...],
    *,
    closed: bool = False,
) -> list[Any]:
    if name in inside:  # a type that contains itself
        return ["recursive", name]
    within = (*inside, name)
    described = [[f.encode_name, _schema(f.type, within), f.required] for f in fields]
    return ["struct", name, array_like, tag, described, *(["closed"] if closed else [])]


def mismatch(written: TypeSchema, read: TypeSchema) -> str | None:
    """Why what was written as one type can't be read as another; None when it can."""
    if written == read or read[0] == "any" or written[0] in ("any", "recursive"):
        # What ``any`` holds is only known when it is decoded, and then the decoder refuses it.
        return None
    kind = (written[0], read[0])
    if written[0] == "union":
        return _first(mismatch(one, read) for one in written[1:])
    if read[0] == "union":
        return None if any(mismatch(written, one) is None for one in read[1:]) else _plainly(written, read)
    if kind == ("one of", "one of"):
        return None if all(value in read[1:] for value in written[1:]) else _plainly(written, read)
    if written[0] == "one of":
        wanted = {"str": str, "int": int}.get(read[0])
        return None if wanted and all(type(v) is wanted for v in written[1:]) else _plainly(written, read)
    if kind in (("int", "float"), ("recursive", "struct")):
        return None
    if kind == ("list", "list"):
        return mismatch(written[1], read[1])
    if kind == ("dict", "dict"):
        return mismatch(written[1], read[1]) or mismatch(written[2], read[2])
    if kind == ("tuple", "list"):
        return _first(mismatch(item, read[1]) for item in written[1:])
    if kind == ("tuple", "tuple") and len(written) == len(read):
        return _first(mismatch(*items) for items in zip(written[1:], read[1:], strict=True))
    if kind == ("struct", "struct"):
        return _records(written, read)
    return _plainly(written, read)


def key_mismatch(written: TypeSchema, read: TypeSchema) -> str | None:
    """Why keys that were written as one type can't be read as another; None when they can.

    Stricter than ``mismatch``: a key must keep its bytes, for they decide to which key group it belongs. A key whose
    bytes change would be looked for, and its next records would be sent, where its state is not.
    """
    return None if _keeps_bytes(written, read) else f"{_plainly(written, read)}, which changes the bytes of keys"


_PLAIN_KEYS = frozenset({"any", "none", "bool", "int", "float", "str", "bytes"})
"""What an undeclared key can hold, besides tuples of it (``state.key_groups.is_plain_key``)."""


def _keeps_bytes(written: TypeSchema, read: TypeSchema) -> bool:
    if written == read:
        return True
    kind = (written[0], read[0])
    if "any" in kind:
        # What was written as ``any`` may be ints, which a float would be decoded from.
        wanted = _PLAIN_KEYS if read[0] == "any" else _PLAIN_KEYS - {"float"}
        return _kinds(written) <= _PLAIN_KEYS and _kinds(read) <= wanted
    if written[0] == "union":
        return all(_keeps_bytes(one, read) for one in written[1:])
    if read[0] == "union":
        return any(_keeps_bytes(written, one) for one in read[1:])
    if kind == ("one of", "one of"):
        return all(value in read[1:] for value in written[1:])
    if kind in (("tuple", "tuple"), ("list", "list")):
        return len(written) == len(read) and all(map(_keeps_bytes, written[1:], read[1:]))
    # A Struct may get another name, but no other fields.
    return kind == ("struct", "struct") and written[2:5] == read[2:5]


def _kinds(schema: TypeSchema) -> set[str]:
    """Of a type and what its unions and tuples are made of."""
    kind, *parts = schema
    return {kind} if kind not in ("union", "tuple", "list") else set().union(*map(_kinds, parts))


def _records(written: TypeSchema, read: TypeSchema) -> str | None:
    _, _, array_like, tag, fields = written[:5]
    _, name, as_array, read_tag, wanted = read[:5]
    if array_like != as_array or tag != read_tag:
        return _plainly(written, read)
    # Fields of an array are told by their place, others by their name.
    known = dict(enumerate(fields)) if array_like else {field[0]: field for field in fields}
    places = {field[0]: place for place, field in enumerate(fields)} if array_like else {}
    for place, (field, field_type, required) in enumerate(wanted):
        if places.get(field, place) != place:
            return f"{name}.{field} has moved, but {name} is stored without names: add fields at its end only"
        stored = known.get(place if array_like else field)
        if stored is None:
            if required:
                return f"{name} has the new field {field!r}, which has no default"
        elif (why := mismatch(stored[1], field_type)) is not None:
            return f"{name}.{field} {why}"
    lost = fields[len(wanted) :] if array_like else [f for f in fields if all(f[0] != field for field, _, _ in wanted)]
    if lost and len(read) > 5:
        return f"{name} has lost the field {lost[0][0]!r}, and refuses what has more fields than it"
    return None


def _first(reasons: Any) -> str | None:
    return next((reason for reason in reasons if reason is not None), None)


def _plainly(written: TypeSchema, read: TypeSchema) -> str:
    return f"was {describe(written)} and is {describe(read)} now"


def describe(schema: TypeSchema) -> str:
    """A type for people."""
    kind, *rest = schema
    match kind:
        case "union":
            return " | ".join(map(describe, rest))
        case "list" | "dict" | "tuple":
            return f"{kind}[{', '.join(map(describe, rest))}]"
        case "one of":
            return f"one of {', '.join(map(repr, rest))}"
        case "struct" | "recursive" | "custom":
            return str(rest[0])
        case _:
            return "None" if kind == "none" else str(kind)
