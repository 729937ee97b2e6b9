"""The console script `moorage`.

Exit codes: 0 done; 1 something failed while running; 2 what was asked for can't be right (an unknown option, a bad
setting, a pipeline that can't be imported or compiled). Data goes to standard output, everything else to standard
error; ``--json`` prints data for programs. What only one command needs is imported by it, so that `moorage jobs`
does not wait for the clients of Kafka and Redis.
"""

from __future__ import annotations

import logging
import os
import queue
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, NoReturn

import typer

import moorage
from moorage.api.traces import user_trace
from moorage.config import KafkaSettings, load
from moorage.errors import MoorageError, PipelineError, SettingError, UserCodeError
from moorage_cli.checkpoints import checkpoint, checkpoints, exceptions
from moorage_cli.clean import clean, purge
from moorage_cli.common import (
    AsJson,
    PipelineRef,
    Rest,
    connect_client,
    err,
    load_ref,
    out,
    print_json,
    rest_token,
)
from moorage_cli.failure_view import troubles
from moorage_cli.inspect import inspect
from moorage_cli.interrupts import until_interrupted
from moorage_cli.jobs import cancel, dispose, rescale, restore, savepoint, stop, submit
from moorage_cli.registry import registry_app
from moorage_cli.screen import Screen, jobs_table, printable

USER_ERROR = 2
INTERRUPTED = 130
"""As shells say it of a program that Ctrl-C ended: whoever waits for a verdict must not take it for one."""

