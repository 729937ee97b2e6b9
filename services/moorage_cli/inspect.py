"""`moorage inspect`: what is in a checkpoint or savepoint."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer
from rich.console import Console

from moorage.errors import MoorageError, SettingError

if TYPE_CHECKING:
    from moorage.inspect.checkpoint import OpenCheckpoint


class NotWholeError(MoorageError):
    """Files of the checkpoint are missing or damaged; they have been named."""


def inspect(
    location: Annotated[
        str,
        typer.Argument(
            metavar="PATH_OR_URL", help="A _metadata file or its folder: chk-12, savepoint-..., s3://bucket/..."
        ),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
    full: Annotated[bool, typer.Option("--full", help="Show every subtask, file and channel.")] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read every file and check sizes and checksums; exit code 1: not whole.")
    ] = False,
    rows: Annotated[
        str | None,
        typer.Option(metavar="OPERATOR", help="Print this operator's rows of state instead, as JSON lines."),
    ] = None,
    as_version: Annotated[
        int | None,
        typer.Option(min=2, max=6, help="Write the metadata in this version of Flink's format, for older readers."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Where rows go (.jsonl, .ndjson or .parquet), or the metadata."),
    ] = None,
    root: Annotated[
        str | None,
        typer.Option(metavar="PATH_OR_URL", help="The storage in which the files lie; default: as the folder tells."),
    ] = None,
) -> None:
    """Show what a checkpoint or savepoint of Moorage or Flink consists of."""
    from moorage.inspect.checkpoint import open_checkpoint
    from moorage.inspect.describe import describe
    from moorage.inspect.verify import verify as verify_files
    from moorage_cli.inspect_view import report_view, verification_view
    from moorage_cli.screen import foreign_text

    if (rows is None) == (as_version is None) and (output is not None or rows is not None):
        raise SettingError("use one of --rows OPERATOR and --as-version VERSION, the latter with --output FILE")
    checkpoint = open_checkpoint(location, root=root)
    if rows is not None:
        _print_rows(checkpoint, rows, output)
        return
    if as_version is not None:
        _write_metadata(checkpoint, as_version, output)
        return
    report = describe(checkpoint)
    with Console(stderr=True).status("") as status:
        verification = verify_files(checkpoint, lambda name: status.update(foreign_text(name))) if verify else None
    if as_json:
        document: dict[str, Any] = msgspec.to_builtins(report)
        if verification is not None:
            document["verification"] = msgspec.to_builtins(verification)
        _write_json(document)
    else:
        out = Console(soft_wrap=True)
        out.print(report_view(report, full=full))
        if verification is not None:
            out.print(verification_view(verification))
    if verification is not None and not verification.whole:
        raise NotWholeError(f"{checkpoint.location}: {len(verification.damaged)} of its files are not whole")


def _print_rows(checkpoint: OpenCheckpoint, operator: str, output: Path | None) -> None:
    from moorage.inspect.export import export, write_json_lines
    from moorage.inspect.table import OperatorTable

    table = OperatorTable(checkpoint, operator)
    if output is None:
        write_json_lines(sys.stdout.buffer, table)
        sys.stdout.flush()
        return
    count = export(table, output)
    Console(stderr=True, soft_wrap=True).print(f"{count} rows of {operator} in {output}", highlight=False, markup=False)


def _write_metadata(checkpoint: OpenCheckpoint, version: int, output: Path | None) -> None:
    from moorage.inspect.export import export_metadata

    if output is None:
        raise SettingError("--as-version needs --output FILE")
    export_metadata(checkpoint, version, output)


def _write_json(document: object) -> None:
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(document)).decode() + "\n")
