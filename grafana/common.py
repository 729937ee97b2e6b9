"""What several dashboards share."""

from __future__ import annotations

from grafana.model import BLUE, GREEN, RED, YELLOW, Annotation, Query

JOB = 'job_name=~"$job"'
"""Matches the chosen jobs."""
RATE = "[$__rate_interval]"
QUANTILES = (0.5, 0.9, 0.99)

RESTORED = Annotation(
    "Restores",
    "1000 * max by (job_name) (moorage_checkpoint_restored_timestamp_seconds)",
    "{{job_name}} was restored from a checkpoint",
    YELLOW,
    at_value=True,
)
FAILED_ATTEMPT = Annotation(
    "Failures",
    "sum by (job_name) (increase(moorage_coordinator_attempts_failed_total[10s])) > 0",
    "{{job_name}} failed",
    RED,
)
FAILED_CHECKPOINT = Annotation(
    "Failed checkpoints",
    'sum by (job_name, reason) (increase(moorage_checkpoints_total{outcome="failed"}[10s])) > 0',
    "checkpoint of {{job_name}} failed: {{reason}}",
    RED,
)
NEW_LEADER = Annotation(
    "New leader",
    "sum(increase(moorage_coordinator_elections_total[10s])) > 0",
    "another coordinator leads",
    BLUE,
)
ANNOTATIONS = (RESTORED, FAILED_ATTEMPT, FAILED_CHECKPOINT, NEW_LEADER)


def quantiles(histogram: str, selector: str, by: str = "") -> list[Query]:
    """Quantiles of a histogram over the last moments; ``by``: a label, one line per value of it."""
    of, legend = (f"le, {by}", f"{{{{{by}}}}} ") if by else ("le", "")
    return [
        Query(
            f"histogram_quantile({q}, sum by ({of}) (rate({histogram}_bucket{selector}{RATE})))",
            f"{legend}{_percent(q)} are faster",
        )
        for q in QUANTILES
    ]


def quantile(q: float, histogram: str, selector: str, legend: str) -> Query:
    return Query(f"histogram_quantile({q}, sum by (le) (rate({histogram}_bucket{selector}{RATE})))", legend)


def age(metric: str, selector: str = "") -> str:
    """Seconds from the moment that a metric tells to the one at which Prometheus heard of it; none before there was
    such a moment."""
    named = f"{metric}{{{selector}}}" if selector else metric
    return f"timestamp({named}) - ({named} > 0)"


def by_label(label: str, expr: str) -> Query:
    """Lines by ``label``. What has not happened since the start has no series at all: then there is a line at 0."""
    return Query(f'{expr} or on () label_replace(vector(0), "{label}", "none", "", "")', f"{{{{{label}}}}}")


def _percent(q: float) -> str:
    return f"{q * 100:g} %"


BOOLEAN_STEPS = ((None, RED), (1, GREEN))
