"""The commands `moorage registry ...`."""

from __future__ import annotations

import os
from typing import Annotated

import typer
from rich.console import Console

registry_app = typer.Typer(help="The checkpoint registry in Redis.", no_args_is_help=True)


@registry_app.callback()
def _registry() -> None:
    """A group: it has commands of its own even while there is only one."""


@registry_app.command()
def rebuild(
    job: Annotated[str, typer.Argument(help="Name of a job that the registry has lost.")],
) -> None:
    """Bring a job back from the checkpoints in the storage, after Redis has lost its data.

    A coordinator that leads does so by itself for every job that workers still run; this is for those that nobody runs.
    MOORAGE_... settings say where Redis and the storage are. No coordinator may be running.
    """
    from moorage.ids import JobId
    from moorage_cli.rebuilding import rebuild_registry

    history = rebuild_registry(os.environ, JobId(job))
    retained = ", ".join(str(record.checkpoint) for record in history.checkpoints)
    Console(soft_wrap=True).print(
        f"job {job} is back with checkpoint {retained}; the next coordinator starts it as attempt"
        f" {history.last_attempt + 1}",
        highlight=False,
    )
