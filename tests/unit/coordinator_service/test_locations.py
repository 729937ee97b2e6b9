"""People name savepoints by URL or path, the registry by what lies below its storage."""

from __future__ import annotations

import pytest

from moorage_coordinator.flink.checkpoints import external_path, internal_path

ROOT = "file:///data/checkpoints"


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("file:///data/checkpoints/shop/savepoints/savepoint-1", "shop/savepoints/savepoint-1"),
        ("/data/checkpoints/shop/chk-7", "shop/chk-7"),
        ("file:///data/checkpoints//shop/chk-7", "shop/chk-7"),
        ("shop/chk-7", "shop/chk-7"),
        ("/elsewhere/savepoint-1", "file:///elsewhere/savepoint-1"),
        ("file:///elsewhere/savepoint-1", "file:///elsewhere/savepoint-1"),
        ("file:///data/checkpoints-2/x", "file:///data/checkpoints-2/x"),
        ("s3://bucket/x", "s3://bucket/x"),
        ("file:///data/checkpoints/", "file:///data/checkpoints/"),
    ],
)
def test_a_location_as_the_registry_knows_it(said: str, meant: str) -> None:
    assert internal_path(said, ROOT) == meant
    assert internal_path(said, f"{ROOT}/") == meant


def test_what_is_told_is_understood() -> None:
    told = external_path("shop/savepoints/savepoint-1/_metadata", ROOT)
    assert told is not None
    assert internal_path(told, ROOT) == "shop/savepoints/savepoint-1"
