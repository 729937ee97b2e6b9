"""Where things are kept that are fetched once and used by every stack of this user."""

from __future__ import annotations

import os
from pathlib import Path

from moorage.config import CommandLineSettings, load


def cache_dir() -> Path:
    """The setting, else ``moorage`` in the user's cache directory (XDG)."""
    if (configured := load(CommandLineSettings, os.environ).cache_dir) is not None:
        return Path(configured)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "moorage"
