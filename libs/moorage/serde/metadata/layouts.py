"""What distinguishes the versions of ``_metadata``, as data."""

from __future__ import annotations

from typing import NamedTuple


class Layout(NamedTuple):
    version: int
    chains: bool = False
    """Written by Flink 1.2, and only read here: no master states, and chains in the place of operators."""
    legacy_fields: bool = False
    """Fields that Flink 1.2 used. No coordinators, finished subtasks nor channel state."""
    typed_channels: bool = False
    """Channel state by ChannelStateHandleSerializerV2."""
    names: bool = False
    """Names and uids of operators."""
    properties: bool = False
    """Properties of the checkpoint."""


LAYOUTS = {
    layout.version: layout
    for layout in (
        Layout(1, chains=True, legacy_fields=True),
        Layout(2, legacy_fields=True),
        Layout(3),
        Layout(4, properties=True),
        Layout(5, properties=True, names=True),
        Layout(6, properties=True, names=True, typed_channels=True),
    )
}
LATEST_VERSION = 6
