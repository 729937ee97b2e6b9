"""Code that settings name."""

from __future__ import annotations

import pytest
from examples.table_offsets import table_offsets

from moorage.config import CoordinatorSettings, load
from moorage.connectors.kafka_source_coordinator import KafkaSourceCoordinator
from moorage.errors import SettingError
from moorage_coordinator.plugins import load_master_hooks, load_operator_coordinators


def settings(**environ: str) -> CoordinatorSettings:
    return load(CoordinatorSettings, environ)


def test_hooks_and_kinds_of_coordinators_are_imported_by_name() -> None:
    named = settings(
        MOORAGE_MASTER_HOOKS="examples.table_offsets:table_offsets",
        MOORAGE_OPERATOR_COORDINATORS=(
            "mine=moorage.connectors.kafka_source_coordinator:KafkaSourceCoordinator,"
            "yours=moorage.connectors.kafka_source_coordinator:KafkaSourceCoordinator"
        ),
    )
    assert list(load_master_hooks(named)) == [table_offsets]
    assert load_operator_coordinators(named)["mine"] is KafkaSourceCoordinator
    assert set(load_operator_coordinators(named)) == {"kafka_source", "mine", "yours"}
    assert list(load_master_hooks(settings())) == []
    assert set(load_operator_coordinators(settings())) == {"kafka_source"}


@pytest.mark.parametrize("ref", ["nowhere:hook", "examples.table_offsets:nothing", "examples.table_offsets:__doc__"])
def test_what_can_not_be_imported_is_named(ref: str) -> None:
    with pytest.raises(SettingError, match=ref):
        load_master_hooks(settings(MOORAGE_MASTER_HOOKS=ref))


def test_what_is_no_name_is_refused_at_the_start() -> None:
    with pytest.raises(SettingError, match="MOORAGE_MASTER_HOOKS"):
        settings(MOORAGE_MASTER_HOOKS="hook")
