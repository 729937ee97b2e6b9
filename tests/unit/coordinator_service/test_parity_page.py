"""docs/parity.md names every field of Flink's that we never fill."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from moorage_coordinator.flink import checkpoint_shapes, cluster, exceptions, jobs, operations

PAGE = (Path(__file__).parents[3] / "docs" / "parity.md").read_text()
IN_GROUPS: tuple[type[msgspec.Struct], ...] = (
    cluster.Features,
    cluster.Resource,
    cluster.MemoryConfiguration,
    cluster.TaskManagerMetrics,
)
"""Of these the page names the field that they stand in."""
FILLED = (checkpoint_shapes.StatsSummary,)
"""Its defaults are what Flink says where there is no value."""


def unfilled() -> set[str]:
    """Fields whose default nobody changes."""
    shapes = [
        shape
        for module in (checkpoint_shapes, cluster, exceptions, jobs, operations)
        for shape in vars(module).values()
        if isinstance(shape, type) and issubclass(shape, msgspec.Struct) and shape.__module__ == module.__name__
    ]
    return {
        field.encode_name
        for shape in shapes
        if shape not in IN_GROUPS and shape not in FILLED
        for field in msgspec.structs.fields(shape)
        if not field.required and field.default is not msgspec.UNSET and field.encode_name != "status"
    }


@pytest.mark.parametrize("name", sorted(unfilled()))
def test_a_field_that_holds_no_information_is_named(name: str) -> None:
    assert re.search(rf"`{re.escape(name)}`", PAGE), f"docs/parity.md does not name {name}"


def test_there_are_such_fields() -> None:
    assert {"flink-commit", "jmxPort", "pending-operators", "aborted"} <= unfilled()
