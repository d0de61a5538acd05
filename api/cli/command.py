"""A command as all of ours are: with the options that every command takes."""

from __future__ import annotations

import re
from collections.abc import Callable
from inspect import cleandoc
from typing import Any, TypeVar

import click

from api.cli.program import PROGRAM
from api.cli.screen import Screen

Callback = TypeVar("Callback", bound=Callable[..., Any])


def _set(ctx: click.Context, option: click.Parameter, value: bool) -> None:
    if value:
        assert option.name is not None
        setattr(ctx.ensure_object(Screen), option.name, True)


def _flag(*names: str, said: str) -> click.Option:
    return click.Option(names, is_flag=True, expose_value=False, callback=_set, help=said)


def as_written(text: str) -> str:
    """Help whose examples are what is typed here, and in which paragraphs with indented lines are kept as they are:
    click's mark for that is a backspace.
    """
    typed = re.sub(r"\bcompletar (?=[a-z])", lambda _: f"{PROGRAM} ", cleandoc(text))
    paragraphs = typed.split("\n\n")
    return "\n\n".join(f"\b\n{each}" if re.search("^  ", each, re.MULTILINE) else each for each in paragraphs)


class Command(click.Command):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        _completed(self)


class Group(click.Group):
    command_class = Command

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        _completed(self)


def _completed(command: click.Command) -> None:
    command.help = as_written(command.help or "")
    command.params += [
        _flag("--quiet", "-q", said="Only data and faults."),
        _flag("--no-color", said="No colours; NO_COLOR says the same."),
        _flag("--verbose", "-v", said="Every request and its id."),
    ]


def as_json(said: str = "The answer of the API, as JSON.") -> Callable[[Callback], Callback]:
    return click.option("--json", "as_json", is_flag=True, help=said)
