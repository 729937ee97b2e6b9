from __future__ import annotations

import re
from pathlib import Path

import msgspec

from moorage.graph.job_graph import CheckpointConfig

PAGE = Path(__file__).parents[3] / "docs" / "checkpoints.md"


def test_the_page_lists_every_option_with_its_default() -> None:
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \|", PAGE.read_text(), re.MULTILINE)
    fields = {field.name: field.default for field in msgspec.structs.fields(CheckpointConfig)}
    assert [name for name, _ in rows] == list(fields)
    for name, shown in rows:
        default = fields[name]
        if default is not None:
            assert shown.strip(" `") == (str(default).lower() if isinstance(default, bool) else str(default)), name
