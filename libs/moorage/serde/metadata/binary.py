"""Bytes as Java's DataInputStream and DataOutputStream have them: big endian, strings in modified UTF-8.

The reader checks every length against what is left before it takes or allocates anything, so that a lying file costs
no more than its own size. It accepts exactly what the writer writes: what can't be written back the same is corrupt.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import TypeVar

from moorage.errors import CorruptDataError, MetadataError
from moorage.state.key_groups import UPPER_BOUND_MAX_PARALLELISM, KeyGroupRange

_SHORT = struct.Struct(">H")
_INT = struct.Struct(">i")
_LONG = struct.Struct(">q")
INT_BYTES = _INT.size
LONG_BYTES = _LONG.size
TEXT_BYTES = _SHORT.size
"""Of an empty string."""

_MAX_TEXT_BYTES = 0xFFFF

T = TypeVar("T")


def encode_text(text: str) -> bytes:
    """Modified UTF-8: NUL as two bytes, what lies beyond the basic plane as two surrogates of three bytes each.

    Raises UnicodeEncodeError for a surrogate without its other half.
    """
    if text.isascii() and "\0" not in text:
        return text.encode()
    units = memoryview(text.encode("utf-16-le")).cast("H")
    return "".join(map(chr, units)).encode("utf-8", "surrogatepass").replace(b"\0", b"\xc0\x80")


def decode_text(data: bytes) -> str:
    """The inverse of ``encode_text``; raises UnicodeError for any other bytes."""
    if data.isascii() and b"\0" not in data:
        return data.decode()
    units = data.replace(b"\xc0\x80", b"\0").decode("utf-8", "surrogatepass")
    text = units.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
    if encode_text(text) != data:
        raise UnicodeError("not modified UTF-8")
    return text


def check_path(path: str) -> str:
    """``path`` itself; ValueError when it is empty or could lead out of the folder it lies in."""
    if not path or "\0" in path or ".." in path.split("/"):
        raise ValueError(f"{path!r} is no path of a state file")
    return path


class Reader:
    """Takes values from the front of ``data``; every method raises CorruptDataError that names ``what`` was read."""

    __slots__ = ("_data", "_end", "_position", "folder")

    def __init__(self, data: bytes, folder: str = "") -> None:
        self.folder = folder
        """Where the file lies that ``data`` comes from: relative paths start there."""
        self._data = data
        self._end = len(data)
        self._position = 0

    @property
    def remaining_bytes(self) -> int:
        return self._end - self._position

    def corrupt(self, message: str) -> CorruptDataError:
        return CorruptDataError(f"{message}, before byte {self._position}")

    def take(self, size_bytes: int, what: str) -> bytes:
        if size_bytes > self.remaining_bytes:
            raise self.corrupt(f"{what} needs {size_bytes} bytes, but {self.remaining_bytes} are left")
        start = self._position
        self._position += size_bytes
        return self._data[start : self._position]

    def byte(self, what: str) -> int:
        return self.take(1, what)[0]

    def took(self, value: int) -> bool:
        """Whether the next byte is ``value``; if so, it is taken."""
        there = self.remaining_bytes > 0 and self._data[self._position] == value
        self._position += there
        return there

    def int32(self, what: str) -> int:
        value: int = _INT.unpack(self.take(INT_BYTES, what))[0]
        return value

    def int64(self, what: str) -> int:
        value: int = _LONG.unpack(self.take(LONG_BYTES, what))[0]
        return value

    def index(self, what: str, least: int = 0) -> int:
        """An int that is not negative, or not below ``least``."""
        return self._at_least(least, self.int32(what), what)

    def size(self, what: str, least: int = 0) -> int:
        """A long that is not negative, or not below ``least``."""
        return self._at_least(least, self.int64(what), what)

    def count(self, what: str, least_bytes: int) -> int:
        """The number of entries that follow, each of which takes at least ``least_bytes``."""
        count = self.index(f"number of {what}")
        if count * least_bytes > self.remaining_bytes:
            raise self.corrupt(f"{count} {what} are announced, but {self.remaining_bytes} bytes are left")
        return count

    def int64s(self, what: str) -> tuple[int, ...]:
        """A list of longs after their number."""
        return self.int64s_of(self.count(what, LONG_BYTES), what)

    def int64s_of(self, count: int, what: str) -> tuple[int, ...]:
        return struct.unpack(f">{count}q", self.take(count * LONG_BYTES, what))

    def data(self, what: str) -> bytes:
        """Bytes after their number."""
        return self.take(self.count(f"bytes of {what}", 1), what)

    def text(self, what: str) -> str:
        data = self.take(_SHORT.unpack(self.take(TEXT_BYTES, what))[0], what)
        try:
            return decode_text(data)
        except UnicodeError as error:
            raise self.corrupt(f"{what} is not text") from error

    def path(self, what: str) -> str:
        try:
            return check_path(self.text(what))
        except ValueError as error:
            raise self.corrupt(f"{what}: {error}") from error

    def key_groups(self) -> KeyGroupRange:
        start, count = self.index("first key group"), self.index("number of key groups")
        if start + count > UPPER_BOUND_MAX_PARALLELISM:
            raise self.corrupt(f"{count} key groups from {start} on are more than there can be")
        return KeyGroupRange(start, start + count - 1)

    def flag(self, code: int, what: str) -> bool:
        """A boolean; Java writes it as 0 or 1, in a byte or an int."""
        return self.choice(code, what, (False, True))

    def choice(self, code: int, what: str, choices: Sequence[T]) -> T:
        """The choice with number ``code``."""
        if not 0 <= code < len(choices):
            raise self.corrupt(f"{what} can't be {code}")
        return choices[code]

    def end(self) -> None:
        if self.remaining_bytes:
            raise self.corrupt(f"{self.remaining_bytes} bytes too many")

    def _at_least(self, least: int, value: int, what: str) -> int:
        if value < least:
            raise self.corrupt(f"{what} can't be {value}")
        return value


class Writer:
    """Collects bytes; what has no place in the format raises MetadataError."""

    __slots__ = ("_parts",)

    def __init__(self) -> None:
        self._parts = bytearray()

    def getvalue(self) -> bytes:
        return bytes(self._parts)

    def raw(self, data: bytes) -> None:
        self._parts += data

    def byte(self, value: int) -> None:
        self._parts.append(value)

    def int32(self, value: int) -> None:
        self._pack(_INT, value)

    def int64(self, value: int) -> None:
        self._pack(_LONG, value)

    def index(self, value: int, least: int = 0) -> None:
        self.int32(self._at_least(least, value))

    def size(self, value: int, least: int = 0) -> None:
        self.int64(self._at_least(least, value))

    def int64s(self, values: tuple[int, ...]) -> None:
        self.int32(len(values))
        self.int64s_of(values)

    def int64s_of(self, values: tuple[int, ...]) -> None:
        for value in values:
            self.int64(value)

    def data(self, data: bytes) -> None:
        self.int32(len(data))
        self._parts += data

    def text(self, text: str) -> None:
        try:
            data = encode_text(text)
        except UnicodeEncodeError as error:
            raise MetadataError(f"{text!r} is not text") from error
        if len(data) > _MAX_TEXT_BYTES:
            raise MetadataError(f"{text[:40]!r}... takes {len(data)} bytes; {_MAX_TEXT_BYTES} are allowed")
        self._pack(_SHORT, len(data))
        self._parts += data

    def path(self, path: str) -> None:
        try:
            self.text(check_path(path))
        except ValueError as error:
            raise MetadataError(str(error)) from error

    def key_groups(self, groups: KeyGroupRange) -> None:
        if not 0 <= groups.start <= groups.end + 1 <= UPPER_BOUND_MAX_PARALLELISM:
            raise MetadataError(f"{groups} is no range of key groups")
        self.int32(groups.start)
        self.int32(len(groups))

    def _pack(self, form: struct.Struct, value: int) -> None:
        try:
            self._parts += form.pack(value)
        except struct.error as error:
            raise MetadataError(f"{value} does not fit into {form.size} bytes") from error

    def _at_least(self, least: int, value: int) -> int:
        if value < least:
            raise MetadataError(f"{value} is below {least}")
        return value
