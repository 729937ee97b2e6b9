"""Settings of hypothesis: no deadlines, because machines that run tests are busy."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("moorage", deadline=None)
settings.load_profile("moorage")
