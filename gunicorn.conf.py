"""Gunicorn for `web` in production: `python -m api.web`, or `gunicorn -c gunicorn.conf.py api.wsgi:app`."""

from __future__ import annotations

import os
import socket
import sys
from contextlib import closing
from typing import Any


def _any_address() -> str:
    """Both IPv4 and IPv6 (some private networks have only the latter), or IPv4 alone where IPv6 is switched off."""
    try:
        with closing(socket.socket(socket.AF_INET6)) as probe:
            probe.bind(("::", 0))
    except OSError:
        return "0.0.0.0"  # noqa: S104 - a platform's router stands in front
    return "[::]"


def _host() -> str:
    """HOST where it is set; else every address, for a platform's router to reach."""
    named = os.environ.get("HOST", "").strip("[] ")
    if not named:
        return _any_address()
    return f"[{named}]" if ":" in named else named


def _grace_s() -> int:
    """Less than DRAIN_S, so that the last request is cut by us and not the whole process by the platform."""
    try:
        drain_s = float(os.environ.get("DRAIN_S") or 25)
    except ValueError:  # said by the application, with a remedy
        drain_s = 25.0
    return max(1, int(drain_s) - 1)


def on_starting(server: Any) -> None:
    """Look at the settings once, before any process that would fail of them with a traceback."""
    from api import production  # noqa: PLC0415 - gunicorn has made our folder importable only by now
    from worker.settings import SettingsError  # noqa: PLC0415

    try:
        for warning in production.warnings():
            server.log.warning("%s", warning)
    except SettingsError as error:
        for fault in error.faults:
            server.log.error("%s", fault)  # noqa: TRY400 - the traceback says nothing more
        sys.exit(4)


bind = f"{_host()}:{os.environ.get('PORT') or 8000}"
workers = int(os.environ.get("WEB_CONCURRENCY") or 2)
worker_class = "api.gthread.Worker"
threads = 64  # a request that waits for its job holds a thread; api/ bounds how many may
graceful_timeout = _grace_s()
keepalive = 65  # longer than the 60 s for which routers keep an idle connection, so that we never hang up first
control_socket_disable = True  # one fixed path in the home folder, for which two servers would fight

# The path without its query, no header, no address: nothing of it can be a secret.
accesslog = "-"
access_log_format = "%(m)s %(U)s %(s)s %(b)s bytes %(L)s s"
