"""One delivery verifies in every library that receivers use: on the first try, on a late one, and in a rotation."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import Any

import openai
import pytest
import standardwebhooks
import svix
from hypothesis import given
from hypothesis import strategies as st
from replicate.webhook import Webhooks, WebhookSigningSecret

from worker.webhooks.signature import (
    SECRET_BYTES,
    TOLERANCE_S,
    BadSecret,
    Unverified,
    headers,
    key_of,
    secret_of,
    verify,
)

NEW, OLD, OTHER = (secret_of(bytes([n]) * SECRET_BYTES) for n in (251, 255, 3))
EVENT_ID = "evt_0192f3c1d2e4"
BODY = json.dumps(
    {
        "id": EVENT_ID,
        "object": "event",
        "type": "job.completed",
        "created_at": 1_790_000_000,
        "timestamp": "2026-09-21T13:33:20Z",
        "data": {"id": "job_1", "text": "¿Qué tal? \U0001f600"},
    }
).encode()
Reader = Callable[[bytes, Mapping[str, str], str], Any]


def _ours(body: bytes, sent: Mapping[str, str], secret: str) -> None:
    told = (sent.get("webhook-id"), sent.get("webhook-timestamp"), sent.get("webhook-signature"))
    verify(told, body, secret, now_s=time.time(), tolerance_s=TOLERANCE_S)


READERS: dict[str, Reader] = {
    "ours": _ours,
    "standardwebhooks": lambda body, sent, secret: standardwebhooks.Webhook(secret).verify(body, dict(sent)),
    "svix": lambda body, sent, secret: svix.Webhook(secret).verify(body, dict(sent)),
    "openai": lambda body, sent, secret: openai.OpenAI(api_key="k", webhook_secret=secret).webhooks.unwrap(body, sent),
    "replicate": lambda body, sent, secret: Webhooks.validate(
        headers=dict(sent), body=body.decode(), secret=WebhookSigningSecret(key=secret), tolerance=TOLERANCE_S
    ),
}


@pytest.fixture(params=list(READERS))
def reader(request: pytest.FixtureRequest) -> Reader:
    return READERS[request.param]


def _now() -> int:
    return int(time.time())


@pytest.mark.parametrize("late_s", [0, -290, 290])
def test_a_try_verifies_whenever_its_own_time_is_near(reader: Reader, late_s: int) -> None:
    reader(BODY, headers(EVENT_ID, _now() + late_s, BODY, [NEW]), NEW)


@pytest.mark.parametrize("secret", [NEW, OLD])
def test_in_a_rotation_either_secret_verifies(reader: Reader, secret: str) -> None:
    reader(BODY, headers(EVENT_ID, _now(), BODY, [NEW, OLD]), secret)


def test_another_secret_does_not_verify(reader: Reader) -> None:
    with pytest.raises(Exception, match=r".") as refused:
        reader(BODY, headers(EVENT_ID, _now(), BODY, [NEW, OLD]), OTHER)
    assert OTHER.removeprefix("whsec_") not in str(refused.value)


def test_another_body_another_id_or_an_old_try_does_not_verify(reader: Reader) -> None:
    sent = headers(EVENT_ID, _now(), BODY, [NEW])
    for body, given_headers in (
        (BODY + b" ", sent),
        (BODY, {**sent, "webhook-id": "evt_other"}),
        (BODY, headers(EVENT_ID, _now() - 400, BODY, [NEW])),
        (BODY, headers(EVENT_ID, _now() + 400, BODY, [NEW])),
    ):
        with pytest.raises(Exception, match=r"."):
            reader(body, given_headers, NEW)


@given(st.binary(min_size=24, max_size=64))
def test_a_secret_survives_its_text_form(key: bytes) -> None:
    assert key_of(secret_of(key)) == key


@pytest.mark.parametrize(
    "text", ["", "whsec_", NEW.rstrip("="), NEW.removeprefix("whsec_"), "whsec_" + "-_" * 20, "whsec_AAAA", "whsec_ä"]
)
def test_a_text_that_is_no_secret_is_refused_without_being_repeated(text: str) -> None:
    with pytest.raises(BadSecret) as refused:
        key_of(text)
    assert len(text) < 8 or text not in str(refused.value)
    with pytest.raises(BadSecret):
        secret_of(b"short")


@pytest.mark.parametrize(
    "change", [{"webhook-timestamp": "1.5"}, {"webhook-timestamp": "²"}, {"webhook-signature": ""}, {"webhook-id": ""}]
)
def test_a_malformed_delivery_is_unverified_and_no_crash(change: dict[str, str]) -> None:
    with pytest.raises(Unverified):
        _ours(BODY, {**headers(EVENT_ID, _now(), BODY, [NEW]), **change}, NEW)
