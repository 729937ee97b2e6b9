"""The commands that start, change and end jobs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NamedTuple

import typer
from rich.text import Text

from moorage.cluster.protocol import RestoreFrom
from moorage.graph.job_graph import JobGraph
from moorage.messages.registry import RestoreMode
from moorage_cli.client import Operation, RestError
from moorage_cli.common import AsJson, Job, PipelineRef, Rest, connect_client, err, load_ref, out, print_json
from moorage_cli.overrides import overridden
from moorage_cli.screen import Screen
from moorage_cli.waiting import wait_for_job

Directory = Annotated[
    str | None,
    typer.Option(
        "--directory",
        "-d",
        metavar="PATH_OR_URL",
        help="Where the savepoint's own folder is made; default: below the job in the checkpoint storage.",
    ),
]
Native = Annotated[
    bool, typer.Option("--native", help="In the state backend's own format: faster, but no other backend reads it.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PART.NAME=VALUE", help="In place of the pipeline's: checkpoint.interval_ms=500."),
]
Parallelism = Annotated[
    int | None, typer.Option("--parallelism", "-p", min=1, help="Of every vertex, in place of the pipeline's.")
]
AllowNonRestored = Annotated[
    bool, typer.Option("--allow-non-restored", help="Leave state behind that the pipeline has no operator for.")
]
Claim = Annotated[
    bool,
    typer.Option("--claim/--no-claim", help="Take over the files: they are deleted when no checkpoint needs them."),
]
Wait = Annotated[bool, typer.Option("--wait", help="Return when every task runs; exit code 1: the job has failed.")]
WaitEnd = Annotated[
    bool, typer.Option("--wait-end", help="Return when the job has ended; exit code 1: in another way than FINISHED.")
]
Timeout = Annotated[float | None, typer.Option(min=0.1, help="Stop waiting after so many seconds; the job goes on.")]


def submit(
    pipeline: PipelineRef,
    from_: Annotated[
        str | None, typer.Option("--from", metavar="PATH_OR_URL", help="Savepoint or checkpoint to start from.")
    ] = None,
    allow_non_restored: AllowNonRestored = False,
    claim: Claim = False,
    settings: Settings = None,
    parallelism: Parallelism = None,
    wait: Wait = False,
    wait_end: WaitEnd = False,
    timeout: Timeout = None,
    rest: Rest = None,
    as_json: AsJson = False,
) -> None:
    """Compile a pipeline and start it; workers import it by the same name, so they need the same files."""
    source = None if from_ is None else _source(from_, allow_non_restored=allow_non_restored, claim=claim)
    graph = overridden(load_ref(pipeline).graph, settings or (), parallelism)
    _submit(graph, source, _Wait(wait, wait_end, timeout), rest, as_json=as_json)


def restore(
    pipeline: PipelineRef,
    savepoint: Annotated[str, typer.Argument(metavar="PATH_OR_URL", help="Savepoint or checkpoint to start from.")],
    allow_non_restored: AllowNonRestored = False,
    claim: Claim = False,
    settings: Settings = None,
    parallelism: Parallelism = None,
    wait: Wait = False,
    wait_end: WaitEnd = False,
    timeout: Timeout = None,
    rest: Rest = None,
    as_json: AsJson = False,
) -> None:
    """Start a pipeline from a savepoint: `submit PIPELINE --from PATH_OR_URL`."""
    source = _source(savepoint, allow_non_restored=allow_non_restored, claim=claim)
    graph = overridden(load_ref(pipeline).graph, settings or (), parallelism)
    _submit(graph, source, _Wait(wait, wait_end, timeout), rest, as_json=as_json)


def _source(path: str, *, allow_non_restored: bool, claim: bool) -> RestoreFrom:
    mode = RestoreMode.CLAIM if claim else RestoreMode.NO_CLAIM
    return RestoreFrom(path=path, allow_non_restored=allow_non_restored, mode=mode)


class _Wait(NamedTuple):
    """What `submit` waits for."""

    running: bool
    end: bool
    timeout_s: float | None


def _submit(graph: JobGraph, source: RestoreFrom | None, wait: _Wait, rest: str | None, *, as_json: bool) -> None:
    if wait.timeout_s is not None and not (wait.running or wait.end):
        raise typer.BadParameter("--timeout needs --wait or --wait-end")
    with connect_client(rest) as client:
        try:
            job = client.submit(graph, source)
        except RestError as error:
            raise with_hint(error, source) from None
        if not (wait.running or wait.end):
            if as_json:
                print_json({"jobid": job})
            else:
                out.print(f"submitted {job}", highlight=False)
            return
        with Screen(err) as screen:
            state = wait_for_job(
                client,
                job,
                until_end=wait.end,
                timeout_s=wait.timeout_s,
                tell=lambda progress: screen.update(lambda: Text(progress), lambda: progress),
                tell_failure=lambda failure: screen.event(failure, "red"),
            )
    if as_json:
        print_json({"jobid": job, "state": state})
    else:
        out.print(f"{job} is {state}", highlight=False)


def with_hint(error: RestError, source: RestoreFrom | None) -> RestError:
    """What a shell completes is relative to the present folder, and that is not what the coordinator makes of it."""
    path = "" if source is None else source.path
    if "://" in path or Path(path).is_absolute() or not path or not Path(path).exists():
        return error
    place = Path(path).resolve()
    return RestError(
        f"{error}. A relative path is one in the checkpoint storage; the one here is {place}", error.status
    )


def cancel(
    job: Job,
    with_savepoint: Annotated[bool, typer.Option("--savepoint", help="Take a savepoint first.")] = False,
    directory: Directory = None,
    native: Native = False,
    timeout: Timeout = None,
    rest: Rest = None,
    as_json: AsJson = False,
) -> None:
    """End a job for good; without --savepoint at once: submitted again, it begins anew."""
    with connect_client(rest) as client:
        if with_savepoint:
            operation = client.cancel_with_savepoint(job, directory, native=native)
            _show_savepoint(f"{job} is cancelled with a savepoint", operation, timeout, as_json=as_json)
            return
        client.cancel(job)
    if as_json:
        print_json({"jobid": job})
    else:
        out.print(f"{job} is being cancelled", highlight=False)


def stop(
    job: Job,
    drain: Annotated[
        bool, typer.Option("--drain", help="As if the input had ended for good: what waits for more is sent out.")
    ] = False,
    _savepoint: Annotated[bool, typer.Option("--savepoint", help="Said for clearness: there is no other stop.")] = True,
    directory: Directory = None,
    native: Native = False,
    timeout: Timeout = None,
    rest: Rest = None,
    as_json: AsJson = False,
) -> None:
    """Stop a job with a savepoint, every result committed; `restore` goes on from there."""
    with connect_client(rest) as client:
        operation = client.stop(job, directory, native=native, drain=drain)
        _show_savepoint(f"{job} stops with a savepoint", operation, timeout, as_json=as_json)


def savepoint(
    job: Job,
    directory: Directory = None,
    native: Native = False,
    timeout: Timeout = None,
    rest: Rest = None,
    as_json: AsJson = False,
) -> None:
    """Take a savepoint of a running job, which goes on."""
    with connect_client(rest) as client:
        operation = client.savepoint(job, directory, native=native)
        _show_savepoint(f"savepoint of {job}", operation, timeout, as_json=as_json)


def _show_savepoint(what: str, operation: Operation, timeout_s: float | None, *, as_json: bool) -> None:
    """The place of the savepoint is all that goes to standard output."""
    with err.status(what):
        location = operation.wait(timeout_s).location
    if as_json:
        print_json({"location": location})
    else:
        out.print(location, highlight=False)


def dispose(
    path: Annotated[str, typer.Argument(metavar="PATH_OR_URL", help="Folder of the savepoint.")],
    timeout: Timeout = None,
    rest: Rest = None,
) -> None:
    """Delete a savepoint with its files."""
    with connect_client(rest) as client, err.status(f"disposing of {path}"):
        client.dispose(path).wait(timeout)
    out.print(f"{path} is deleted", highlight=False)


def rescale(
    job: Job,
    parallelism: Annotated[
        int | None, typer.Option("--parallelism", "-p", min=1, help="Of every vertex that is not named.")
    ] = None,
    vertex: Annotated[
        list[str] | None, typer.Option("--vertex", metavar="UID=N", help="Of one vertex, by its first operator's uid.")
    ] = None,
    auto: Annotated[
        bool, typer.Option("--auto", help="As many as there are slots, now and whenever workers join or leave.")
    ] = False,
    rest: Rest = None,
) -> None:
    """Go on from a checkpoint with another parallelism; nothing is lost and nothing moves in Kafka."""
    vertices = dict(map(_vertex, vertex or ()))
    if parallelism is None and not vertices and not auto:
        raise typer.BadParameter("say --parallelism N, --vertex UID=N or --auto")
    if parallelism is not None and auto:
        raise typer.BadParameter("--parallelism and --auto exclude each other")
    with connect_client(rest) as client, err.status(f"rescaling {job}"):
        client.rescale(job, parallelism, vertices, automatic=auto)
    out.print(f"{job} goes on with another parallelism", highlight=False)


def _vertex(setting: str) -> tuple[str, int]:
    uid, _, number = setting.partition("=")
    if not uid or not number.isdecimal():
        raise typer.BadParameter(f"{setting!r} is not UID=N")
    return uid, int(number)
