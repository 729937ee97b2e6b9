"""Every metric of a coordinator; docs and dashboards are held against this list."""

from __future__ import annotations

from collections.abc import Sequence

from moorage_service.metrics import Metric

METRICS: Sequence[Metric] = (
    Metric(
        "moorage_checkpoints_total",
        "counter",
        "Checkpoints by outcome: completed, failed (aborted after the trigger) or refused (before it); reason is empty"
        " for completed ones.",
        ("job_name", "outcome", "reason"),
    ),
    Metric("moorage_checkpoints_triggered_total", "counter", "Checkpoints triggered.", ("job_name",)),
    Metric("moorage_checkpoints_in_progress", "gauge", "Checkpoints triggered and not decided yet.", ("job_name",)),
    Metric("moorage_checkpoint_interval_seconds", "gauge", "Interval of periodic checkpoints; 0: none.", ("job_name",)),
    Metric("moorage_checkpoint_timeout_seconds", "gauge", "A checkpoint that takes longer is aborted.", ("job_name",)),
    Metric(
        "moorage_checkpoint_duration_seconds",
        "histogram",
        "From the trigger of a completed checkpoint until its metadata was written.",
        ("job_name",),
    ),
    Metric(
        "moorage_checkpoint_start_delay_seconds",
        "histogram",
        "Longest time in a completed checkpoint from its trigger to a subtask's first barrier.",
        ("job_name",),
    ),
    Metric(
        "moorage_checkpoint_alignment_seconds",
        "histogram",
        "Longest alignment of a subtask in a completed checkpoint.",
        ("job_name",),
    ),
    Metric(
        "moorage_checkpoint_sync_seconds",
        "histogram",
        "Longest synchronous part of a subtask's snapshot in a completed checkpoint: it stops processing.",
        ("job_name",),
    ),
    Metric(
        "moorage_checkpoint_async_seconds",
        "histogram",
        "Longest asynchronous part of a subtask's snapshot in a completed checkpoint: upload and flush.",
        ("job_name",),
    ),
    Metric(
        "moorage_checkpoint_hooks_seconds",
        "histogram",
        "How long the master hooks of a job took in a completed checkpoint, all together.",
        ("job_name",),
    ),
    Metric(
        "moorage_checkpoint_operator_coordinators_seconds",
        "histogram",
        "Longest time that the coordinator of an operator took for its snapshot in a completed checkpoint.",
        ("job_name",),
    ),
    Metric(
        "moorage_checkpoint_written_bytes_total",
        "counter",
        "New bytes that completed checkpoints wrote.",
        ("job_name",),
    ),
    Metric(
        "moorage_checkpoint_held_bytes_total",
        "counter",
        "Bytes of frames that completed checkpoints held back while they aligned.",
        ("job_name",),
    ),
    Metric(
        "moorage_checkpoint_processed_bytes_total",
        "counter",
        "Bytes of frames that were processed between first barrier and snapshot of completed checkpoints.",
        ("job_name",),
    ),
    Metric(
        "moorage_checkpoint_persisted_bytes_total",
        "counter",
        "Bytes of frames in flight that completed checkpoints refer to in the exchange logs.",
        ("job_name",),
    ),
    Metric(
        "moorage_checkpoint_duration_summary_seconds",
        "gauge",
        "Duration of the checkpoints that were completed under this leader: min, max and avg of all, p50 to p999 of the"
        " last 1,000.",
        ("job_name", "statistic"),
    ),
    Metric(
        "moorage_checkpoint_size_summary_bytes",
        "gauge",
        "The same of their sizes: written (incremental), state (full), held, processed and persisted (in flight).",
        ("job_name", "measure", "statistic"),
    ),
    Metric(
        "moorage_checkpoint_last_state_bytes",
        "gauge",
        "Bytes of everything that the last completed checkpoint refers to.",
        ("job_name",),
    ),
    Metric("moorage_checkpoint_last_completed_id", "gauge", "Id of the last completed checkpoint.", ("job_name",)),
    Metric(
        "moorage_checkpoint_last_completed_timestamp_seconds",
        "gauge",
        "When it was completed; before the first one, when the job was submitted.",
        ("job_name",),
    ),
    Metric("moorage_checkpoint_last_failed_id", "gauge", "Id of the last checkpoint that failed.", ("job_name",)),
    Metric("moorage_checkpoint_last_failed_timestamp_seconds", "gauge", "When it did.", ("job_name",)),
    Metric("moorage_checkpoint_last_savepoint_id", "gauge", "Id of the last completed savepoint.", ("job_name",)),
    Metric("moorage_checkpoint_last_savepoint_timestamp_seconds", "gauge", "When it was triggered.", ("job_name",)),
    Metric("moorage_checkpoints_restored_total", "counter", "Restores from a checkpoint.", ("job_name",)),
    Metric("moorage_checkpoint_restored_id", "gauge", "Checkpoint that the job was last restored from.", ("job_name",)),
    Metric("moorage_checkpoint_restored_timestamp_seconds", "gauge", "When it was.", ("job_name",)),
    Metric(
        "moorage_checkpoints_unreadable_total",
        "counter",
        "Retained checkpoints that could not be read at a restart: an older one was taken, or the job failed.",
        ("job_name",),
    ),
    Metric(
        "moorage_checkpoint_savepoints_left_total",
        "counter",
        "Savepoints that failed and whose files could not be deleted: nobody else deletes them.",
        ("job_name",),
    ),
    Metric(
        "moorage_sink_commits_heard_timestamp_seconds",
        "gauge",
        "Newest commit of an exactly-once sink that the coordinator has heard of; its age is the lag of the output.",
        ("job_name",),
    ),
    Metric("moorage_coordinator_is_leader", "gauge", "1: leads; 0: stands by."),
    Metric("moorage_coordinator_epoch", "gauge", "Fencing epoch of its present or last leadership."),
    Metric("moorage_coordinator_elections_total", "counter", "How often it took the lease."),
    Metric("moorage_coordinator_workers", "gauge", "Registered workers."),
    Metric("moorage_coordinator_slots", "gauge", "Slots of all workers."),
    Metric("moorage_coordinator_slots_free", "gauge", "Slots that no job holds."),
    Metric("moorage_coordinator_jobs", "gauge", "Jobs by status.", ("status",)),
    Metric(
        "moorage_coordinator_heartbeat_age_seconds",
        "gauge",
        "Since the last heartbeat of the worker that was silent for the longest.",
    ),
    Metric("moorage_coordinator_workers_joined_total", "counter", "Worker incarnations that registered."),
    Metric("moorage_coordinator_workers_gone_total", "counter", "Workers that were lost, were replaced or left."),
    Metric("moorage_coordinator_attempts_started_total", "counter", "Deployments.", ("job_name",)),
    Metric("moorage_coordinator_attempts_failed_total", "counter", "Attempts that failed.", ("job_name",)),
    Metric("moorage_coordinator_job_waits_total", "counter", "Starts that had to wait for slots.", ("job_name",)),
    Metric(
        "moorage_coordinator_recovery_phase_seconds",
        "histogram",
        "Part of a recovery: detection (since the last sign of life of a lost worker), decision (until the next attempt"
        " is stored), deploy (until every subtask has reported), restore (until all run), first_commit (until every"
        " exactly-once sink has committed something new).",
        ("job_name", "phase"),
    ),
    Metric(
        "moorage_coordinator_recovery_seconds",
        "histogram",
        "From a failure of a job until every subtask runs again.",
        ("job_name",),
    ),
    Metric(
        "moorage_coordinator_job_status_changes_total",
        "counter",
        "Changes of status by the new one.",
        ("job_name", "status"),
    ),
    Metric(
        "moorage_coordinator_messages_dropped_total",
        "counter",
        "Messages of workers without effect: duplicates, and what comes from former attempts or incarnations.",
        ("kind", "reason"),
    ),
    Metric("moorage_coordinator_messages_malformed_total", "counter", "Messages that could not be read.", ("topic",)),
    Metric(
        "moorage_coordinator_jobs_rebuilt_total",
        "counter",
        "Jobs that workers run, that the registry had lost, and that were brought back from the checkpoint storage.",
    ),
    Metric(
        "moorage_coordinator_jobs_unknown_total",
        "counter",
        "Jobs that workers run, that the registry does not know, and that could not be brought back.",
    ),
    Metric("moorage_coordinator_messages_lost_total", "counter", "Messages that Kafka refused for good.", ("kind",)),
    Metric("moorage_coordinator_log_reachable", "gauge", "1: Kafka confirms messages; 0: it does not answer."),
    Metric(
        "moorage_coordinator_calls_repeated_total",
        "counter",
        "Calls of registry or storage that got no answer at first.",
        ("operation",),
    ),
    Metric(
        "moorage_coordinator_call_seconds",
        "histogram",
        "Calls of registry, storage and Kafka's administration, failed ones too.",
        ("operation",),
    ),
    Metric("moorage_coordinator_calls_failed_total", "counter", "Those that failed.", ("operation",)),
    Metric(
        "moorage_coordinator_not_closed_total",
        "counter",
        "Master hooks and operator coordinators that failed when they were closed.",
        ("what",),
    ),
    Metric(
        "moorage_coordinator_events_delay_seconds",
        "gauge",
        "How long the newest message that was read from the events topic had waited there.",
    ),
    Metric("moorage_coordinator_loop_busy_seconds_total", "counter", "Time that the loop was not waiting."),
)
