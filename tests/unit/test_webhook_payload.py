"""The body of an event: always JSON, always ASCII, never longer than it may be."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.webhooks.payload import FULL_BYTES, envelope, with_output

AT = datetime(2026, 11, 22, 12, 0, 0, 123456, tzinfo=UTC)


def test_the_envelope_has_both_forms_of_time() -> None:
    body = json.loads(envelope("evt_1", "job.completed", AT, {"id": "job_1"}))
    assert body == {
        "id": "evt_1",
        "object": "event",
        "type": "job.completed",
        "created_at": int(AT.timestamp()),
        "timestamp": "2026-11-22T12:00:00.123Z",
        "data": {"id": "job_1"},
    }


@pytest.mark.parametrize("text", ["\ud800", "\x00", "\U0001f600", "ünï"])
def test_any_text_goes_out_as_ascii(text: str) -> None:
    body = envelope("evt_1", "job.completed", AT, with_output({}, {"text": text}, FULL_BYTES))
    assert body.isascii()
    assert json.loads(body)["data"]["output"] == {"text": text}


@pytest.mark.parametrize("output", [float("nan"), {"x": float("inf")}, {"x": object()}, {"x": b"bytes"}])
def test_what_is_no_json_is_left_out_and_said_so(output: object) -> None:
    data = with_output({"id": "job_1"}, output, FULL_BYTES)
    assert data == {"id": "job_1", "output": None, "output_omitted": True}
    assert json.loads(envelope("evt_1", "job.completed", AT, data))["data"]["output_omitted"] is True


@given(st.text(max_size=300), st.integers(0, 400))
def test_a_full_body_is_no_longer_than_it_may_be(text: str, room: int) -> None:
    thin = envelope("evt_1", "job.completed", AT, {"id": "job_1"})
    full = envelope("evt_1", "job.completed", AT, with_output({"id": "job_1"}, text, room))
    assert len(full) <= len(thin) + max(room, len("null")) + len(',"output":,"output_omitted":false')
