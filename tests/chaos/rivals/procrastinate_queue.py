"""A rival: procrastinate, a queue in Postgres, with the periodic task its documentation gives for stalled jobs."""

from __future__ import annotations

import os

from procrastinate import App, PsycopgConnector
from procrastinate.job_context import JobContext

from tests.chaos.rivals.answers import ask_and_store

EVERY_10_S = "* * * * * */10"  # the documentation says every ten minutes; this is kinder to it

app = App(connector=PsycopgConnector(conninfo=os.environ.get("RIVAL_DATABASE_URL", "")))


@app.task(name="rival.ask")
def ask(prompt: str) -> None:
    ask_and_store(prompt)


@app.periodic(cron=EVERY_10_S)
@app.task(name="rival.retry_stalled", queueing_lock="retry_stalled", pass_context=True)
async def retry_stalled(context: JobContext, timestamp: int) -> None:
    for job in await app.job_manager.get_stalled_jobs():
        await app.job_manager.retry_job(job)
