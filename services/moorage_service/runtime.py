"""The life of a service process.

``run(name, body)`` is the whole ``main``: one line and exit code 2 for a setting that is not allowed, one line and exit
code 1 for anything else that Moorage knows, SIGTERM and SIGINT as a flag that the loop looks at.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from types import FrameType

from moorage.config import ServiceSettings
from moorage.errors import MoorageError, SettingError
from moorage_service.logs import configure_logging

SETTINGS_EXIT_CODE = 2
"""A setting is not allowed: starting again does not help."""
_IDLE_MIN_S = 0.0005
_IDLE_MAX_S = 0.005


class StopFlag:
    """Set by SIGTERM and SIGINT."""

    def __init__(self) -> None:
        self.is_set = False

    def install(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        self.is_set = True


def run(name: str, body: Callable[[Mapping[str, str], StopFlag], int]) -> int:
    """Run a service's ``body`` with the environment; returns the exit code."""
    stop = StopFlag()
    try:
        stop.install()
        return body(os.environ, stop)
    except SettingError as error:
        print(f"moorage {name}: {error}", file=sys.stderr)  # noqa: T201 - logging may not be set up yet
        return SETTINGS_EXIT_CODE
    except MoorageError as error:
        logging.getLogger(name).critical("%s", error)
        return 1


def start_logging(name: str, settings: ServiceSettings) -> logging.Logger:
    configure_logging(settings.log_level, json_lines=settings.log_json, service=name)
    return logging.getLogger(f"moorage.{name}")


def failpoint(settings: ServiceSettings) -> Callable[[str], None]:
    """What the cores call at named points: SIGKILL at the one that the settings name."""
    wanted = settings.failpoint
    if wanted is None:
        return _pass

    def kill(point: str) -> None:
        if point == wanted:
            os.kill(os.getpid(), signal.SIGKILL)

    return kill


def _pass(_: str) -> None:
    """No failpoint is set."""


class LoopTime:
    """How long a loop was busy: the rest it waited. Other threads may look."""

    __slots__ = ("busy_ns", "step_started_ns")

    def __init__(self) -> None:
        self.busy_ns = 0
        self.step_started_ns: int | None = None
        """Of ``perf_counter_ns``; None: it waits."""

    @property
    def step_ms(self) -> int:
        """For how long the present step has taken; 0 when there is none."""
        started_ns = self.step_started_ns
        return 0 if started_ns is None else (time.perf_counter_ns() - started_ns) // 1_000_000


def loop(step: Callable[[], bool], stop: Callable[[], bool], wait: Callable[[float], object], time_: LoopTime) -> None:
    """Call ``step`` until ``stop``; while it finds nothing to do, ``wait`` a little longer each time, up to 5 ms."""
    idle_s = _IDLE_MIN_S
    while not stop():
        time_.step_started_ns = started_ns = time.perf_counter_ns()
        worked = step()
        time_.step_started_ns = None
        time_.busy_ns += time.perf_counter_ns() - started_ns
        if worked:
            idle_s = _IDLE_MIN_S
        else:
            wait(idle_s)
            idle_s = min(_IDLE_MAX_S, idle_s * 2)
