from __future__ import annotations

import moorage as mo
from moorage.api.traces import user_place, user_trace, user_traceback
from moorage.errors import PipelineError


def failing(value: str) -> int:
    return int(value)


def raised(value: str) -> Exception:
    try:
        failing(value)
    except ValueError as error:
        return error
    raise AssertionError


def test_the_trace_begins_with_the_first_line_that_is_theirs() -> None:
    error = raised("x")
    lines = user_trace(error).splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-1] == "ValueError: invalid literal for int() with base 10: 'x'"
    assert user_traceback(error) is error.__traceback__


def test_the_place_of_a_mistake_is_the_line_that_called_us() -> None:
    try:
        mo.Pipeline("No Name")
    except PipelineError as error:
        place = user_place(error) or ""
    file, _, line = place.rpartition(":")
    assert file == __file__
    assert int(line) > 0
