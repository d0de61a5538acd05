"""Why a job that is queued makes no call, as far as the API tells."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from api.cli.client import PATIENCE_S, Client
from api.cli.program import PROGRAM
from worker import clock

_SOON_S: Final = 1.0  # less is no standing still


def paused(job: dict[str, Any]) -> str | None:
    """By a pause of its providers; None: there is none in its way."""
    if (pause := job["waiting_for"]) is None:
        return None
    return f"{pause['of']}: {pause['reason']}. `{PROGRAM} providers pauses` says when it is looked at again."


def put_off(client: Client, job: dict[str, Any]) -> tuple[str, str] | None:
    """By what its last call came to: who was called, and a sentence; None: it was not put off."""
    due_s = (datetime.fromisoformat(job["run_at"]) - clock.now()).total_seconds()
    if job["status"] != "queued" or job["waiting_for"] is not None or due_s < _SOON_S:
        return None
    calls = client.get(f"/v1/jobs/{job['id']}/attempts", patience_s=PATIENCE_S).json()["data"]
    if not calls:
        return None
    last = calls[-1]
    if last["retry_after_s"] is not None:
        return last["provider"], f"{last['provider']} asks to wait {due_s:.0f} s."
    return last["provider"], f"{last['provider']} failed ({last['kind']}); the next call is in {due_s:.0f} s."
