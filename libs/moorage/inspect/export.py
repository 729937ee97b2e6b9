"""Rows as JSON lines and as Parquet, for DuckDB, polars and whatever else reads tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import BinaryIO

from moorage.errors import MoorageError, SettingError
from moorage.inspect.json_text import json_text
from moorage.inspect.rows import StateRow
from moorage.serde.row_schema import RowSchema

Table = Callable[[BinaryIO, Iterable[StateRow], Iterable[RowSchema]], int]
"""Writes rows and returns how many."""


class ExportError(MoorageError):
    """The rows can't be written there, or not in that form."""


def export(rows: Iterable[StateRow], schemas: Iterable[RowSchema], path: Path) -> int:
    """Write a file in the form that its name tells: .parquet, .jsonl or .ndjson; returns the number of rows.

    The file appears when it is complete; one that is there is replaced.
    """
    write = _FORMS.get(path.suffix)
    if write is None:
        raise SettingError(f"{path}: the name must end in {', '.join(_FORMS)}")
    partial = path.with_name(f"{path.name}.partial")
    try:
        try:
            with partial.open("wb") as file:
                count = write(file, rows, schemas)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise ExportError(f"can't write {path}: {error.strerror}") from error
    return count


# --- JSON lines ------------------------------------------------------------------------------------------------------


def write_json_lines(file: BinaryIO, rows: Iterable[StateRow], _: Iterable[RowSchema] = ()) -> int:
    """A line per row; bytes as base64, a mapping whose keys are no text or numbers as list of ``{"key", "value"}``."""
    count = 0
    for row in rows:
        file.write(json_text(row.record()) + b"\n")
        count += 1
    return count


# --- Parquet ---------------------------------------------------------------------------------------------------------


def write_parquet(file: BinaryIO, rows: Iterable[StateRow], schemas: Iterable[RowSchema]) -> int:
    try:
        from moorage.inspect import parquet
    except ImportError:
        raise SettingError("Parquet needs pyarrow: pip install 'moorage[parquet]'") from None
    try:
        return parquet.write(file, rows, schemas)
    except parquet.UNFIT as error:
        raise ExportError(f"rows do not fit their types in Parquet ({error}): export JSON lines") from error


_FORMS: Mapping[str, Table] = {
    ".parquet": write_parquet,
    ".jsonl": write_json_lines,
    ".ndjson": write_json_lines,
}
