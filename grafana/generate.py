"""Writes grafana/dashboards/*.json: ``python -m grafana.generate``."""

from __future__ import annotations

import json
from pathlib import Path

from grafana.checkpoints import CHECKPOINTS
from grafana.model import Dashboard
from grafana.pipeline import PIPELINE
from grafana.services import SERVICES

DASHBOARDS = {"checkpoints": CHECKPOINTS, "pipeline": PIPELINE, "services": SERVICES}
"""By the name of the file."""
FOLDER = Path(__file__).parent / "dashboards"


def text(dashboard: Dashboard) -> str:
    return json.dumps(dashboard.to_json(), indent=2) + "\n"


if __name__ == "__main__":
    for name, dashboard in DASHBOARDS.items():
        (FOLDER / f"{name}.json").write_text(text(dashboard))
