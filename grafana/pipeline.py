"""Records: how many go in and out, and where they wait."""

from __future__ import annotations

from grafana.common import ANNOTATIONS, JOB, RATE, age
from grafana.model import GREEN, RED, YELLOW, Dashboard, Query, Row, graph, number
from grafana.rocksdb import ROCKSDB

_COMMIT_AGE = f"max by (job_name, vertex, subtask) ({age('moorage_sink_last_commit_timestamp_seconds', JOB)})"


def _per_second(metric: str, by: str = "vertex") -> str:
    return f"sum by ({by}) (rate({metric}{{{JOB}}}{RATE}))"


def _total_per_second(metric: str) -> str:
    return f"sum(rate({metric}{{{JOB}}}{RATE}))"


_SOURCES = f"group by (job_name, vertex) (moorage_source_records_skipped_total{{{JOB}}})"
"""Sources are those vertices that have this metric, exactly-once sinks those that have commits."""
_SINKS = f"group by (job_name, vertex) (moorage_sink_commits_total{{{JOB}}})"


def _of(vertices: str, metric: str) -> str:
    return f"sum(sum by (job_name, vertex) (rate({metric}{{{JOB}}}{RATE})) * on (job_name, vertex) {vertices})"


PIPELINE = Dashboard(
    uid="moorage-pipeline",
    title="Moorage: Pipeline",
    description="Records in and out, backlog, output, and records that could not be used.",
    job_metric="moorage_task_records_in_total",
    annotations=ANNOTATIONS,
    rows=[
        Row(
            "Now",
            [
                number(
                    "Records in",
                    "Per second, at all sources. 0 while there is input: look at the backlog, then at the services.",
                    "ops",
                    Query(_of(_SOURCES, "moorage_task_records_in_total")),
                    width=3,
                ),
                number(
                    "Input not read yet",
                    "Records in the input topics behind the sources. Normal: what comes in within a second. Growing:"
                    " see Held up and the busiest worker.",
                    "none",
                    Query(f"sum(moorage_source_lag_records{{{JOB}}})"),
                    width=3,
                ),
                number(
                    "Records out",
                    "Per second, written by exactly-once sinks; visible to read-committed readers with the next"
                    " checkpoint.",
                    "ops",
                    Query(_of(_SINKS, "moorage_task_records_out_total")),
                    width=3,
                ),
                number(
                    "Backlog in exchanges",
                    "Written by one operator and not yet processed by the next. Bounded by flow control. Always near"
                    " its bound: the consumer is too slow, give the job more parallelism.",
                    "bytes",
                    Query(f"sum(moorage_exchange_lag_bytes{{{JOB}}})"),
                    width=3,
                ),
                number(
                    "Age of the output",
                    "Since the sink that lags most has last committed. Normal: up to two checkpoint intervals, as sinks"
                    " commit with checkpoints.",
                    "s",
                    Query(f"max({_COMMIT_AGE}) or on () vector(0)"),
                    width=4,
                ),
                number(
                    "Records not used",
                    "Could not be decoded, in the time shown: skipped or sent to the dead-letter topic.",
                    "none",
                    Query(
                        f"round(sum(increase(moorage_source_records_skipped_total{{{JOB}}}[$__range]))"
                        f" + sum(increase(moorage_source_records_dead_lettered_total{{{JOB}}}[$__range])))"
                    ),
                    width=4,
                    steps=((None, GREEN), (1, YELLOW)),
                ),
                number(
                    "Busiest worker",
                    "Share of the time in which its loop was not waiting. Above 0.9 it is the bottleneck: add workers"
                    " and parallelism.",
                    "percentunit",
                    Query(f"max(rate(moorage_worker_loop_busy_seconds_total{RATE}))"),
                    width=4,
                    steps=((None, GREEN), (0.8, YELLOW), (0.95, RED)),
                ),
            ],
        ),
        Row(
            "Records",
            [
                graph(
                    "Records in",
                    "By operator. Operators without a shuffle between them are one.",
                    "ops",
                    Query(_per_second("moorage_task_records_in_total"), "{{vertex}}"),
                ),
                graph(
                    "Records out",
                    "By operator.",
                    "ops",
                    Query(_per_second("moorage_task_records_out_total"), "{{vertex}}"),
                ),
                graph(
                    "Records in by subtask",
                    "Normal: equal among the subtasks of an operator. One far above the others: hot keys, or few input"
                    " partitions.",
                    "ops",
                    Query(_per_second("moorage_task_records_in_total", "vertex, subtask"), "{{vertex}}/{{subtask}}"),
                ),
                graph(
                    "Bytes of exchanges",
                    "Frames read and written by all operators.",
                    "Bps",
                    Query(_total_per_second("moorage_task_bytes_in_total"), "read"),
                    Query(_total_per_second("moorage_task_bytes_out_total"), "written"),
                ),
                graph(
                    "Records in a frame",
                    "Full frames cost Kafka least. Few records in a frame at a high rate: raise"
                    " MOORAGE_WORKER_LINGER_MS.",
                    "none",
                    Query(
                        f"sum by (vertex) (rate(moorage_task_records_in_total{{{JOB}}}{RATE}))"
                        f" / (sum by (vertex) (rate(moorage_task_frames_in_total{{{JOB}}}{RATE})) > 0)",
                        "{{vertex}}",
                    ),
                ),
                graph(
                    "Busy share of the loop",
                    "By worker: the share of one core. Near 1: it is the bottleneck.",
                    "percentunit",
                    Query(
                        f"sum by (instance) (rate(moorage_worker_loop_busy_seconds_total{RATE}))",
                        "{{instance}}",
                    ),
                ),
                graph(
                    "Longest step",
                    "For how long a worker's loop has been in one step, during which it hears nothing: a slow call of"
                    " user code, or a hang. The worker's log says where.",
                    "s",
                    Query("max by (instance) (moorage_worker_step_seconds)", "{{instance}}"),
                ),
            ],
        ),
        Row(
            "Backlog",
            [
                graph(
                    "Input not read yet",
                    "Records in the input topics behind the sources. Growing: the job is slower than its input, see"
                    " Held up.",
                    "none",
                    Query(f"sum by (vertex) (moorage_source_lag_records{{{JOB}}})", "{{vertex}}"),
                    width=6,
                ),
                graph(
                    "Exchange lag in frames",
                    "By the operator that writes the exchange. A producer that is too far ahead stops reading its own"
                    " input.",
                    "none",
                    Query(f"sum by (vertex) (moorage_exchange_lag_frames{{{JOB}}})", "{{vertex}}"),
                    width=6,
                ),
                graph(
                    "Exchange lag in bytes",
                    "By the operator that writes the exchange.",
                    "bytes",
                    Query(f"sum by (vertex) (moorage_exchange_lag_bytes{{{JOB}}})", "{{vertex}}"),
                    width=6,
                ),
                graph(
                    "Held up",
                    "Turns of the loop per second in which an operator read nothing, because a consumer or Kafka lags."
                    " The operator after the last one that is held up is the bottleneck.",
                    "ops",
                    Query(_per_second("moorage_task_blocked_steps_total"), "{{vertex}}"),
                    width=6,
                ),
            ],
        ),
        Row(
            "Exactly-once sinks",
            [
                graph(
                    "Age of the last commit",
                    "By subtask. Normal: up to two checkpoint intervals.",
                    "s",
                    Query(f"{_COMMIT_AGE} or on () vector(0)", "{{vertex}}/{{subtask}}"),
                ),
                graph(
                    "Commits",
                    "Transactions per second. Normal: one per subtask and checkpoint.",
                    "ops",
                    Query(_per_second("moorage_sink_commits_total"), "{{vertex}}"),
                ),
                graph(
                    "Checkpoints behind",
                    "Completed checkpoints whose output is not committed yet. Normal: 0 or 1, and a few more at"
                    " intervals shorter than Prometheus's.",
                    "none",
                    Query(
                        f"clamp_min(max by (job_name) (moorage_checkpoint_last_completed_id{{{JOB}}})"
                        f" - on (job_name) min by (job_name) (moorage_sink_committed_checkpoint{{{JOB}}}), 0)",
                        "{{job_name}}",
                    ),
                ),
                graph(
                    "Transactions replayed",
                    "Lost by a crash or expired, and written again from the exchange log: what exactly-once costs after"
                    " a crash.",
                    "none",
                    Query(
                        f"sum by (vertex) (increase(moorage_sink_transactions_replayed_total{{{JOB}}}{RATE}))",
                        "{{vertex}}",
                    ),
                ),
                graph(
                    "Transactions begun anew",
                    "Given up after an error of Kafka. A few while Kafka restarts are normal.",
                    "none",
                    Query(
                        f"sum by (vertex) (increase(moorage_sink_transactions_broken_total{{{JOB}}}{RATE}))",
                        "{{vertex}}",
                    ),
                ),
                graph(
                    "Output heard of by the coordinator",
                    "Age of the newest commit that the coordinator knows of; the alert is about this one.",
                    "s",
                    Query(
                        f"min by (job_name) ({age('moorage_sink_commits_heard_timestamp_seconds', JOB)})",
                        "{{job_name}}",
                    ),
                ),
            ],
        ),
        Row(
            "Records and frames not used",
            [
                graph(
                    "Skipped",
                    "Input records that could not be decoded, with on_error='skip'. Normal: 0.",
                    "ops",
                    Query(_per_second("moorage_source_records_skipped_total"), "{{vertex}}"),
                ),
                graph(
                    "Dead letters",
                    "Input records that could not be decoded and were sent to the dead-letter topic. Normal: 0.",
                    "ops",
                    Query(_per_second("moorage_source_records_dead_lettered_total"), "{{vertex}}"),
                ),
                graph(
                    "Void frames",
                    "Not part of the history that counts: work that a restart went back on, or writes of zombies. Some"
                    " after a restart, else 0. Seen before: read again after a restart and skipped.",
                    "ops",
                    Query(_total_per_second("moorage_task_frames_void_total"), "void"),
                    Query(_total_per_second("moorage_task_frames_corrupt_total"), "corrupt"),
                    Query(_total_per_second("moorage_task_frames_seen_total"), "seen before"),
                ),
            ],
        ),
        ROCKSDB,
    ],
)
