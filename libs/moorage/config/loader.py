"""Settings from the environment."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

from moorage.config.declaration import VARIABLE_PREFIX, Settings, settings_of
from moorage.config.settings import SETTINGS_CLASSES
from moorage.errors import SettingError

S = TypeVar("S", bound=Settings)


def load(cls: type[S], environ: Mapping[str, str]) -> S:
    """The settings of one class as ``environ`` (a process's environment) has them; an empty variable counts as unset.

    SettingError, in one line, for a value that is not allowed and for a variable ``MOORAGE_...`` that is a setting
    neither of this class nor of any other: a misspelt one must not be ignored.
    """
    settings = settings_of(cls)
    classes: tuple[type[Settings], ...] = (cls, *SETTINGS_CLASSES)
    known = {s.variable for each in classes for s in settings_of(each)}
    for variable in environ:
        if variable.startswith(VARIABLE_PREFIX) and variable not in known:
            raise SettingError(f"{variable} is no setting of Moorage: {_hint(variable, known)}")
    return cls(**{s.name: s.parse(environ[s.variable]) for s in settings if environ.get(s.variable)})


def _hint(variable: str, known: Iterable[str]) -> str:
    names = {name.removeprefix(VARIABLE_PREFIX): name for name in sorted(known)}
    close = difflib.get_close_matches(variable.removeprefix(VARIABLE_PREFIX), names, n=1, cutoff=0.7)
    return f"did you mean {names[close[0]]}?" if close else "docs/settings.md has them all"
