"""What this process was told: the environment first, then one optional TOML file for providers and routes.

Read once, by the composition root; everything else is given what it needs. Facts about providers are not here: the
catalog lays this over its presets.
"""

from __future__ import annotations

from worker.settings.declared import Flavour
from worker.settings.fault import Fault, SettingsError, closest, did_you_mean
from worker.settings.file import (
    SANDBOX,
    BackoffConfig,
    LimitsConfig,
    MemberConfig,
    ModelConfig,
    PanelConfig,
    PriceConfig,
    ProviderConfig,
    RouteConfig,
)
from worker.settings.reading import load, read
from worker.settings.table import Row, environment_table, redacted
from worker.settings.variables import OwnEndpoint, Settings

__all__ = [
    "SANDBOX",
    "BackoffConfig",
    "Fault",
    "Flavour",
    "LimitsConfig",
    "MemberConfig",
    "ModelConfig",
    "OwnEndpoint",
    "PanelConfig",
    "PriceConfig",
    "ProviderConfig",
    "RouteConfig",
    "Row",
    "Settings",
    "SettingsError",
    "closest",
    "did_you_mean",
    "environment_table",
    "load",
    "read",
    "redacted",
]
