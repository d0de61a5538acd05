"""The consent of a person to what cannot be taken back."""

from __future__ import annotations

import sys

import click

from api.cli.fault import CliFault, Exit


def confirm(question: str, *, yes: bool) -> None:
    """Goes on only with it. `yes`: it was given beforehand."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise CliFault("There is nobody here to ask whether this is meant.", "Say so with --yes.", Exit.USAGE)
    click.confirm(question, abort=True, err=True)
