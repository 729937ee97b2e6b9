from __future__ import annotations

from pathlib import Path

from tests.unit.serde.control_messages import EXAMPLES

from moorage.serde.control import FAMILIES, encode
from moorage.serde.docs import page

PAGE = Path(__file__).parents[3] / "docs" / "messages.md"


def test_the_page_is_what_the_schemas_say() -> None:
    assert PAGE.read_text("utf-8") == page(), "write it anew: python -m moorage.serde.docs > docs/messages.md"


def test_every_message_is_found_by_the_fingerprint_that_its_bytes_carry() -> None:
    text = page()
    for message in (message for family in FAMILIES for message in family.messages):
        _, _, section = text.partition(f"### {message.__name__}\n")
        assert f"Fingerprint: `{encode(EXAMPLES[message])[2:10].hex()}`" in section.partition("\n### ")[0]
