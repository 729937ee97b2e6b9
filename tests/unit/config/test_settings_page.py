from __future__ import annotations

from pathlib import Path

from moorage.config.declaration import settings_of
from moorage.config.docs import page
from moorage.config.settings import SETTINGS_CLASSES

PAGE = Path(__file__).parents[3] / "docs" / "settings.md"


def test_the_page_is_what_the_declarations_say() -> None:
    assert PAGE.read_text("utf-8") == page(), "write it anew: python -m moorage.config.docs > docs/settings.md"


def test_every_setting_is_on_the_page_in_a_table_of_four_columns() -> None:
    rows = [line for line in page().splitlines() if line.startswith("| `MOORAGE_")]
    assert {row.split("`")[1] for row in rows} == {s.variable for cls in SETTINGS_CLASSES for s in settings_of(cls)}
    assert all(row.count("|") == 5 for row in rows)
