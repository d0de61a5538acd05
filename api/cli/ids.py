"""Ids that people give: they stand in an address, and what is none must not become another address."""

from __future__ import annotations

from api.cli.fault import CliFault, Exit
from api.cli.program import PROGRAM


def checked(given: str, what: str, *listed_by: str) -> str:
    """The id. Raises CliFault; `listed_by`: the commands that show them."""
    if not given.replace("_", "").replace("-", "").isalnum():
        shown = " and ".join(f"`{PROGRAM} {command}`" for command in listed_by)
        raise CliFault(f"{given!r} is no {what}.", f"{shown} show{'s' * (len(listed_by) == 1)} them.", Exit.USAGE)
    return given
