"""Ctrl-C and SIGTERM."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

import typer


@contextmanager
def until_interrupted(exit_code: int) -> Iterator[None]:
    """Ctrl-C and SIGTERM end the block in good order, and the program with ``exit_code``."""

    def interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    # Of SIGINT too: a shell script starts what it puts into the background with SIGINT ignored.
    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except KeyboardInterrupt:
        raise typer.Exit(exit_code) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
