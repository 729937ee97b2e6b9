"""Tables as JSON lines and as Parquet, for DuckDB, polars and whatever else reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import msgspec

from moorage.coordinator_process.origin import origin_of, seal, with_origin
from moorage.errors import MoorageError, SettingError
from moorage.inspect.checkpoint import OpenCheckpoint
from moorage.inspect.json_text import json_text
from moorage.inspect.table import OperatorTable
from moorage.serde.metadata import encode_metadata

Write = Callable[[BinaryIO, OperatorTable], int]
"""Writes the records and returns how many."""


class ExportError(MoorageError):
    """The rows can't be written there, or not in that form."""


def export(table: OperatorTable, path: Path) -> int:
    """Write a file in the form that its name tells: .parquet, .jsonl or .ndjson; returns the number of records.

    The file appears when it is complete; one that is there is replaced.
    """
    write = _FORMS.get(path.suffix)
    if write is None:
        raise SettingError(f"{path}: the name must end in {', '.join(_FORMS)}")
    with _replaced(path) as file:
        return write(file, table)


def export_metadata(checkpoint: OpenCheckpoint, version: int, path: Path) -> None:
    """Write the metadata of a checkpoint in another version of Flink's format, 2 to 6, as older tools need it.

    MetadataError: the version is none of these, or has no room for something.
    """
    metadata = checkpoint.metadata
    origin = origin_of(metadata)
    if origin is None:
        data = encode_metadata(metadata, version)
    else:
        unsealed = with_origin(msgspec.structs.replace(metadata, master_states=metadata.hook_states), origin)
        data = seal(encode_metadata(unsealed, version))
    with _replaced(path) as file:
        file.write(data)


@contextmanager
def _replaced(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the place of ``path`` when it is complete. ExportError."""
    partial = path.with_name(f"{path.name}.partial")
    try:
        try:
            with partial.open("wb") as file:
                yield file
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise ExportError(f"can't write {path}: {error.strerror}") from error


def write_json_lines(file: BinaryIO, table: OperatorTable) -> int:
    """A line per record; ``json_text`` tells what has no form of its own in JSON."""
    count = 0
    for record in table.records():
        file.write(json_text(record) + b"\n")
        count += 1
    return count


def write_parquet(file: BinaryIO, table: OperatorTable) -> int:
    try:
        from moorage.inspect import parquet
    except ImportError:
        raise SettingError("Parquet needs pyarrow: pip install 'moorage[parquet]'") from None
    try:
        return parquet.write(file, table.columns(), table.records())
    except parquet.UNFIT as error:
        raise ExportError(f"rows do not fit their types in Parquet ({error}): export JSON lines") from error


_FORMS: Mapping[str, Write] = {
    ".parquet": write_parquet,
    ".jsonl": write_json_lines,
    ".ndjson": write_json_lines,
}
