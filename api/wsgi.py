"""The production entry: `gunicorn api.wsgi:app`. Settings come from the environment.

Nothing is connected at import: the process answers /healthz while the database or the broker is still away. The project
and the key of COMPLETAR_API_KEY are made at the first request that reaches the database.
"""

from __future__ import annotations

from typing import Final

import flask

from api import production
from api.app import create_app
from worker import events
from worker.celery_app import CeleryHints, make_celery
from worker.deps import Hints, build
from worker.services.hints import NoHints, SqlHints
from worker.settings import Settings
from worker.store.database import Database

CONNECTIONS: Final = 8  # to the database, of each process


def _hints(settings: Settings) -> Hints:
    """Workers of other processes are told through the broker, or else through Postgres; with SQLite they look."""
    if settings.broker is not None:
        return CeleryHints(make_celery(settings.broker.get_secret_value()))
    database = Database(settings.database, connections=1)
    return SqlHints(database) if database.dialect == "postgresql" else NoHints()


def _make() -> flask.Flask:
    settings = production.settings()
    events.configure(settings.log_level)
    return create_app(build(settings, _hints(settings), connections=CONNECTIONS))


app: Final = _make()
