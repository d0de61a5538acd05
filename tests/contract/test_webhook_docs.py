"""What docs/webhooks.md says of fields, events and tries is what the code does, in both languages."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from api.webhook_endpoint import NewWebhookEndpoint, WebhookEndpointChanges
from tests.support.pages import page
from worker.domain.batch import BatchStatus, BatchView, Counts
from worker.domain.delivery import EVENT_TYPES
from worker.domain.failure import Lane
from worker.domain.job import JobView, Served
from worker.domain.money import Usage
from worker.domain.state import JobStatus
from worker.webhooks.payload import FULL_BYTES, batch_data, envelope, job_data
from worker.webhooks.schedule import SCHEDULE_S

pages = pytest.mark.parametrize("name", ["docs/webhooks.md", "docs/es/webhooks.md"])


@pages
def test_the_fields_are_those_that_are_read_with_their_defaults(name: str) -> None:
    rows = page(name).rows(0)
    told = re.findall(r"`(\w+)`", " ".join(row[0] for row in rows))
    assert set(told) == set(WebhookEndpointChanges.model_fields)
    defaults = {row[0]: row[2] for row in rows}
    fields = NewWebhookEndpoint.model_fields
    rates = f"{fields['max_rps'].default:g}, {fields['max_concurrency'].default}"
    assert defaults["`max_rps`, `max_concurrency`"] == rates
    assert defaults["`timeout_s`"] == f"{fields['timeout_s'].default:g}"
    assert defaults["`payload`"] == f"`{fields['payload'].default}`"


@pages
def test_every_event_is_named(name: str) -> None:
    assert [row[0].strip("`") for row in page(name).rows(1)] == list(EVENT_TYPES)


@pages
def test_the_schedule_is_the_one_that_is_kept(name: str) -> None:
    assert [(int(row[0]), float(row[1])) for row in page(name).rows(2)] == list(enumerate(SCHEDULE_S, 1))
    assert re.search(rf"{FULL_BYTES // 1000}[.,]000 bytes", page(name).text)


AT = datetime(2026, 11, 22, 7, tzinfo=UTC)
JOB = JobView(
    id="job_1",
    project_id="prj_1",
    kind="completion",
    lane=Lane.INTERACTIVE,
    status=JobStatus.COMPLETED,
    version=3,
    models=["default"],
    created_at=AT,
    queued_at=AT,
    started_at=AT,
    ended_at=AT,
    run_at=AT,
    deadline_at=None,
    attempts=1,
    result={"text": "Hello"},
    error=None,
    usage=Usage(5, 16),
    cost_nano=3450,
    cost_complete=True,
    served=Served("sandbox", "Sandbox", "echo"),
    metadata={"ticket": "42"},
    batch_id=None,
    retry_of=None,
    priority=0,
    on_interruption="retry",
    max_attempts=None,
    max_cost_nano=None,
    purged=False,
)
BATCH = BatchView(
    id="batch_1",
    project_id="prj_1",
    key_id=None,
    endpoint="/v1/chat/completions",
    input_file_id="file_1",
    window="24h",
    metadata={"ticket": "42"},
    status=BatchStatus.COMPLETED,
    model=None,
    errors=None,
    output_file_id="file_2",
    error_file_id=None,
    output_expires_s=None,
    counts=Counts(total=3, completed=3),
    created_at=AT,
    expires_at=AT,
    usage=Usage(5, 16, 0, 0),
)


def shape(value: Any, path: str = "") -> Iterator[str]:
    """The path of every key, in the order of the text."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield f"{path}.{key}"
            yield from shape(inner, f"{path}.{key}")


@pages
def test_the_bodies_have_the_fields_that_are_sent(name: str) -> None:
    shown = [json.loads(block.text) for block in page(name).blocks if block.language == "json"]
    for body, data in zip(shown, (job_data(JOB, "completed", 3), batch_data(BATCH, "completed", 4)), strict=True):
        sent = json.loads(envelope("evt_1", f"{data['object']}.completed", AT, data))
        assert list(shape(body)) == list(shape(sent))
        assert (body["type"], body["data"]["status"]) == (sent["type"], "completed")
