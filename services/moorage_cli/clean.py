"""The commands `moorage clean` and `moorage purge`."""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer
from rich.console import Console

from moorage_cli.common import AsJson, DataDir, servers_env


def clean(
    job: Annotated[str | None, typer.Argument(help="Name of the job; none: all jobs.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would go and why, and delete nothing.")
    ] = False,
    now: Annotated[bool, typer.Option("--now", help="Delete it, without waiting for the cleaner.")] = False,
    files: Annotated[
        bool, typer.Option("--files", help="With --dry-run: name everything instead of counting.")
    ] = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Delete what no checkpoint needs, or show what that is (MOORAGE_... settings say where)."""
    from moorage.ids import JobId
    from moorage_cli.cleaning import cleaning, files_table, findings, removed_text, summary_table

    if dry_run == now:
        raise typer.BadParameter("say either --dry-run or --now")
    out = Console(soft_wrap=True)
    only = None if job is None else JobId(job)
    with cleaning(servers_env(data_dir)) as servers:
        if now:
            if only is not None:
                servers.preview(only)  # is it known, can it be read?
            removed = servers.clean(only)
            if as_json:
                _print_json(out, {"files": removed.files, "bytes": removed.size_bytes, "offsets": removed.offsets})
            else:
                out.print(f"deleted {removed_text(removed)}", highlight=False)
            return
        previews = [servers.preview(name) for name in (servers.jobs() if only is None else [only])]
    if as_json:
        _print_json(out, [finding for shown in previews for finding in findings(shown)])
    else:
        out.print(files_table(previews) if files else summary_table(previews))


def purge(
    job: Annotated[str, typer.Argument(help="Name of a job that has ended.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Delete all checkpoints, topics and groups of an ended job and forget it; savepoints stay. Takes half a minute."""
    from moorage.ids import JobId
    from moorage_cli.cleaning import PurgeScreen, cleaning, findings, removed_text, summary_table

    out, err = Console(soft_wrap=True), Console(stderr=True, soft_wrap=True)
    with cleaning(servers_env(data_dir)) as servers:
        shown = servers.preview_purge(JobId(job))
        if as_json:
            _print_json(out, list(findings(shown)))
        else:
            out.print(summary_table([shown]))
        if shown.savepoints:
            err.print("Its savepoints stay, and with them its topics and its entry in the registry.", highlight=False)
        if not yes and not typer.confirm(f"Purge job {job}? This can't be undone.", err=True):
            raise typer.Exit(1)
        with PurgeScreen(job, err) as screen:
            removed = servers.purge(shown, screen.tell)
    if shown.savepoints:
        err.print(f"Purged all of {job} but its savepoints: {removed_text(removed)}.", highlight=False)
    else:
        err.print(f"Purged {job}: {removed_text(removed)}. Its name is free.", highlight=False)


def _print_json(out: Console, data: object) -> None:
    out.file.write(msgspec.json.format(msgspec.json.encode(data)).decode() + "\n")
