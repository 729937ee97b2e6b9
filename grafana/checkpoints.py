"""The dashboard that Grafana opens with: is every job's state safe, and how long would a restart have to go back?"""

from __future__ import annotations

from grafana.common import ANNOTATIONS, JOB, RATE, age, by_label, quantile, quantiles
from grafana.model import (
    BLUE,
    GREEN,
    GREY,
    RED,
    YELLOW,
    Column,
    Dashboard,
    Query,
    Row,
    bars,
    graph,
    number,
    states,
    table,
)

_AGE = f"min by (job_name) ({age('moorage_checkpoint_last_completed_timestamp_seconds', JOB)})"
_INTERVAL = f"max by (job_name) (moorage_checkpoint_interval_seconds{{{JOB}}})"


def _count(outcome: str, window: str = RATE) -> str:
    return f'sum by (job_name) (increase(moorage_checkpoints_total{{{JOB}, outcome="{outcome}"}}{window}))'


_STATE = (
    f"3 * ({_count('failed')} > bool 0) > 0"
    f" or {_count('completed')} > bool 0 > 0"
    f" or 2 * (max by (job_name) (moorage_checkpoints_in_progress{{{JOB}}}) > bool 0) > 0"
    f" or 0 * {_INTERVAL}"
)


def _subtask(phase: str) -> str:
    return f"max by (vertex, subtask) (moorage_task_checkpoint_{phase}{{{JOB}}})"


_SUBTASK_AGE = "min by (vertex, subtask) (" + age("moorage_task_checkpoint_acknowledged_timestamp_seconds", JOB) + ")"
_SLOWEST = (
    "topk(5, "
    + " + ".join(_subtask(f"{phase}_seconds") for phase in ("start_delay", "alignment", "sync", "async"))
    + ")"
)

