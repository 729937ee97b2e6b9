"""Tracebacks of errors in the code of people who write pipelines."""

from __future__ import annotations

import traceback
from itertools import dropwhile
from pathlib import Path
from types import TracebackType

_OURS = f"{Path(__file__).parents[1]}/"


def user_trace(error: BaseException) -> str:
    """The traceback of an error that the user's code raised, from its first frame that is theirs on."""
    shown = traceback.TracebackException.from_exception(error)
    behind: traceback.TracebackException | None = shown
    while behind is not None:
        theirs = list(dropwhile(lambda frame: _is_ours(frame.filename), behind.stack))
        behind.stack = traceback.StackSummary.from_list(theirs)
        if not theirs and behind.__cause__ is None:
            behind.__context__ = None  # nothing of theirs was at work, so what came before is our affair
        behind = behind.__cause__ or behind.__context__
    return "".join(shown.format())


def user_traceback(error: BaseException) -> TracebackType | None:
    """The same as an object, for whoever raises ``error`` anew. None: no code of theirs took part."""
    trace = error.__traceback__
    while trace is not None and _is_ours(trace.tb_frame.f_code.co_filename):
        trace = trace.tb_next
    return trace


def user_place(error: BaseException) -> str | None:
    """File and line of the user's code that called what raised ``error``; None: no code of theirs did."""
    theirs = [f for f in traceback.extract_tb(error.__traceback__) if not _is_ours(f.filename)]
    return f"{theirs[-1].filename}:{theirs[-1].lineno}" if theirs else None


def _is_ours(filename: str) -> bool:
    return filename.startswith((_OURS, "<frozen importlib")) or "/importlib/" in filename