app = typer.Typer(
    help="Moorage: exactly-once stream processing on Kafka.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
Workers = Annotated[int, typer.Option(min=1, help="Worker processes.")]
Kafka = Annotated[
    str | None,
    typer.Option(
        metavar="SERVERS", envvar="MOORAGE_KAFKA_BOOTSTRAP_SERVERS", help="A running Kafka, in place of our own."
    ),
]


def main() -> None:
    """Run the command line; never shows a traceback of ours for an error that we raised on purpose."""
    # What the clients of Kafka log while servers come and go would be drawn over the live view; what matters is raised.
    logging.getLogger().addHandler(logging.NullHandler())
    try:
        app()
    except UserCodeError as error:
        if error.__cause__ is not None:
            err.file.write(user_trace(error.__cause__))
        _fail(error, USER_ERROR)
    except (PipelineError, SettingError) as error:
        _fail(error, USER_ERROR)
    except MoorageError as error:
        _fail(error, 1)


def _fail(error: MoorageError, code: int) -> NoReturn:
    err.print(printable(f"moorage: {error}"), style="red", markup=False, highlight=False)
    raise SystemExit(code) from None


def _version(asked: bool) -> None:
    if asked:
        out.print(f"moorage {moorage.__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def _options(
    _asked: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


# --- the whole stack on this machine ---------------------------------------------------------------------------------


@app.command()
def dev(
    pipeline: PipelineRef,
    workers: Workers = 2,
    data_dir: Annotated[Path, typer.Option(help="Where everything is kept; a second start goes on from there.")] = Path(
        "moorage-data"
    ),
    kafka: Kafka = None,
    redis: Annotated[
        str | None,
        typer.Option(metavar="URL", envvar="MOORAGE_REDIS_URL", help="A running Redis, in place of our own."),
    ] = None,
    kafka_port: Annotated[int, typer.Option(help="Of our own Kafka; 0: any free one.")] = 9092,
    rest_port: Annotated[int, typer.Option(help="Of the coordinator; 0: any free one.")] = 8081,
    metrics_port: Annotated[int, typer.Option(help="Of the coordinator; the other services take the next ones.")] = 0,
) -> None:
    """Run a pipeline on a Kafka and a Redis of its own, with all services, until Ctrl-C."""
    from moorage_cli.dev import Watch, prepare
    from moorage_cli.embedded.processes import ProcessExit
    from moorage_cli.embedded.stack import Stack

    compiled = load_ref(pipeline)
    exits: queue.Queue[ProcessExit] = queue.Queue()
    screen = Screen(out, line_interval_s=30.0)
    stack = Stack(
        data_dir,
        workers=workers,
        kafka=kafka,
        redis=redis,
        kafka_port=kafka_port,
        rest_port=rest_port,
        metrics_port=metrics_port,
        token=rest_token(),
        on_exit=exits.put,
        announce=screen.event,
    )
    with until_interrupted(exit_code=0), stack, stack.client() as client:
        prepare(stack, client, compiled, screen)
        out.print(
            f"\n  Kafka    {stack.bootstrap_servers}\n  Redis    {stack.redis_url}\n  REST     {stack.rest_url}",
            highlight=False,
        )
        for name, url in stack.metrics_urls.items():
            out.print(f"  metrics  {url}  {name}", highlight=False)
        stack.write_servers()
        out.print(
            f"  storage  {stack.checkpoint_dir}\n  logs     {stack.logs_dir}\n"
            "  Ctrl-C ends; the next start goes on from the last checkpoint.\n",
            highlight=False,
        )
        with screen:
            Watch(stack, client, compiled.graph, exits, screen).run()


@app.command()
def demo(
    orders: Annotated[int, typer.Option(min=1_000, help="How many.")] = 200_000,
    seconds: Annotated[float, typer.Option(min=1.0, help="Over how long they are produced.")] = 40.0,
    workers: Workers = 2,
    timeout: Annotated[float, typer.Option(min=1.0, help="Give up waiting for results after so many seconds.")] = 150.0,
    kafka: Kafka = None,
    keep: Annotated[Path | None, typer.Option(metavar="DIR", help="Keep data and logs in this directory.")] = None,
    as_json: AsJson = False,
) -> None:
    """Kill a worker and the coordinator while 200,000 orders are processed, and count every result."""
    from moorage_cli.demo import Demo, NotExactlyOnceError, borrowed_kafka, report_table
    from moorage_cli.embedded.stack import Stack

    screen = Screen(err if as_json else out)
    borrowed = nullcontext() if kafka is None else borrowed_kafka(kafka)
    with borrowed, _demo_dir(keep) as data_dir:
        stack = Stack(
            data_dir,
            workers=workers,
            kafka=kafka,
            token=rest_token(),
            on_exit=lambda exit_: screen.event(str(exit_), "yellow"),
            announce=screen.event,
        )
        with until_interrupted(exit_code=INTERRUPTED), stack, screen:
            run = Demo(stack, screen, orders=orders, seconds=seconds, timeout_s=timeout)
            report = run.run()
        if as_json:
            print_json(report)
        else:
            out.print()
            out.print(report_table(report))
        if not report.exactly_once:
            raise NotExactlyOnceError("the output is not exactly-once")


@contextmanager
def _demo_dir(keep: Path | None) -> Iterator[Path]:
    """``keep``, else a directory that goes in the end, unless something failed and somebody will want to look."""
    if keep is not None:
        yield keep
        return
    directory = Path(tempfile.mkdtemp(prefix="moorage-demo-"))
    try:
        yield directory
    except typer.Exit:
        shutil.rmtree(directory)
        raise
    except BaseException:
        err.print(f"Data and logs of this run are in {directory}", highlight=False)
        raise
    shutil.rmtree(directory)


# --- services by themselves ------------------------------------------------------------------------------------------


@app.command()
def coordinator() -> None:
    """Start a coordinator; its settings are MOORAGE_* environment variables."""
    from moorage_coordinator.main import main as run

    raise typer.Exit(run())


@app.command()
def worker() -> None:
    """Start a worker; its settings are MOORAGE_* environment variables."""
    from moorage_worker.main import main as run

    raise typer.Exit(run())


@app.command()
def cleaner() -> None:
    """Start a cleaner; its settings are MOORAGE_* environment variables."""
    from moorage_cleaner.main import main as run

    raise typer.Exit(run())


# --- topics and records for trying out -------------------------------------------------------------------------------


@app.command()
def topics(
    pipeline: Annotated[
        str | None,
        typer.Argument(metavar="PIPELINE", envvar="MOORAGE_COORDINATOR_PIPELINE", help="As for submit; none: nothing."),
    ] = None,
    partitions: Annotated[int, typer.Option(min=1, help="Of each topic that is made.")] = 4,
) -> None:
    """Create the input, output and dead-letter topics of a pipeline that are missing in MOORAGE_KAFKA_..."""
    from moorage_cli.kafka import connect, create_missing, topics_of

    if pipeline is None:
        out.print("no pipeline is named, so no topics are needed", highlight=False)
        return
    names = topics_of(load_ref(pipeline))
    with closing(connect(load(KafkaSettings, os.environ).bootstrap_servers)) as log:
        created = create_missing(log, names, partitions)
    for name in names:
        out.print(f"{name}: {f'created, {partitions} partitions' if name in created else 'is there'}", highlight=False)


@app.command()
def loadgen(
    rate: Annotated[int, typer.Option(min=1, help="Orders per second.")] = 1_000,
    users: Annotated[int, typer.Option(min=1, help="How many users order.")] = 1_000,
) -> None:
    """Send orders to the topic `orders` of MOORAGE_KAFKA_... until Ctrl-C: load for the example pipeline."""
    from moorage_cli.kafka import connect
    from moorage_cli.loadgen import OrderLoad

    with (
        until_interrupted(exit_code=0),
        closing(connect(load(KafkaSettings, os.environ).bootstrap_servers)) as log,
        closing(log.record_writer("loadgen")) as writer,
    ):
        OrderLoad(writer, rate=rate, users=users, tell=lambda line: out.print(line, highlight=False)).run()


# --- jobs ------------------------------------------------------------------------------------------------------------


@app.command()
def jobs(rest: Rest = None, as_json: AsJson = False) -> None:
    """List the jobs."""
    with connect_client(rest) as client:
        found = client.jobs()
    if as_json:
        print_json(found)
    else:
        out.print(jobs_table(found))
        for line in troubles(found):
            out.print(line)


app.command()(checkpoints)
app.command()(checkpoint)
app.command()(exceptions)
app.command()(submit)
app.command()(restore)
app.command()(cancel)
app.command()(stop)
app.command()(savepoint)
app.command()(dispose)
app.command()(rescale)
app.command()(inspect)
app.command()(clean)
app.command()(purge)
app.add_typer(registry_app, name="registry")
