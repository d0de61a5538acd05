"""Panels of five: the same question again and again, put to five models of the mock."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace
from typing import Any, Final

from tests.bench import jobs as work
from tests.bench.client import Client as OfJobs
from tests.bench.ground import Ground, Run
from worker.domain.consensus import Consensus
from worker.domain.failure import Lane
from worker.domain.panel import Panel, Place
from worker.domain.question import AnswerSpec, asked
from worker.store.database import Database

MEMBERS: Final = tuple(f"mock/mock-{number}" for number in range(1, 6))
VOTE: Final = json.dumps({"rationale": "It is what it is.", "abstain": False, "answer": True, "confidence": 0.8})


def question(number: int) -> str:
    return f"Ticket {number}: is the lamp that flickers when the washing machine runs covered by the guarantee?"


def stored(number: int) -> dict[str, Any]:
    """Every vote is waited for: five calls for each panel."""
    places = tuple(Place(name, (name,)) for name in MEMBERS)
    return Panel(asked(question(number), AnswerSpec("boolean")), places, Consensus(quorum=3, early_stop=False)).stored()


class Client(OfJobs):
    path = "/v1/predictions"

    def body(self, number: int) -> dict[str, Any]:
        return {"question": question(number), "answer": {"type": "boolean"}, "panel": list(MEMBERS)}


def rate(ground: Ground, panels: int) -> Run:
    """Many rows of one lane, one worker process; what is counted are panels, not calls."""
    size = len(MEMBERS)
    with ground.answering("--says", VOTE), ground.fresh_database() as url, closing(Database(url)) as database:
        work.fill(database, Lane.BATCH, panels, kind="prediction", models=MEMBERS, body=stored)
        name = "Completar panels of five, 1 process"
        run = ground.measure(name, size * panels, lambda: [ground.worker(url)], lambda: work.unfinished(database))
    return replace(
        run,
        jobs=panels,
        per_s=run.per_s / size,
        cpu_ms=run.cpu_ms * size,
        postgres_ms=run.postgres_ms * size,
        redis_ms=run.redis_ms * size,
        provider_ms=run.provider_ms * size,
    )
