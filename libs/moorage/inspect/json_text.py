"""Any stored value as JSON."""

from __future__ import annotations

from typing import Any

import msgspec

_encode = msgspec.json.Encoder().encode


def json_text(value: Any) -> bytes:
    """Bytes as base64, a mapping whose keys are neither text nor whole numbers as list of ``{"key", "value"}``."""
    try:
        return _encode(value)
    except TypeError:
        return _encode(_jsonable(value))


def _jsonable(value: Any) -> Any:
    match value:
        case dict() if all(isinstance(key, (str, int)) for key in value):
            return {key: _jsonable(item) for key, item in value.items()}
        case dict():
            return [{"key": _jsonable(key), "value": _jsonable(item)} for key, item in value.items()]
        case list() | tuple():
            return list(map(_jsonable, value))
        case msgspec.msgpack.Ext(code=code, data=data):
            return {"code": code, "data": data}
        case _:
            return value
