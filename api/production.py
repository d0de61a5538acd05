"""Settings of `web` in production, as gunicorn's master looks at them once and each of its processes reads them."""

from __future__ import annotations

import os
from collections.abc import Mapping

from worker.deps import said_at_start
from worker.providers import catalog
from worker.settings import Settings, load


def settings() -> Settings:
    """Raises SettingsError."""
    return load(environment())


def warnings() -> list[str]:
    """What should be known although it starts. Raises SettingsError with every fault."""
    return said_at_start(*catalog.check(environment()))


def environment() -> Mapping[str, str]:
    """Without HOST gunicorn binds every address: a key that is good enough for a laptop is refused."""
    return {**os.environ, "HOST": os.environ.get("HOST") or "::"}
