"""Options of commands whose lines may share a call, or take an answer that is there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click


def sharing(command: Callable[..., Any]) -> Callable[..., Any]:
    """Gives the command `dedupe` and `max_age`."""
    for option in (
        click.option("--cache", "max_age", metavar="AGE", help="Take stored answers no older than this, such as 12h."),
        click.option("--dedupe", is_flag=True, help="Lines that ask the same make one call."),
    ):
        command = option(command)
    return command


def shared(dedupe: bool, max_age: str | None) -> dict[str, Any]:
    """The fields of a new batch."""
    return {**({"dedupe": True} if dedupe else {}), **({} if max_age is None else {"cache": {"max_age": max_age}})}
