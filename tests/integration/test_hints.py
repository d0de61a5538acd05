"""Hints through Redis: best effort, and nothing that piles up."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.redis import Redis
from worker import celery_app, events
from worker.celery_app import CeleryHints, make_celery
from worker.domain.failure import Lane

pytestmark = pytest.mark.redis


def test_hints_that_nobody_takes_do_not_fill_redis(redis_server: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr(events, "emit", lambda event, **fields: said.append((event, fields)))
    monkeypatch.setattr(celery_app, "LOOK_EVERY", 5)
    monkeypatch.setattr(celery_app, "UNHEARD", 12)
    hints = CeleryHints(make_celery(redis_server.url))
    for n in range(18):
        hints.jobs([f"job_{n}"])
    assert redis_server._command("LLEN completar:interactive") == ":3"
    assert said == [("hints.unheard", {"level": "warning", "lane": "interactive", "hints": 15})]
    for _ in range(2):
        hints.lane(Lane.BATCH)
    assert redis_server._command("LLEN completar:batch") == ":2"