CHECKPOINTS = Dashboard(
    uid="moorage-checkpoints",
    title="Moorage: Checkpoints",
    description="What is safe, what a checkpoint costs, and which subtask it waits for.",
    job_metric="moorage_checkpoint_interval_seconds",
    annotations=ANNOTATIONS,
    rows=[
        Row(
            "Now",
            [
                number(
                    "Age of the last checkpoint",
                    "After a crash, this much is processed again. Normal: up to two intervals. If it grows: look at"
                    " failures by reason, then at the slowest subtask.",
                    "s",
                    Query(f"max({_AGE})"),
                ),
                number(
                    "Age in intervals",
                    "The same, measured in checkpoint intervals. From 3 on an alert fires.",
                    "none",
                    Query(f"max({_AGE} / ({_INTERVAL} > 0))"),
                    steps=((None, GREEN), (2, YELLOW), (3, RED)),
                ),
                number(
                    "Completed",
                    "Checkpoints that were completed in the time shown.",
                    "none",
                    Query(f"round(sum({_count('completed', '[$__range]')}))"),
                ),
                number(
                    "Failed",
                    "Checkpoints that were triggered and aborted in the time shown. A few at a crash are normal: those"
                    " that were under way. Otherwise see failures by reason.",
                    "none",
                    Query(f"round(sum({_count('failed', '[$__range]')}))"),
                    steps=((None, GREEN), (1, YELLOW)),
                ),
                number(
                    "In progress",
                    "Triggered and not decided yet. Normal: 0 or 1.",
                    "none",
                    Query(f"sum(moorage_checkpoints_in_progress{{{JOB}}})"),
                ),
                number(
                    "Last id",
                    "Id of the newest completed checkpoint, as in the REST API and in the storage.",
                    "none",
                    Query(f"max(moorage_checkpoint_last_completed_id{{{JOB}}})"),
                ),
                number(
                    "Restored from",
                    "Id of the checkpoint that a job was last restored from, as far as the present leader knows; 0:"
                    " none.",
                    "none",
                    Query(f"max(moorage_checkpoint_restored_id{{{JOB}}}) or on () vector(0)"),
                ),
                number(
                    "Age of the last savepoint",
                    "Since the last completed savepoint was triggered, as far as the present leader knows.",
                    "s",
                    Query(f"min({age('moorage_checkpoint_last_savepoint_timestamp_seconds', JOB)})"),
                ),
                number(
                    "Age of the last failure",
                    "Since a checkpoint failed, as far as the present leader knows; its id and reason: `moorage"
                    " checkpoints`.",
                    "s",
                    Query(f"min({age('moorage_checkpoint_last_failed_timestamp_seconds', JOB)})"),
                ),
                number(
                    "State",
                    "Size of all that the last completed checkpoints refer to: what a restart has to read.",
                    "bytes",
                    Query(f"sum(moorage_checkpoint_last_state_bytes{{{JOB}}})"),
                ),
            ],
        ),
        Row(
            "History",
            [
                states(
                    "History",
                    "Per job: a checkpoint failed (red), was completed (green), or was under way all the time (blue)."
                    " Normal: green throughout. Blue for long: checkpoints take longer than their interval.",
                    Query(_STATE, "{{job_name}}"),
                    {3: ("failed", RED), 1: ("completed", GREEN), 2: ("in progress", BLUE), 0: ("none", GREY)},
                    width=24,
                ),
                graph(
                    "Age against the interval",
                    "Normal: below the interval plus the duration of a checkpoint.",
                    "s",
                    Query(_AGE, "{{job_name}}"),
                    Query(_INTERVAL, "{{job_name}} interval"),
                ),
                graph(
                    "Outcomes",
                    "Checkpoints per minute. Refused ones were never triggered, because the job was not running, for"
                    " example.",
                    "cpm",
                    Query(
                        f"60 * sum by (outcome) (rate(moorage_checkpoints_total{{{JOB}}}{RATE}))",
                        "{{outcome}}",
                    ),
                    Query(f"60 * sum(rate(moorage_checkpoints_triggered_total{{{JOB}}}{RATE}))", "triggered"),
                ),
                graph(
                    "Failures by reason",
                    "declined_storage: the storage did not take state. declined_log: Kafka confirmed nothing. expired:"
                    " longer than the timeout, see the slowest subtask. job_failover: under way when the job failed."
                    " not_registered: Redis did not answer.",
                    "cpm",
                    by_label(
                        "reason",
                        "60 * sum by (reason) (rate(moorage_checkpoints_total{"
                        f'{JOB}, outcome=~"failed|refused"}}{RATE})) > 0',
                    ),
                    bars=True,
                    stacked=True,
                ),
            ],
        ),
        Row(
            "Duration",
            [
                graph(
                    "End to end",
                    "From the trigger to the commit in Redis. Normal: well below the interval. What part of it grows"
                    " is to the right.",
                    "s",
                    *quantiles("moorage_checkpoint_duration_seconds", f"{{{JOB}}}"),
                ),
                graph(
                    "Parts (90 % are faster)",
                    "Start delay: the barrier's way to the last subtask; grows with backlog. Alignment: waiting for the"
                    " slowest channel. Synchronous: processing stands still. Asynchronous: upload and flush to Kafka."
                    " Master hooks come before all of that, operator coordinators beside it.",
                    "s",
                    *(
                        quantile(0.9, f"moorage_checkpoint_{part}_seconds", f"{{{JOB}}}", legend)
                        for part, legend in (
                            ("start_delay", "start delay"),
                            ("alignment", "alignment"),
                            ("sync", "synchronous"),
                            ("async", "asynchronous"),
                            ("hooks", "master hooks"),
                            ("operator_coordinators", "operator coordinators"),
                        )
                    ),
                ),
                graph(
                    "Share of the timeout",
                    "The slowest 1 % against the timeout. A checkpoint that gets to 1 is aborted; from 0.7 on an alert"
                    " fires.",
                    "percentunit",
                    Query(
                        "histogram_quantile(0.99, sum by (job_name, le) (rate("
                        f"moorage_checkpoint_duration_seconds_bucket{{{JOB}}}{RATE})))"
                        f" / max by (job_name) (moorage_checkpoint_timeout_seconds{{{JOB}}})",
                        "{{job_name}}",
                    ),
                ),
            ],
        ),
        Row(
            "Size",
            [
                graph(
                    "Full and incremental size",
                    "Full: all that a checkpoint refers to. Incremental: what it wrote anew. The incremental size"
                    " follows the number of keys that change per interval, not the state.",
                    "bytes",
                    Query(f"sum(moorage_checkpoint_last_state_bytes{{{JOB}}})", "full"),
                    Query(
                        f"sum(rate(moorage_checkpoint_written_bytes_total{{{JOB}}}{RATE}))"
                        f' / sum(rate(moorage_checkpoints_total{{{JOB}, outcome="completed"}}{RATE}))',
                        "incremental",
                    ),
                ),
                graph(
                    "Written to the storage",
                    "New bytes per second of completed checkpoints.",
                    "Bps",
                    Query(
                        f"sum by (job_name) (rate(moorage_checkpoint_written_bytes_total{{{JOB}}}{RATE}))",
                        "{{job_name}}",
                    ),
                ),
                graph(
                    "In flight",
                    "In exchanges: written and not processed yet; a restart reads it from Kafka. Held back: frames in"
                    " memory behind a barrier that was seen, until the alignment ends.",
                    "bytes",
                    Query(f"sum(moorage_exchange_lag_bytes{{{JOB}}})", "in exchanges"),
                    Query(f"sum(moorage_task_held_bytes{{{JOB}}})", "held back"),
                ),
            ],
        ),
        Row(
            "Summary",
            [
                table(
                    "All completed checkpoints",
                    "Since the present leader leads; percentiles of the last 1,000. Written is the incremental size,"
                    " state the full one. Held back, processed and persisted are bytes in flight while the checkpoint"
                    " was taken: aligned checkpoints hold back, unaligned ones persist, as positions in Kafka.",
                    ["job_name", "statistic"],
                    Column(
                        "duration",
                        f"max by (job_name, statistic) (moorage_checkpoint_duration_summary_seconds{{{JOB}}})",
                        "s",
                    ),
                    *(
                        Column(
                            legend,
                            "max by (job_name, statistic) (moorage_checkpoint_size_summary_bytes"
                            f'{{{JOB}, measure="{measure}"}})',
                            "bytes",
                        )
                        for measure, legend in (
                            ("written", "written"),
                            ("state", "state"),
                            ("held", "held back"),
                            ("processed", "processed"),
                            ("persisted", "persisted"),
                        )
                    ),
                    width=16,
                ),
                graph(
                    "In flight per checkpoint",
                    "Bytes of frames that a checkpoint met on its way, on average.",
                    "bytes",
                    *(
                        Query(
                            f"sum(rate(moorage_checkpoint_{part}_bytes_total{{{JOB}}}{RATE}))"
                            f' / sum(rate(moorage_checkpoints_total{{{JOB}, outcome="completed"}}{RATE}))',
                            legend,
                        )
                        for part, legend in (
                            ("held", "held back"),
                            ("processed", "processed"),
                            ("persisted", "persisted"),
                        )
                    ),
                ),
            ],
        ),
        Row(
            "By operator and subtask, newest checkpoint",
            [
                bars(
                    "Slowest subtasks",
                    "Start delay, alignment, synchronous and asynchronous part together. The first one is what the"
                    " checkpoint waits for. If it is always the same: its keys are hot, or its worker is overloaded.",
                    "s",
                    Query(_SLOWEST, "{{vertex}}/{{subtask}}"),
                ),
                table(
                    "Subtasks",
                    "Each subtask's part in the newest checkpoint that it has acknowledged. Exactly-once sinks have"
                    " none: they hold no state.",
                    ["vertex", "subtask"],
                    Column("checkpoint", _subtask("acknowledged_id"), "none"),
                    Column("ago", _SUBTASK_AGE, "s"),
                    Column("start delay", _subtask("start_delay_seconds"), "s"),
                    Column("alignment", _subtask("alignment_seconds"), "s"),
                    Column("synchronous", _subtask("sync_seconds"), "s"),
                    Column("asynchronous", _subtask("async_seconds"), "s"),
                    Column("held back", _subtask("held_bytes"), "bytes"),
                    Column("processed", _subtask("processed_bytes"), "bytes"),
                    Column("persisted", _subtask("persisted_bytes"), "bytes"),
                    Column("written", _subtask("written_bytes"), "bytes"),
                    Column("full size", _subtask("state_bytes"), "bytes"),
                    width=16,
                ),
                graph(
                    "Asynchronous part by operator",
                    "The slowest subtask of each operator. High everywhere: the storage or Kafka is slow. High for one:"
                    " its state is large.",
                    "s",
                    Query(
                        f"max by (vertex) (moorage_task_checkpoint_async_seconds{{{JOB}}})",
                        "{{vertex}}",
                    ),
                ),
                graph(
                    "Alignment by operator",
                    "The slowest subtask of each operator. High: one channel is far behind the others.",
                    "s",
                    Query(
                        f"max by (vertex) (moorage_task_checkpoint_alignment_seconds{{{JOB}}})",
                        "{{vertex}}",
                    ),
                ),
                graph(
                    "Start delay by operator",
                    "How long the barrier was under way. It adds up along the pipeline, and grows with backlog.",
                    "s",
                    Query(
                        f"max by (vertex) (moorage_task_checkpoint_start_delay_seconds{{{JOB}}})",
                        "{{vertex}}",
                    ),
                ),
            ],
        ),
        Row(
            "Trouble",
            [
                graph(
                    "Checkpoints that could not be read",
                    "At a restart a file was missing or corrupt, and an older checkpoint was tried. Normal: 0."
                    " Otherwise look at the storage; the coordinator's log names the file.",
                    "none",
                    Query(
                        f"sum by (job_name) (increase(moorage_checkpoints_unreadable_total{{{JOB}}}[$__range]))",
                        "{{job_name}}",
                    ),
                    width=12,
                ),
                graph(
                    "Savepoints left behind",
                    "Savepoints that failed and whose files could not be deleted. Normal: 0. Otherwise delete the"
                    " folders that the coordinator's log names.",
                    "none",
                    Query(
                        f"sum by (job_name) (increase(moorage_checkpoint_savepoints_left_total{{{JOB}}}[$__range]))",
                        "{{job_name}}",
                    ),
                    width=12,
                ),
                graph(
                    "Restores",
                    "How often a job was started again from a checkpoint in the time shown.",
                    "none",
                    Query(
                        f"sum by (job_name) (increase(moorage_checkpoints_restored_total{{{JOB}}}[$__range]))",
                        "{{job_name}}",
                    ),
                    width=12,
                ),
                graph(
                    "Ids",
                    "Of the checkpoint last restored from, and of the newest completed, failed and saved ones.",
                    "none",
                    Query(
                        f"max by (job_name) (moorage_checkpoint_restored_id{{{JOB}}}) or 0 * {_INTERVAL}",
                        "{{job_name}} restored",
                    ),
                    Query(
                        f"max by (job_name) (moorage_checkpoint_last_completed_id{{{JOB}}})",
                        "{{job_name}} completed",
                    ),
                    Query(f"max by (job_name) (moorage_checkpoint_last_failed_id{{{JOB}}})", "{{job_name}} failed"),
                    Query(
                        f"max by (job_name) (moorage_checkpoint_last_savepoint_id{{{JOB}}})", "{{job_name}} savepoint"
                    ),
                    width=12,
                ),
            ],
        ),
    ],
)
