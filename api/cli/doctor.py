"""`completar doctor`: everything a server needs, looked at one by one, each fault with its remedy."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Literal

import click

from api.cli.command import Command, as_json
from api.cli.database import MIGRATE
from api.cli.fault import Exit
from api.cli.local import fault_list
from api.cli.program import PROGRAM
from api.cli.screen import Screen
from api.data_folder import DataFolder
from worker import clock
from worker.providers import catalog
from worker.providers.catalog import Catalog
from worker.settings import Settings, SettingsError
from worker.store import migrate, moment
from worker.store.database import Database, Unavailable

State = Literal["ok", "note", "fault"]
SKEW_S: Final = 5.0  # nothing compares the two clocks, but people read them side by side


@dataclass(frozen=True, slots=True)
class Finding:
    """`remedy` is there for what is not in order."""

    what: str
    state: State
    said: str
    remedy: str | None = None


@click.command(cls=Command)
@as_json("One JSON document.")
@click.pass_obj
def doctor(screen: Screen, as_json: bool) -> Exit:
    """Is everything there that a server needs? Exit code 4 when it is not.

    For example:
      completar doctor
      DATABASE_URL=postgresql://... REDIS_URL=redis://... completar doctor
    """
    found = list(_findings())
    if as_json:
        screen.document([asdict(one) for one in found])
    else:
        for one in found:
            screen.data(f"{one.state:5}  {one.what:13}  {one.said}")
            if one.remedy is not None:
                screen.data(f"{'':22}{one.remedy}")
    return Exit.CONFIG if any(one.state == "fault" for one in found) else Exit.OK


def _findings() -> Iterator[Finding]:
    yield Finding("Python", "ok", f"{sys.version.split()[0]} on {sys.platform}")
    try:
        settings, offered = catalog.check(os.environ)
    except SettingsError as error:
        said = fault_list(error.faults)
        yield Finding("configuration", "fault", said, "Mend these first: nothing else was looked at.")
        return
    file = f"the environment and {settings.config}" if settings.config is not None else "the environment"
    yield Finding("configuration", "ok", f"{file}, without a fault")
    for warning in offered.warnings:
        yield Finding("configuration", "note", warning, "It works no longer, or not as it is written.")
    yield from _keys(offered, own=settings.database_url is None)
    yield _folder(settings)
    yield from _database(settings)
    yield _hints(settings)


def _keys(offered: Catalog, *, own: bool) -> Iterator[Finding]:
    """`own`: web and worker share a process, which has a sandbox."""
    real = [spec for spec in offered.providers.values() if not spec.is_sandbox]
    for spec in real:
        names = ", ".join(key.name for key in spec.keys) or "no key needed"
        yield Finding("provider", "ok", f"{spec.label}: {names}")
    if not real and not own:
        said = "none has a key, and the sandbox is of `up` alone: jobs are refused"
        yield Finding("provider", "fault", said, str(offered.unserved))
    elif not real:
        yield Finding(
            "provider",
            "note",
            "none has a key: the sandbox answers, no real model",
            "`.env.example` names the variables.",
        )


def _folder(settings: Settings) -> Finding:
    """Whether the folder of the embedded mode can be used, and by whom it is. Nothing is made."""
    folder = DataFolder(settings.data_dir)
    there = next(path for path in (folder.path, *folder.path.absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        said = (
            f"{folder.path}: {there} is not ours to write" if there != folder.path else f"{there} is not ours to write"
        )
        return Finding("data folder", "fault", said, "COMPLETAR_DATA_DIR names another.")
    serving = folder.serving()
    by = f", served by process {serving.pid} at {serving.url}" if serving is not None else ""
    return Finding("data folder", "ok", f"{folder.path}{by}" if there == folder.path else f"{folder.path}, to be made")


def _database(settings: Settings) -> Iterator[Finding]:
    database = Database(settings.database, connections=1)
    kind = "Postgres" if database.dialect == "postgresql" else "SQLite"
    if kind == "SQLite" and not Path(database.url.database or "").exists():
        yield Finding("database", "ok", "SQLite, to be made at the first start")
        return
    try:
        with database.read() as conn:
            before = clock.now()
            theirs = moment.instant(conn)
            took_s = (clock.now() - before).total_seconds()
        if database.read_only():
            yield Finding("database", "fault", f"{kind} takes no writes", "Has its disk run full? Is it a standby?")
        else:
            yield Finding("database", "ok", f"{kind} answers in {took_s * 1000:.0f} ms")
        if not migrate.pending(database):
            yield Finding("schema", "ok", "up to date")
        elif settings.database_url is None:
            yield Finding("schema", "note", "behind this release", f"`{PROGRAM} up` brings it up to date.")
        else:
            yield Finding("schema", "fault", "behind this release", MIGRATE)
        skew_s = (theirs - before).total_seconds() - took_s / 2
        near = abs(skew_s) < SKEW_S
        yield Finding(
            "clock",
            "ok" if near else "note",
            f"{abs(skew_s):.1f} s {'behind' if skew_s > 0 else 'ahead of'} the database's"
            if not near
            else "agrees with the database's",
            None
            if near
            else "Jobs go by the database's clock alone; set this machine's by NTP to read its logs beside them.",
        )
    except Unavailable as away:
        yield Finding("database", "fault", f"{kind} cannot be reached: {away}", "Start it, or correct DATABASE_URL.")
    finally:
        database.close()


def _hints(settings: Settings) -> Finding:
    if settings.broker is None:
        if settings.database_url is None:
            return Finding("hints", "ok", "none needed: web and worker share a process")
        if settings.database.startswith("sqlite"):
            return Finding("hints", "ok", f"sql, no broker: workers look every {settings.poll_s:g} s")
        return Finding("hints", "ok", "sql, no broker: workers hear through Postgres")
    alive = _asked(settings.broker.get_secret_value())
    if alive():
        return Finding("hints", "ok", "redis, which answers")
    return Finding(
        "hints",
        "fault",
        "Redis cannot be reached: jobs are taken and run, but each may begin a second late",
        "Start it, correct REDIS_URL, or do without: COMPLETAR_HINTS=sql.",
    )


def _asked(redis_url: str) -> Callable[[], bool]:
    from worker.celery_app import CeleryHints, make_celery  # noqa: PLC0415 - half a second that few need

    return CeleryHints(make_celery(redis_url)).alive
