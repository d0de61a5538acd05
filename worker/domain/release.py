"""Which release this is."""

from __future__ import annotations

from typing import Final

RELEASE: Final = "0.1.0"  # of pyproject.toml and the changelog; tests compare them
