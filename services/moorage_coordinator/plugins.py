"""Code of others that runs in the coordinator: master hooks and operator coordinators, named by settings."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

from moorage.checkpoint.hooks import MasterHookFactory
from moorage.checkpoint.operator_coordinators import Kinds
from moorage.config import CoordinatorSettings
from moorage.connectors.kafka_source_coordinator import OPERATOR_COORDINATORS
from moorage.errors import SettingError


def load_master_hooks(settings: CoordinatorSettings) -> Sequence[MasterHookFactory]:
    """SettingError names what can't be imported."""
    return [_load("MOORAGE_MASTER_HOOKS", ref) for ref in _refs(settings.master_hooks)]


def load_operator_coordinators(settings: CoordinatorSettings) -> Kinds:
    """Moorage's own and those of the settings. SettingError names what can't be imported."""
    added: Mapping[str, Any] = {
        kind: _load("MOORAGE_OPERATOR_COORDINATORS", ref)
        for kind, _, ref in (one.partition("=") for one in _refs(settings.operator_coordinators))
    }
    return {**OPERATOR_COORDINATORS, **added}


def _refs(value: str | None) -> list[str]:
    return [] if value is None else value.split(",")


def _load(variable: str, ref: str) -> Any:
    module, _, attribute = ref.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except Exception as error:
        raise SettingError(f"{variable} names {ref!r}, which can't be imported: {error}") from error
    if not callable(found):
        raise SettingError(f"{variable} names {ref!r}, which can't be called")
    return found
