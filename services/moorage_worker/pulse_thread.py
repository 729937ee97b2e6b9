"""The thread beside a worker's loop: sends the pulse while a step takes long, tells people of it, ends a stuck process.

User code that never comes back is a dead worker that looks alive. After ``step_timeout_ms`` the process says where it
is stuck and ends; its supervisor reports the death and starts another one.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import closing

from moorage.task.pulse import Pulse
from moorage_service.runtime import LoopTime

STUCK_EXIT_CODE = 70
"""EX_SOFTWARE: neither a wish nor a setting, so the supervisor starts another process."""
_WARN_MS = 10_000


class PulseThread:
    """``new_pulse`` is called when the first step takes long: most workers never need another producer.

    Call it in the thread that runs the loop; that one's stack is shown.
    """

    def __init__(
        self,
        time_: LoopTime,
        new_pulse: Callable[[], Pulse],
        *,
        interval_ms: int,
        step_timeout_ms: int,
        logger: logging.Logger,
        end_process: Callable[[int], object] = os._exit,
    ) -> None:
        self._time = time_
        self._new_pulse = new_pulse
        self._interval_ms = interval_ms
        self._step_timeout_ms = step_timeout_ms
        self._logger = logger
        self._end_process = end_process
        self._loop_thread = threading.get_ident()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        pulse: Pulse | None = None
        warn_ms = _WARN_MS
        while not self._stopped.wait(self._interval_ms / 1e3):
            step_ms = self._time.step_ms
            if step_ms < self._interval_ms:
                warn_ms = _WARN_MS
                continue
            if pulse is None:
                pulse = self._new_pulse()
            pulse.beat(step_ms)
            if step_ms >= warn_ms:
                warn_ms *= 2
                self._logger.warning(
                    "for %.0f s the worker has heard and said nothing: it is busy in\n%s", step_ms / 1e3, self._where()
                )
            if step_ms >= self._step_timeout_ms:
                self._give_up(step_ms)
                break
        if pulse is not None:
            with closing(pulse):
                pass

    def _where(self) -> str:
        frame = sys._current_frames().get(self._loop_thread)  # noqa: SLF001 - documented, for debuggers such as this
        return "".join(traceback.format_stack(frame, limit=None)[-4:]).rstrip()

    def _give_up(self, step_ms: int) -> None:
        self._logger.critical(
            "one step has taken %.0f s, more than MOORAGE_WORKER_STEP_TIMEOUT_MS allows: the process ends, another one"
            " is started",
            step_ms / 1e3,
        )
        faulthandler.dump_traceback(all_threads=True)
        sys.stderr.flush()
        self._end_process(STUCK_EXIT_CODE)
