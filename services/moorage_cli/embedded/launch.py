"""Run a command that dies with the process that started it: ``launch.py PARENT_PID COMMAND ARGUMENT...``.

A tiny program of its own instead of a ``preexec_fn``, which is not safe in a process with threads. On Linux the kernel
sends SIGKILL when the parent's thread that started us ends (``PR_SET_PDEATHSIG``), however it ends; the setting
survives the exec. Other systems have nothing alike: there a killed parent leaves its children running.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1

if __name__ == "__main__":
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux" and ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        sys.exit("prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:
        sys.exit("the parent process has ended")
    os.execvp(command[0], command)  # noqa: S606
