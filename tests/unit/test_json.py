"""JSON read and written fast is what it would be read and written slowly, down to the types."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.providers.json_request import json_request
from worker.providers.json_text import read_json
from worker.store.text import dumps, loads

WORDS = st.text() | st.sampled_from(["\ud800", "\x00", "a\ud83d", "\u2028", "NaN", "Infinity", "é", "🙂"])
NUMBERS = st.integers() | st.integers(2**62, 2**130) | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=12,
)


@given(VALUES)
def test_what_is_stored_is_read_as_it_was(value: object) -> None:
    assert repr(loads(dumps(value))) == repr(value)


@given(st.dictionaries(WORDS, VALUES, max_size=4))
def test_a_request_says_what_it_was_given(value: dict[str, object]) -> None:
    request = json_request("POST", "http://127.0.0.1/x", (), value)
    body = request.read()
    assert repr(json.loads(body)) == repr(value)
    assert request.headers["Content-Length"] == str(len(body))


@given(VALUES)
def test_a_reply_is_read_as_it_was_written(value: object) -> None:
    for ascii_only in (True, False):
        text = json.dumps(value, ensure_ascii=ascii_only)
        body = text.encode("utf-8", "replace")
        slow = json.JSONDecoder(strict=False).decode(body.decode("utf-8"))
        assert repr(read_json(body)) == repr(slow)


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b'\xef\xbb\xbf{"a":1}', {"a": 1}),
        (b'{"a":"line\nbreak"}', {"a": "line\nbreak"}),
        (b'{"a":"\xff"}', {"a": "\ufffd"}),
        (b'{"a":NaN,"b":-Infinity}', {"a": None, "b": None}),
        (b'{"a":"NaN"}', {"a": "NaN"}),
        (b'{"a":1,"a":2}', {"a": 2}),
        (b" [1] ", [1]),
        (b'"\\ud83d\\ude42"', "🙂"),
    ],
)
def test_odd_bodies_are_read_as_ever(body: bytes, value: object) -> None:
    assert read_json(body) == value


@pytest.mark.parametrize("body", [b"", b"{", b"[1,]", b"{} x", b"nul", b"'a'", b"[" * 100_000])
def test_what_is_no_json_is_said_to_be_none(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_json(body)
