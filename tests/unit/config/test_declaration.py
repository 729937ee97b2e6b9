"""The machinery, on classes made up for it."""

# ruff: noqa: RUF009 (setting() declares a field)

from __future__ import annotations

import os
from dataclasses import FrozenInstanceError, dataclass, replace

import pytest

from moorage.config.declaration import Options, Secret, Settings, setting, settings_of
from moorage.config.loader import load
from moorage.errors import SettingError


@dataclass(frozen=True, kw_only=True)
class ShipSettings(Settings, prefix="SHIP_"):
    """A ship."""

    masts: int = setting(3, "How many masts.", minimum=1, maximum=5)
    wait_ms: int = setting(100, "How long.", minimum=0, maximum=1_000)
    rig: str = setting("barque", "Its rig.", choices=("barque", "brig"))
    harbour: str | None = setting(None, "Home.", pattern="[a-z]+", form="lower-case letters")
    afloat: bool = setting(True, "Is it afloat?")
    key: Secret | None = setting(None, "Of the hold.")
    cargo: Options = setting(Options(), "What it carries.")
    holds: tuple[str, ...] = setting((), "Where.", variable="MOORAGE_HOLDS")

    def check(self) -> None:
        if self.rig == "brig" and self.masts != 2:
            raise self.refuse("masts", "must be 2 for a brig")


@dataclass(frozen=True, kw_only=True)
class TallShipSettings(ShipSettings, prefix="TALL_"):
    """A tall one."""

    height_ms: int = setting(0, "Inherits the rest.", minimum=0, maximum=9)


def _load(**variables: str) -> ShipSettings:
    return load(ShipSettings, {f"MOORAGE_{name}": value for name, value in variables.items()})


def _refusal(**variables: str) -> str:
    with pytest.raises(SettingError) as caught:
        _load(**variables)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_not_set_has_its_default() -> None:
    assert load(ShipSettings, {"PATH": "/bin"}) == ShipSettings()
    assert _load(SHIP_MASTS="") == ShipSettings()


def test_every_type_is_read_from_text() -> None:
    assert _load(
        SHIP_MASTS="4",
        SHIP_WAIT_MS=" 1_000 ",
        SHIP_RIG="barque",
        SHIP_HARBOUR="bremen",
        SHIP_AFLOAT="False",
        SHIP_KEY="s3cret",
        SHIP_CARGO="rum.kind=dark, tea=a=b",
        HOLDS=f"/fore{os.pathsep}/aft",
    ) == ShipSettings(
        masts=4,
        wait_ms=1_000,
        harbour="bremen",
        afloat=False,
        key=Secret("s3cret"),
        cargo=Options({"rum.kind": "dark", "tea": "a=b"}),
        holds=("/fore", "/aft"),
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("true", True),
        ("YES", True),
        ("on", True),
        ("1", True),
        ("false", False),
        ("No", False),
        ("off", False),
        ("0", False),
    ],
)
def test_a_boolean_has_the_usual_words(text: str, expected: bool) -> None:
    assert _load(SHIP_AFLOAT=text).afloat is expected


def test_options_may_be_json() -> None:
    cargo = _load(SHIP_CARGO='{"rum, dark": "a,b", "casks": 12, "dry": true, "share": 0.5}').cargo
    assert dict(cargo) == {"rum, dark": "a,b", "casks": "12", "dry": "true", "share": "0.5"}


@pytest.mark.parametrize(
    ("variables", "line"),
    [
        ({"SHIP_MASTS": "many"}, "MOORAGE_SHIP_MASTS=many: must be a whole number from 1 to 5"),
        ({"SHIP_MASTS": "6"}, "MOORAGE_SHIP_MASTS=6: must be a whole number from 1 to 5"),
        ({"SHIP_WAIT_MS": "-1"}, "MOORAGE_SHIP_WAIT_MS=-1: must be a whole number of ms from 0 to 1000"),
        ({"SHIP_RIG": "sloop"}, "MOORAGE_SHIP_RIG=sloop: must be one of barque, brig"),
        ({"SHIP_HARBOUR": "Bremen"}, "MOORAGE_SHIP_HARBOUR=Bremen: must be lower-case letters"),
        ({"SHIP_HARBOUR": "a\nb"}, "MOORAGE_SHIP_HARBOUR=a\\nb: must be lower-case letters"),
        ({"SHIP_AFLOAT": "maybe"}, "MOORAGE_SHIP_AFLOAT=maybe: must be true or false"),
        ({"SHIP_RIG": "brig"}, "MOORAGE_SHIP_MASTS=3: must be 2 for a brig"),
    ],
)
def test_a_bad_value_is_one_line_with_variable_value_and_what_is_allowed(variables: dict[str, str], line: str) -> None:
    assert _refusal(**variables) == line


@pytest.mark.parametrize("text", ["rum", "=dark", "rum=dark,", '{"rum": }', '{"rum": ["dark"]}', '{"rum": null}'])
def test_bad_options_are_refused_without_showing_them(text: str) -> None:
    assert _refusal(SHIP_CARGO=text) == "MOORAGE_SHIP_CARGO: must be a JSON object, or name=value,name=value"


def test_a_long_value_is_cut_and_passwords_in_it_are_hidden() -> None:
    assert len(_refusal(SHIP_RIG="x" * 1_000)) < 200
    for url in (
        "redis://:pw@h/0",
        "redis://me:pw@h/0",
        "redis://me:p/w@h/0",
        "redis://me:p@pw@h",
        "redis://h/0?Password=pw",
    ):
        assert "pw" not in _refusal(SHIP_RIG=url)


def test_the_rules_hold_for_settings_made_in_code_too() -> None:
    with pytest.raises(SettingError, match="MOORAGE_SHIP_MASTS=0"):
        ShipSettings(masts=0)
    with pytest.raises(SettingError, match="must be 2 for a brig"):
        replace(ShipSettings(), rig="brig")


def test_settings_can_not_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        ShipSettings().masts = 4  # type: ignore[misc]


def test_a_misspelt_variable_is_refused_with_the_nearest_name() -> None:
    assert _refusal(SHIP_MASST="4") == "MOORAGE_SHIP_MASST is no setting of Moorage: did you mean MOORAGE_SHIP_MASTS?"
    assert _refusal(QXZ="4") == "MOORAGE_QXZ is no setting of Moorage: docs/settings.md has them all"


def test_settings_of_other_services_are_no_mistake() -> None:
    assert _load(WORKER_SLOTS="not even valid", REDIS_PASSWORD="x") == ShipSettings()


def test_an_inherited_setting_keeps_its_variable() -> None:
    variables = {s.name: s.variable for s in settings_of(TallShipSettings)}
    assert variables["masts"] == "MOORAGE_SHIP_MASTS"
    assert variables["height_ms"] == "MOORAGE_TALL_HEIGHT_MS"


def test_secrets_and_options_are_never_shown() -> None:
    settings = _load(SHIP_KEY="s3cret", SHIP_CARGO="sasl.password=s3cret")
    assert "s3cret" not in repr(settings)
    assert "s3cret" not in str(settings.key)
    assert "s3cret" not in f"{settings.key}{settings.cargo}"
    assert "sasl.password" in repr(settings)
    assert settings.key is not None
    assert settings.key.reveal() == "s3cret"
    assert settings.cargo["sasl.password"] == "s3cret"
    assert hash(settings) == hash(_load(SHIP_KEY="s3cret", SHIP_CARGO="sasl.password=s3cret"))
