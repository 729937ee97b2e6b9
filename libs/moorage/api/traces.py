"""Tracebacks of errors in the code of people who write pipelines."""

from __future__ import annotations

import traceback
from itertools import dropwhile
from pathlib import Path

_OURS = f"{Path(__file__).parents[1]}/"


def user_trace(error: BaseException) -> str:
    """The traceback of an error that the user's code raised, from its first frame that is theirs on."""
    shown = traceback.TracebackException.from_exception(error)
    theirs = dropwhile(
        lambda f: f.filename.startswith((_OURS, "<frozen importlib")) or "/importlib/" in f.filename, shown.stack
    )
    shown.stack = traceback.StackSummary.from_list(list(theirs))
    return "".join(shown.format())
