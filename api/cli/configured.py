"""The providers and routes of this machine's configuration."""

from __future__ import annotations

import os
from pathlib import Path

from api.cli.local import faults_told
from worker.providers import catalog
from worker.providers.catalog import Catalog
from worker.settings import Settings


def configured(config_file: Path | None = None) -> tuple[Settings, Catalog]:
    """Settings and what providers and routes follow from them; the faults of both come at once."""
    with faults_told():
        return catalog.check(os.environ, config_file)
