"""`completar up`: everything in one process, until it is told to stop."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any

import click

from api.cli.command import Command
from api.cli.fault import CliFault, Exit
from api.cli.local import settings
from api.cli.own import LOOK_S, started, stop
from api.cli.screen import Screen
from api.data_folder import AlreadyServed, DataFolder
from api.embedded import Embedded
from worker import events
from worker.services.last_exit import be_gone_in
from worker.settings import Settings


@click.command(cls=Command)
@click.option("--host", help="Instead of HOST: 0.0.0.0 or :: to be reached from outside.")
@click.option("--port", type=click.IntRange(0, 65_535), help="Instead of PORT; 0 takes a free one.")
@click.pass_obj
def up(screen: Screen, host: str | None, port: int | None) -> Exit:
    """API and worker in one process, with a database in the user's data folder.

    Ctrl-C and SIGTERM let calls in flight end first; a second Ctrl-C stops at once. Whatever way it ends, what was
    accepted goes on at the next start.

    For example:
      completar up
      completar up --port 9000
      DATABASE_URL=postgresql://... completar up

    The log goes to stderr; COMPLETAR_LOG_LEVEL=warning makes it short.
    """
    given: dict[str, Any] = {"host": host, "port": port}
    environment = {name.upper(): str(value) for name, value in given.items() if value is not None}
    told = settings(environment)
    events.configure("error" if screen.quiet else told.log_level)
    try:
        with DataFolder(told.data_dir).held() as folder:
            return _serve(screen, told, folder)
    except AlreadyServed as already:
        by = already.serving
        at = f" at {by.url}" if by is not None and by.url is not None else ""
        who = f"process {by.pid}{at}" if by is not None else "another process"
        raise CliFault(
            f"{told.data_dir} is served already, by {who}.",
            "Use that one, stop it first, or set COMPLETAR_DATA_DIR to another folder.",
            Exit.FAILED,
        ) from None


def _serve(screen: Screen, told: Settings, folder: DataFolder) -> Exit:
    asked = threading.Event()
    signals: list[int] = []

    def asked_to_stop(number: int, _frame: FrameType | None) -> None:
        signals.append(number)
        asked.set()
        if len(signals) == 1:
            be_gone_in(told.drain_s)
        if signals.count(signal.SIGINT) > 1:
            os._exit(Exit.INTERRUPTED)  # somebody in a hurry; what is in flight is taken back at the next start

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, asked_to_stop)
    own = started(told)
    try:
        folder.serve_at(own.url)
        _welcome(screen, own, told)
        while not asked.wait(LOOK_S):
            pass
        screen.say(f"Stopping: calls in flight have {told.drain_s:g} s to end; Ctrl-C again stops at once.")
    finally:
        stop(own)
    screen.say("Stopped. Jobs that have not ended go on at the next start.")
    return Exit.OK


def _welcome(screen: Screen, own: Embedded, told: Settings) -> None:
    """On stdout: what a person copies from here to try it."""
    for warning in own.deps.catalog.warnings:
        screen.warn(f"warning: {warning}")
    key = own.key if told.api_key is None else None
    shown = key if key is not None else "(the one in COMPLETAR_API_KEY)"
    bash, powershell = (key, key) if key is not None else ("$COMPLETAR_API_KEY", "$env:COMPLETAR_API_KEY")
    ask, prompt = f"{own.url}/completar", """'{"prompt": "Why is the sky blue?"}'"""
    bearer, typed = f"Authorization: Bearer {bash}", "Content-Type: application/json"
    headers = f'@{{Authorization = "Bearer {powershell}"}}'
    answers = (
        "the sandbox, which is no real model (`.env.example` names the keys of those that are)"
        if own.is_sandbox
        else ", then ".join(own.labels)
    )
    for line in (
        f"Completar serves {own.url}",
        f"  Key      {shown}",
        f"  Answers  {answers}",
        f"  Data     {told.data_dir}" + ("" if told.database_url is None else " (the key; DATABASE_URL has the rest)"),
        f"  Docs     {own.url}/docs",
        "",
        "Try it, with curl:",
        f'  curl {ask} -H "{bearer}" -H "{typed}" -d {prompt}',
        "with PowerShell:",
        f"  Invoke-RestMethod {ask} -Method Post -Body {prompt} -ContentType application/json -Headers {headers}",
        "",
    ):
        screen.data(line)
