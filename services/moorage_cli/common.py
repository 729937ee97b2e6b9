"""What commands share: options, the two streams, the coordinator."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from moorage.api.compiler import CompiledPipeline
from moorage.api.loader import load_pipeline
from moorage.config import CommandLineSettings, load
from moorage_cli.client import CoordinatorClient

out = Console(soft_wrap=True)
err = Console(stderr=True, soft_wrap=True)

Rest = Annotated[
    str | None, typer.Option(metavar="URL", help="Where the coordinator answers; default MOORAGE_REST_URL, else here.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
DataDir = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Of a `moorage dev` that runs: its servers, in place of MOORAGE_... settings."),
]
Job = Annotated[str, typer.Argument(help="Name of the job.")]
PipelineRef = Annotated[str, typer.Argument(metavar="PIPELINE", help="MODULE:ATTRIBUTE or FILE.py:ATTRIBUTE.")]


def load_ref(ref: str) -> CompiledPipeline:
    """Import a pipeline as `python -m` would, with the present directory on the path."""
    sys.path.insert(0, str(Path.cwd()))
    return load_pipeline(ref)


def connect_client(rest: str | None) -> CoordinatorClient:
    return CoordinatorClient(rest or load(CommandLineSettings, os.environ).rest_url, rest_token())


def servers_env(data_dir: Path | None) -> dict[str, str]:
    """The environment, with the servers of the stack in ``data_dir``."""
    from moorage_cli.embedded.stack import servers_of  # its imports take a while

    return dict(os.environ) if data_dir is None else {**os.environ, **servers_of(data_dir)}


def rest_token() -> str | None:
    token = load(CommandLineSettings, os.environ).rest_token
    return token.reveal() if token is not None else None


def print_json(data: object) -> None:
    out.file.write(msgspec.json.format(msgspec.json.encode(data)).decode() + "\n")
