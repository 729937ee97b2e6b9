"""What can go wrong with a child process, in words for the person who started it."""

from __future__ import annotations

import secrets
import socket
from collections import deque
from pathlib import Path

from moorage.errors import MoorageError

LOOPBACK = "127.0.0.1"
_FREE_PORTS = range(20_000, 32_000)
"""Below the ports that systems give to outgoing connections: while a server is down, a client that tries to reach it
could be given the server's own port, and would then be connected to itself."""


class StackError(MoorageError):
    """A process of the embedded stack can't start or has died; names it and says what to do."""


def log_tail(log: Path, lines: int = 15) -> str:
    """The last lines of a log file, for an error message; says so when there are none."""
    try:
        with log.open(errors="replace") as file:
            tail = "".join(deque(file, lines)).rstrip()
    except FileNotFoundError:
        tail = ""
    return f"Last lines of {log}:\n{tail}" if tail else f"{log} is empty."


def choose_port(name: str, port: int, option: str | None = None) -> int:
    """``port`` when nothing listens there, a free one for 0; StackError when it is taken. ``option``: of the command
    line, that chooses another.

    Another process may still take the port before the server binds it; then the server's own log says so.
    """
    if port == 0:
        while _refusal(port := secrets.choice(_FREE_PORTS)) is not None:
            pass
    elif (refusal := _refusal(port)) is not None:
        raise port_taken(name, port, refusal, option)
    return port


def port_taken(name: str, port: int, reason: str, option: str | None = None) -> StackError:
    other = f"choose another port with {option}; 0 takes any free one" if option else "choose another port"
    return StackError(f"{name} can't listen on {LOOPBACK}:{port}: {reason}. Stop what listens there, or {other}.")


def _refusal(port: int) -> str | None:
    """Why the port can't be bound; None when it can."""
    with socket.socket() as probe:
        # As the servers do it: connections of an earlier run in TIME_WAIT don't count as a listener.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            return error.strerror or str(error)
    return None
