"""Where things are kept that are fetched once and used by every stack of this user."""

from __future__ import annotations

import os
from pathlib import Path


def cache_dir() -> Path:
    """``MOORAGE_CACHE_DIR``, else ``moorage`` in the user's cache directory (XDG)."""
    if configured := os.environ.get("MOORAGE_CACHE_DIR"):
        return Path(configured)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "moorage"
