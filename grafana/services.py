"""The processes themselves: who leads, who works, what they talk to, who cleans up."""

from __future__ import annotations

from grafana.common import ANNOTATIONS, BOOLEAN_STEPS, RATE, age, by_label, quantile, quantiles
from grafana.model import GREEN, RED, YELLOW, Dashboard, Query, Row, graph, number

_MOORAGE = 'job=~"coordinator|worker|cleaner"'
_REDIS = 'operation=~"AcquireLease|RenewLease|ReadRegistry|ReadJob|SaveJob|StartAttempt|NextCheckpointId|AddCheckpoint"'
_STORAGE = 'operation=~"WriteMetadata|VerifyMetadata"'


def _events(metric: str, label: str) -> Query:
    return by_label(label, f"sum by ({label}) (increase({metric}{RATE})) > 0")


SERVICES = Dashboard(
    uid="moorage-services",
    title="Moorage: Services",
    description="Coordinator and standby, workers, cleaner, and what they depend on.",
    annotations=ANNOTATIONS,
    rows=[
        Row(
            "Now",
            [
                number(
                    "Leaders",
                    "Normal: 1. 0: no checkpoints and no restarts, but processing goes on; see the coordinators' logs"
                    " and Redis.",
                    "none",
                    Query("sum(moorage_coordinator_is_leader)"),
                    steps=((None, RED), (1, GREEN), (2, RED)),
                ),
                number(
                    "Epoch",
                    "What the leader's commands carry. When another coordinator takes over it goes up, to the time"
                    " of day when that one asked for the lease.",
                    "dateTimeAsIso",
                    Query("max(moorage_coordinator_epoch)"),
                ),
                number(
                    "Workers",
                    "Registered workers. Fewer than were started: see the logs of those that are missing.",
                    "none",
                    Query("max(moorage_coordinator_workers)"),
                    steps=BOOLEAN_STEPS,
                ),
                number(
                    "Slots free",
                    "A job needs as many as its parallelism; without enough it waits.",
                    "none",
                    Query("max(moorage_coordinator_slots_free)"),
                ),
                number(
                    "Jobs running",
                    "Jobs whose subtasks all run.",
                    "none",
                    Query('max(moorage_coordinator_jobs{status="RUNNING"})'),
                    steps=BOOLEAN_STEPS,
                ),
                number(
                    "Oldest heartbeat",
                    "Of the worker that was silent for the longest. Normal: below 1 s. Workers are lost after"
                    " MOORAGE_COORDINATOR_WORKER_HEARTBEAT_TIMEOUT_MS.",
                    "s",
                    Query("max(moorage_coordinator_heartbeat_age_seconds)"),
                    steps=((None, GREEN), (2, YELLOW), (4, RED)),
                ),
                number(
                    "Kafka",
                    "Whether Kafka confirms what the leader writes.",
                    "none",
                    Query("min(moorage_coordinator_log_reachable)"),
                    steps=BOOLEAN_STEPS,
                    names={1: "answers", 0: "silent"},
                ),
                number(
                    "Processes",
                    "Moorage's processes that Prometheus reaches.",
                    "none",
                    Query(f"sum(up{{{_MOORAGE}}})"),
                    steps=BOOLEAN_STEPS,
                ),
            ],
        ),
        Row(
            "Coordinators and workers",
            [
                graph(
                    "Workers and slots",
                    "A dip is a lost worker; it should come back with the worker or its replacement.",
                    "none",
                    Query("max(moorage_coordinator_workers)", "workers"),
                    Query("max(moorage_coordinator_slots)", "slots"),
                    Query("max(moorage_coordinator_slots_free)", "free slots"),
                ),
                graph(
                    "Subtasks by worker",
                    "How the jobs are spread; slots are their bound.",
                    "none",
                    Query("sum by (instance) (moorage_worker_subtasks)", "{{instance}} subtasks"),
                    Query("sum by (instance) (moorage_worker_slots)", "{{instance}} slots"),
                ),
                graph(
                    "Workers that came and went",
                    "Registrations, and workers that were lost, replaced or left, per minute.",
                    "cpm",
                    Query(f"60 * sum(rate(moorage_coordinator_workers_joined_total{RATE}))", "joined"),
                    Query(f"60 * sum(rate(moorage_coordinator_workers_gone_total{RATE}))", "gone"),
                ),
                graph(
                    "Leadership",
                    "Who leads (1) and who stands by (0). Changes without a crash: Redis or the machine is too slow for"
                    " MOORAGE_COORDINATOR_LEASE_TTL_MS.",
                    "none",
                    Query("moorage_coordinator_is_leader", "{{instance}}"),
                ),
                graph(
                    "Elections and epochs",
                    "The epoch that workers obey follows the leader's: behind is 1 while a worker obeys an older one.",
                    "none",
                    Query(
                        "max(moorage_coordinator_epoch) > bool min(moorage_worker_coordinator_epoch)",
                        "a worker is behind",
                    ),
                    Query("sum(moorage_coordinator_elections_total)", "elections"),
                ),
                graph(
                    "Jobs that the registry had lost",
                    "Workers run them, Redis does not know them. Brought back: from the checkpoint storage. Unknown:"
                    " nothing was found there, so they are left alone. Normal: 0.",
                    "none",
                    Query("sum(increase(moorage_coordinator_jobs_rebuilt_total[$__range]))", "brought back"),
                    Query("sum(increase(moorage_coordinator_jobs_unknown_total[$__range]))", "unknown"),
                ),
                graph(
                    "Heartbeats",
                    "Age of the oldest one, at the leader.",
                    "s",
                    Query("max(moorage_coordinator_heartbeat_age_seconds)", "oldest"),
                ),
            ],
        ),
        Row(
            "Jobs and recovery",
            [
                graph(
                    "Jobs by status",
                    "RESTARTING for long: there are not enough slots, or it fails again and again.",
                    "none",
                    Query("max by (status) (moorage_coordinator_jobs) > 0", "{{status}}"),
                    Query("sum(max by (status) (moorage_coordinator_jobs))", "all"),
                ),
                graph(
                    "Attempts",
                    "Deployments and failures per minute. A failure without a deployment after it: the restart strategy"
                    " gave up.",
                    "cpm",
                    Query(
                        f"60 * sum by (job_name) (rate(moorage_coordinator_attempts_started_total{RATE}))", "started"
                    ),
                    Query(f"60 * sum by (job_name) (rate(moorage_coordinator_attempts_failed_total{RATE}))", "failed"),
                ),
                graph(
                    "Recovery",
                    "From a failure until every subtask runs again: detection, a new attempt, reading the state. 0 as"
                    " long as nothing failed.",
                    "s",
                    Query(
                        "sum by (job_name) (increase(moorage_coordinator_recovery_seconds_sum[$__range]))"
                        " / (sum by (job_name) (increase(moorage_coordinator_recovery_seconds_count[$__range])) > 0)"
                        " or on () vector(0)",
                        "{{job_name}} average in the time shown",
                    ),
                ),
                graph(
                    "Recovery by phase",
                    "Average of each part: finding out, storing the next attempt, deploying, reading the state, first"
                    " commit of new results. 0 as long as nothing failed.",
                    "s",
                    Query(
                        "sum by (phase) (increase(moorage_coordinator_recovery_phase_seconds_sum[$__range]))"
                        " / (sum by (phase) (increase(moorage_coordinator_recovery_phase_seconds_count[$__range])) > 0)"
                        " or on () vector(0)",
                        "{{phase}}",
                    ),
                ),
                graph(
                    "State restored",
                    "Bytes that the subtasks of the running attempt read to restore their state. From the storage"
                    " alone: local recovery is off, or the subtasks came to other workers.",
                    "bytes",
                    Query("sum by (job_name) (moorage_task_restored_local_bytes_total)", "{{job_name}} local copies"),
                    Query("sum by (job_name) (moorage_task_restored_storage_bytes_total)", "{{job_name}} storage"),
                ),
                graph(
                    "Changes of status",
                    "What became of the jobs.",
                    "none",
                    _events("moorage_coordinator_job_status_changes_total", "status"),
                    bars=True,
                ),
                graph(
                    "Starts that waited",
                    "Deployments that had to wait for slots. Normal: 0; else add workers.",
                    "none",
                    _events("moorage_coordinator_job_waits_total", "job_name"),
                    bars=True,
                ),
                graph(
                    "Deployments and failures at workers",
                    "Attempts that workers took part in, and subtasks that failed there.",
                    "none",
                    Query(f"sum(increase(moorage_worker_deployments_total{RATE}))", "deployments"),
                    Query(f"sum(increase(moorage_worker_subtask_failures_total{RATE}))", "failed subtasks"),
                    bars=True,
                ),
            ],
        ),
        Row(
            "Control topics",
            [
                graph(
                    "Lag of the events topic",
                    "How long the newest message that the leader read had waited. Normal: below 1 s. Growing: the"
                    " coordinator is overloaded or Kafka is slow.",
                    "s",
                    Query("max(moorage_coordinator_events_delay_seconds)", "events"),
                ),
                graph(
                    "Control messages not confirmed",
                    "Bytes of heartbeats and acknowledgements that Kafka has not confirmed to a worker.",
                    "bytes",
                    Query("sum by (instance) (moorage_worker_unsent_control_bytes)", "{{instance}}"),
                ),
                graph(
                    "Commands heard",
                    "By worker, per second. Stale: from a former leader or of a former attempt, and dropped.",
                    "ops",
                    Query(f"sum by (instance) (rate(moorage_worker_commands_total{RATE}))", "{{instance}}"),
                    Query(f"sum(rate(moorage_worker_stale_commands_total{RATE}))", "stale"),
                ),
                graph(
                    "Messages dropped by the leader",
                    "Duplicates and messages of former attempts. Some after a restart are normal.",
                    "none",
                    _events("moorage_coordinator_messages_dropped_total", "reason"),
                    bars=True,
                ),
                graph(
                    "Messages that could not be read",
                    "Normal: 0. Otherwise somebody else writes to the control topics, or the versions don't fit.",
                    "none",
                    _events("moorage_coordinator_messages_malformed_total", "topic"),
                    Query(f"sum(increase(moorage_worker_malformed_messages_total{RATE}))", "workers"),
                    bars=True,
                ),
                graph(
                    "Messages lost",
                    "Kafka refused them for good. Normal: 0; what was lost is said again.",
                    "none",
                    _events("moorage_coordinator_messages_lost_total", "kind"),
                    bars=True,
                ),
            ],
        ),
        Row(
            "Redis and storage, as the coordinators see them",
            [
                graph(
                    "Redis",
                    "Calls of the registry. Normal: a few ms; with appendfsync always, the disk's sync time. The lease"
                    " is lost if it gets near MOORAGE_COORDINATOR_LEASE_TTL_MS.",
                    "s",
                    *quantiles("moorage_coordinator_call_seconds", f"{{{_REDIS}}}"),
                ),
                graph(
                    "Checkpoint storage",
                    "Writing and checking metadata files. Workers' uploads are in the asynchronous part of"
                    " checkpoints.",
                    "s",
                    *quantiles("moorage_coordinator_call_seconds", f"{{{_STORAGE}}}"),
                ),
                graph(
                    "Slowest calls",
                    "99 % of the calls of each operation are faster.",
                    "s",
                    Query(
                        "histogram_quantile(0.99, sum by (operation, le) (rate("
                        f"moorage_coordinator_call_seconds_bucket{RATE})))",
                        "{{operation}}",
                    ),
                ),
                graph(
                    "Calls failed",
                    "Per second, by operation. Normal: 0.",
                    "ops",
                    Query(
                        f"sum by (operation) (rate(moorage_coordinator_calls_failed_total{RATE}))",
                        "{{operation}}",
                    ),
                ),
                graph(
                    "Plug-ins not closed",
                    "Master hooks and operator coordinators that failed when they were closed. Normal: 0.",
                    "none",
                    _events("moorage_coordinator_not_closed_total", "what"),
                    bars=True,
                ),
                graph(
                    "Calls repeated",
                    "They got no answer at first. Normal: 0.",
                    "none",
                    _events("moorage_coordinator_calls_repeated_total", "operation"),
                    bars=True,
                ),
                graph(
                    "Kafka",
                    "1: Kafka confirms what the coordinator writes.",
                    "none",
                    Query("moorage_coordinator_log_reachable", "{{instance}}"),
                ),
            ],
        ),
        Row(
            "Cleaner",
            [
                graph(
                    "Backlog in files",
                    "Found to go and still there. It grows if the storage is slow or the cleaner is down.",
                    "none",
                    Query("sum(moorage_cleaner_backlog_files)", "files"),
                ),
                graph(
                    "Backlog in bytes",
                    "The same in bytes.",
                    "bytes",
                    Query("sum(moorage_cleaner_backlog_bytes)", "bytes"),
                ),
                graph(
                    "Ages",
                    "Oldest file that should be gone, and time since everything was looked at. From 15 minutes on an"
                    " alert fires.",
                    "s",
                    Query("max(moorage_cleaner_oldest_candidate_age_seconds)", "oldest file"),
                    Query(
                        f"max({age('moorage_cleaner_last_full_sweep_timestamp_seconds')}) or on () vector(0)",
                        "last full sweep",
                    ),
                ),
                graph(
                    "Files deleted",
                    "Per second, by kind. Orphans belong to no checkpoint: left by crashes.",
                    "ops",
                    by_label("kind", f"sum by (kind) (rate(moorage_cleaner_files_deleted_total{RATE}))"),
                    stacked=True,
                ),
                graph(
                    "Bytes deleted",
                    "Per second, by kind.",
                    "Bps",
                    by_label("kind", f"sum by (kind) (rate(moorage_cleaner_bytes_deleted_total{RATE}))"),
                    stacked=True,
                ),
                graph(
                    "Log trimmed",
                    "Offsets cut from the beginning of exchange topics, per second, and topics of ended jobs deleted.",
                    "ops",
                    Query(f"sum(rate(moorage_cleaner_log_offsets_trimmed_total{RATE}))", "offsets"),
                    Query(f"sum(rate(moorage_cleaner_topics_deleted_total{RATE}))", "topics"),
                ),
                graph(
                    "Log trimmed, in bytes",
                    "The same in bytes before compression, estimated from some of the frames.",
                    "Bps",
                    Query(f"sum(rate(moorage_cleaner_log_bytes_trimmed_total{RATE}))", "bytes"),
                ),
                graph(
                    "Cleaning a job",
                    "How long one job takes once.",
                    "s",
                    quantile(0.5, "moorage_cleaner_job_seconds", "", "50 % are faster"),
                    quantile(0.99, "moorage_cleaner_job_seconds", "", "99 % are faster"),
                ),
                graph(
                    "Errors",
                    "metadata: a checkpoint can't be read, so nothing of that job is deleted. Normal: 0.",
                    "none",
                    _events("moorage_cleaner_errors_total", "kind"),
                    bars=True,
                ),
            ],
        ),
        Row(
            "Processes",
            [
                graph(
                    "Memory",
                    "Resident memory. Workers hold the state of their keys in it (memory backend).",
                    "bytes",
                    Query(f"process_resident_memory_bytes{{{_MOORAGE}}}", "{{job}} {{instance}}"),
                ),
                graph(
                    "CPU",
                    "Cores used. A worker may use more than one: Kafka's client and uploads have threads of their own.",
                    "none",
                    Query(f"rate(process_cpu_seconds_total{{{_MOORAGE}}}{RATE})", "{{job}} {{instance}}"),
                ),
                graph(
                    "Loops of coordinators and cleaner",
                    "Share of the time in which they were not waiting. Normal: below 0.2.",
                    "percentunit",
                    Query(f"rate(moorage_coordinator_loop_busy_seconds_total{RATE})", "coordinator {{instance}}"),
                    Query(f"rate(moorage_cleaner_loop_busy_seconds_total{RATE})", "cleaner {{instance}}"),
                ),
                graph(
                    "Open files",
                    "Near the limit a process can't connect or write any more.",
                    "percentunit",
                    Query(
                        f"process_open_fds{{{_MOORAGE}}} / process_max_fds{{{_MOORAGE}}}",
                        "{{job}} {{instance}}",
                    ),
                ),
                graph(
                    "Uptime",
                    "A saw tooth is a process that is restarted again and again.",
                    "s",
                    Query(f"time() - process_start_time_seconds{{{_MOORAGE}}}", "{{job}} {{instance}}"),
                ),
            ],
        ),
    ],
)
