"""How settings are declared, checked and read from the environment.

A class of settings is a frozen dataclass whose fields are declared with ``setting``: the default, what it is for, and
what is allowed. The environment variable follows from the class's prefix and the name of the field, whose last part is
the unit. Whoever makes such an object, from the environment or in a test, gets one that passed its checks.

Why not pydantic-settings: once an error has to be one line that names variable and allowed values and never shows a
secret, an unknown variable is an error, and the same declarations give the docs, what is left of it is the conversion
of whole numbers and booleans. It also reads the environment by itself wherever an object is made, and would be a second
library of structs beside msgspec, whose own structs check nothing when they are made in code.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from os import pathsep
from types import UnionType
from typing import Any, ClassVar, TypeVar, get_args, get_origin, get_type_hints

from moorage.errors import SettingError

T = TypeVar("T")

VARIABLE_PREFIX = "MOORAGE_"
_METADATA_KEY = "setting"
_SHOWN_MAX_CHARS = 80


class Secret:
    """A text that no log line shows: only ``reveal`` gives it."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return "Secret(***)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)


class Options(Mapping[str, str]):
    """Options of a client library, passed through by their names. Any may be a secret, so values are not shown."""

    def __init__(self, options: Mapping[str, str] | None = None) -> None:
        self._options = dict(options or {})

    @classmethod
    def parse(cls, text: str) -> Options:
        """From a JSON object of texts, numbers and booleans, or from ``name=value,name=value``, where no value has a
        comma. ValueError for anything else.
        """
        if text.lstrip().startswith("{"):
            return cls({name: _option_text(value) for name, value in json.loads(text).items()})
        pairs = [pair.partition("=") for pair in text.split(",")]
        if not all(name.strip() and separator for name, separator, _ in pairs):
            raise ValueError("an option without name or value")
        return cls({name.strip(): value.strip() for name, _, value in pairs})

    def __getitem__(self, name: str) -> str:
        return self._options[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._options)

    def __len__(self) -> int:
        return len(self._options)

    def __hash__(self) -> int:
        return hash(frozenset(self._options.items()))

    def __repr__(self) -> str:
        return f"Options({', '.join(f'{name}=***' for name in self)})"


def _option_text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float):
        return str(value)
    raise ValueError("neither text nor number nor boolean")


def setting(
    default: T,
    doc: str,
    *,
    minimum: int | None = None,
    maximum: int | None = None,
    choices: tuple[str, ...] = (),
    pattern: str | None = None,
    form: str | None = None,
    variable: str | None = None,
    shown_default: str | None = None,
) -> T:
    """Declare a setting.

    A number has a minimum and a maximum; a text may have ``choices``, or a ``pattern`` that all of it must match, which
    ``form`` says in words. ``variable`` is for a setting that several classes have under one name, ``shown_default``
    for a default that is found at run time.
    """
    declared = _Declared(doc, minimum, maximum, choices, pattern, form, variable, shown_default)
    return dataclasses.field(default=default, metadata={_METADATA_KEY: declared})


@dataclass(frozen=True)
class _Declared:
    doc: str
    minimum: int | None
    maximum: int | None
    choices: tuple[str, ...]
    pattern: str | None
    form: str | None
    variable: str | None
    shown_default: str | None


@dataclass(frozen=True)
class _Kind:
    parse: Callable[[str], Any]
    """Raises ValueError or KeyError for a text that stands for no value."""
    form: str


_BOOLEANS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
_KINDS: Mapping[Any, _Kind] = {
    int: _Kind(int, "a whole number"),
    bool: _Kind(lambda text: _BOOLEANS[text.strip().lower()], "true or false"),
    str: _Kind(str, "a text"),
    Secret: _Kind(Secret, "a text"),
    Options: _Kind(Options.parse, "a JSON object, or name=value,name=value"),
    tuple[str, ...]: _Kind(lambda text: tuple(text.split(pathsep)), f"paths with {pathsep!r} between them"),
}


@dataclass(frozen=True)
class Setting:
    """One setting of a class: everything that its declaration says."""

    name: str
    variable: str
    kind: Any
    """int, bool, str, Secret, Options or tuple[str, ...]."""
    default: Any
    declared: _Declared

    @property
    def allowed(self) -> str:
        """What is allowed, in words that follow "must be"."""
        declared = self.declared
        if declared.choices:
            return f"one of {', '.join(declared.choices)}"
        if declared.minimum is not None:
            unit = next((f" of {unit}" for unit in ("ms", "bytes") if self.name.endswith(f"_{unit}")), "")
            return f"a whole number{unit} from {declared.minimum} to {declared.maximum}"
        return declared.form or _KINDS[self.kind].form

    def parse(self, text: str) -> Any:
        """The value that the variable's text stands for; SettingError if it stands for none."""
        try:
            return _KINDS[self.kind].parse(text)
        except (ValueError, KeyError):
            raise self.error(text, f"must be {self.allowed}") from None

    def check(self, value: Any) -> None:
        """SettingError if ``value`` is not allowed."""
        declared = self.declared
        if isinstance(value, Secret):
            value = value.reveal()
        if value is not None and (
            (declared.minimum is not None and value < declared.minimum)
            or (declared.maximum is not None and value > declared.maximum)
            or (declared.choices and value not in declared.choices)
            or (declared.pattern is not None and not re.fullmatch(declared.pattern, value))
        ):
            raise self.error(value, f"must be {self.allowed}")

    def error(self, value: Any, complaint: str) -> SettingError:
        """One line that names the variable, the value (never a secret) and what is wrong with it."""
        shown = self.variable if self.kind in (Secret, Options) else f"{self.variable}={_shown(value)}"
        return SettingError(f"{shown}: {complaint}")


def _shown(value: Any) -> str:
    """``value`` on one line, not too long, and without what may be the password in a URL."""
    text = re.sub(r"://\S*@", "://***@", str(value))
    text = re.sub(r"(?i)(password=)[^&\s]*", r"\1***", text).encode("unicode_escape").decode()
    return text if len(text) <= _SHOWN_MAX_CHARS else f"{text[:_SHOWN_MAX_CHARS]}..."


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Base of the classes of settings: ``class WorkerSettings(Settings, prefix="WORKER_")``."""

    variable_prefix: ClassVar[str] = ""

    def __init_subclass__(cls, prefix: str = "", **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.variable_prefix = prefix

    def __post_init__(self) -> None:
        for declared in settings_of(type(self)):
            declared.check(getattr(self, declared.name))
        self.check()

    def check(self) -> None:
        """Rules over several settings; raises SettingError."""

    def refuse(self, name: str, complaint: str) -> SettingError:
        """The error that something is wrong with the value of the setting ``name``."""
        declared = next(s for s in settings_of(type(self)) if s.name == name)
        return declared.error(getattr(self, name), complaint)


def settings_of(cls: type[Settings]) -> list[Setting]:
    """Everything that a class of settings declares or inherits, in order."""
    hints = get_type_hints(cls)
    return [_setting(cls, field, hints[field.name]) for field in dataclasses.fields(cls)]


def _setting(cls: type[Settings], field: dataclasses.Field[Any], hint: Any) -> Setting:
    declared: _Declared = field.metadata[_METADATA_KEY]
    owner = next(c for c in cls.__mro__ if issubclass(c, Settings) and field.name in vars(c)["__annotations__"])
    variable = declared.variable or f"{VARIABLE_PREFIX}{owner.variable_prefix}{field.name.upper()}"
    kind = next(k for k in get_args(hint) if k is not type(None)) if get_origin(hint) is UnionType else hint
    return Setting(field.name, variable, kind, field.default, declared)
