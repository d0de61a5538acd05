"""The wire formats by name, as `[providers.NAME] format` gives it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from worker.providers.format import Format
from worker.providers.openai import OpenAIFormat

FORMATS: Final[Mapping[str, Format]] = MappingProxyType({"openai": OpenAIFormat()})
