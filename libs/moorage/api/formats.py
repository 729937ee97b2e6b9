"""How keys and values of input and output records become Python values and back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from moorage.errors import PipelineError


class Format(Protocol):
    """Turns bytes into values and back. The functions it returns are called once a record, so they should be C."""

    @property
    def type(self) -> Any:
        """Type of the decoded values; ``Any`` when it is not known."""
        ...

    def decoder(self) -> Callable[[bytes], Any]:
        """The function may raise anything for bytes that it can't decode."""
        ...

    def encoder(self) -> Callable[[Any], bytes]: ...


def check_format(what: str, value: Any) -> Format:
    """``value`` itself when it is a format; else PipelineError."""
    if isinstance(value, type) or not all(hasattr(value, name) for name in ("type", "decoder", "encoder")):
        raise PipelineError(f"{what}: value={value!r} is not a format: use moorage.Json(), Text() or Raw()")
    result: Format = value
    return result


class Json:
    """JSON by msgspec. ``Json(Order)`` decodes straight into a msgspec Struct, dataclass or TypedDict, which checks the
    record and is faster than a dict."""

    def __init__(self, type: Any = Any) -> None:  # noqa: A002 - reads best as Json(type=Order)
        self.type = type
        msgspec.json.Decoder(type)  # an unsupported type is refused here, where the traceback points to the user's line

    def decoder(self) -> Callable[[bytes], Any]:
        return msgspec.json.Decoder(self.type).decode

    def encoder(self) -> Callable[[Any], bytes]:
        return msgspec.json.Encoder().encode

    def __repr__(self) -> str:
        return "Json()" if self.type is Any else f"Json({getattr(self.type, '__name__', self.type)})"


class Text:
    """UTF-8."""

    type = str

    def decoder(self) -> Callable[[bytes], str]:
        return bytes.decode

    def encoder(self) -> Callable[[str], bytes]:
        return str.encode

    def __repr__(self) -> str:
        return "Text()"


class Raw:
    """Bytes as they are."""

    type = bytes

    def decoder(self) -> Callable[[bytes], bytes]:
        return bytes

    def encoder(self) -> Callable[[bytes], bytes]:
        return bytes.__bytes__  # not ``bytes``, which makes five zero bytes of the number 5

    def __repr__(self) -> str:
        return "Raw()"
