"""Writes docs/settings.md: ``python -m moorage.config.docs > docs/settings.md``."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator

from moorage.config.declaration import Setting, Settings, settings_of
from moorage.config.settings import SETTINGS_CLASSES, ServiceSettings

_INTRODUCTION = """\
# Settings

Settings are environment variables. One that is empty counts as not set. A value that is not allowed, or a variable
`MOORAGE_...` that is not listed here, stops the start of a service with one line that says so.

Times are in ms, sizes in bytes. Options of Kafka and Redis clients are given as a JSON object
(`{"security.protocol": "SASL_SSL"}`) or as `name=value,name=value`. Neither they nor secrets are ever logged.

What belongs to one job is said in its pipeline, or at submit by `--set PART.NAME=VALUE`: `checkpoint.*` and `restart.*`
are in [checkpoints.md](checkpoints.md), `state.backend` in [state.md](state.md).

<!-- Written by python -m moorage.config.docs; change the declarations in moorage.config, not this file. -->
"""


_CLASSES = (*SETTINGS_CLASSES[:3], ServiceSettings, *SETTINGS_CLASSES[3:])


def page() -> str:
    return "\n".join([_INTRODUCTION, *(line for cls in _CLASSES for line in _section(cls))])


def _section(cls: type[Settings]) -> Iterator[str]:
    words = re.findall("[A-Z][a-z]+", cls.__name__.removesuffix("Settings"))
    yield f"## {' '.join(words).capitalize()}\n"
    yield f"{cls.__doc__}\n"
    yield "| variable | default | allowed | meaning |"
    yield "|---|---|---|---|"
    for setting in settings_of(cls):
        if setting.name in vars(cls)["__annotations__"]:
            cells = (f"`{setting.variable}`", _default(setting), setting.allowed, setting.declared.doc)
            yield f"| {' | '.join(cells)} |"
    yield ""


def _default(setting: Setting) -> str:
    match setting.default:
        case _ if setting.declared.shown_default is not None:
            return setting.declared.shown_default
        case bool(value):
            return f"`{str(value).lower()}`"
        case int(value) if setting.name.endswith("_bytes"):
            return f"`{value}` ({_size(value)})"
        case int(value) | str(value):
            return f"`{value}`"
        case _:
            return ""


def _size(size_bytes: int) -> str:
    return f"{size_bytes >> 20} MiB" if size_bytes >= 1 << 20 else f"{size_bytes >> 10} KiB"


if __name__ == "__main__":
    sys.stdout.write(page())
