"""What this machine was told: the settings, and their faults in words."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence

from api.cli.fault import CliFault, Exit
from api.cli.program import PROGRAM
from worker.settings import Fault, Settings, SettingsError, load


def settings(overrides: Mapping[str, str] | None = None) -> Settings:
    """`overrides` are variables, as options of a command say them."""
    with faults_told():
        return load({**os.environ, **(overrides or {})})


@contextlib.contextmanager
def faults_told() -> Iterator[None]:
    """Faults of the configuration, all at once."""
    try:
        yield
    except SettingsError as error:
        raise CliFault(fault_list(error.faults), f"`{PROGRAM} config check` looks again.", Exit.CONFIG) from None


def fault_list(faults: Sequence[Fault]) -> str:
    count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
    return "\n".join((f"{count} in the configuration:", *(f"  {fault}" for fault in faults)))
