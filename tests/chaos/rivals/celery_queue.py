"""A rival: Celery on Redis with late acknowledgement, as its documentation advises for work that must not be lost."""

from __future__ import annotations

import os

from celery import Celery

from tests.chaos.rivals.answers import ask_and_store

app = Celery("rival", broker=os.environ.get("RIVAL_REDIS_URL"), set_as_current=False)
app.conf.update(
    task_acks_late=True,
    task_ignore_result=True,
    worker_prefetch_multiplier=1,
    broker_connection_retry_on_startup=True,
    broker_transport_options={"visibility_timeout": int(os.environ.get("RIVAL_VISIBILITY_S", "3600"))},
)


@app.task(name="rival.ask")
def ask(prompt: str) -> None:
    ask_and_store(prompt)
