"""Ctrl-C and SIGTERM end a command in good order."""

from __future__ import annotations

import signal

import pytest
import typer

from moorage_cli.interrupts import until_interrupted


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_block_also_where_the_shell_had_it_ignored(number: signal.Signals) -> None:
    """Shell scripts start what they put into the background with SIGINT ignored."""
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with pytest.raises(typer.Exit) as ended, until_interrupted(exit_code=130):
            signal.raise_signal(number)
        restored = signal.getsignal(number)
    finally:
        signal.signal(number, before)

    assert ended.value.exit_code == 130
    assert restored is signal.SIG_IGN
