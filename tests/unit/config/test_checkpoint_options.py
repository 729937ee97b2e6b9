from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from moorage.graph.job_graph import CheckpointConfig, RestartConfig

PAGE = Path(__file__).parents[3] / "docs" / "checkpoints.md"


@pytest.mark.parametrize(("section", "options"), [("Checkpoints", CheckpointConfig), ("Restarts", RestartConfig)])
def test_the_page_lists_every_option_with_its_default(section: str, options: type[msgspec.Struct]) -> None:
    text = PAGE.read_text().partition(f"\n## {section}\n")[2].partition("\n## ")[0].partition("| option |")[2]
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \|", text, re.MULTILINE)
    fields = {field.name: field.default for field in msgspec.structs.fields(options)}
    assert [name for name, _ in rows] == list(fields)
    for name, shown in rows:
        default = fields[name]
        if default is not None:
            assert shown.strip(" `") == (str(default).lower() if isinstance(default, bool) else str(default)), name
