"""`moorage inspect`: what is in a checkpoint or savepoint."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console

from moorage.errors import MoorageError


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

    out = Console(soft_wrap=True)
    checkpoint = open_checkpoint(location, root=root)
    report = describe(checkpoint)
    verification = verify_files(checkpoint) if verify else None
    if as_json:
        document: dict[str, Any] = msgspec.to_builtins(report)
        if verification is not None:
            document["verification"] = msgspec.to_builtins(verification)
        _write_json(document)
    else:
        out.print(report_view(report, full=full))
        if verification is not None:
            out.print(verification_view(verification))
    if verification is not None and not verification.whole:
        raise NotWholeError(f"{checkpoint.location}: {len(verification.damaged)} of its files are not whole")


def _write_json(document: object) -> None:
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(document)).decode() + "\n")
