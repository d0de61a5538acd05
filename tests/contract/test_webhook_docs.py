"""What docs/webhooks.md says of fields, events and tries is what the code does, in both languages."""

from __future__ import annotations

import re

import pytest

from api.webhook_endpoint import NewWebhookEndpoint, WebhookEndpointChanges
from tests.support.pages import page
from worker.domain.delivery import EVENT_TYPES
from worker.webhooks.payload import FULL_BYTES
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
