"""What is pure of batches: windows, moves, and the cutting of a file into lines."""

from __future__ import annotations

import codecs
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.domain.batch import FINAL, MOVES, OPEN, BatchStatus, window_s
from worker.domain.failure import Lane
from worker.services.batches.endpoints import ENDPOINTS, NATIVE
from worker.services.batches.lines import BadLine, custom_id_of, read
from worker.services.batches.raw import cut

CHAT = "/v1/chat/completions"

LINES = st.lists(st.text(st.characters(exclude_characters="\n\r", codec="utf-8"), max_size=30), max_size=12)


@pytest.mark.parametrize(
    ("window", "seconds"),
    [("24h", 86_400), ("1h", 3600), ("168h", 604_800), ("7d", 604_800), ("1d", 86_400)]
    + [
        (bad, None) for bad in ("169h", "8d", "0h", "h", "24", "24H", " 24h", "24h\n", "1.5h", "-1h", "٣h", "1000h", "")
    ],
)
def test_windows(window: str, seconds: int | None) -> None:
    assert window_s(window) == seconds


def test_a_final_state_never_changes_and_every_other_one_ends() -> None:
    assert {status for status, after in MOVES.items() if not after} == FINAL
    assert set(MOVES) == FINAL | OPEN == set(BatchStatus)
    for status in OPEN:
        reached, fresh = set[BatchStatus](), {status}
        while fresh:
            reached |= fresh
            fresh = {after for one in fresh for after in MOVES[one]} - reached
        assert reached & FINAL


@given(
    LINES,
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"]),
    st.integers(1, 50),
    st.booleans(),
)
def test_lines_come_as_they_were_written_however_they_arrive(
    texts: list[str], line_break: str, encoding: str, size: int, ended: bool
) -> None:
    # As JSON: without it a file says nothing of its encoding.
    written = [json.dumps(text, ensure_ascii=False) for text in ["first", *texts]]
    data = (line_break.join(written) + (line_break if ended else "")).encode(encoding)
    first = data[:4]  # by these the encoding is told
    chunks = [first, *(data[at : at + size] for at in range(4, len(data), size))]
    found = list(cut(chunks, 10_000))
    assert found == [(n, text.encode()) for n, text in enumerate(written, 1)]


def test_blank_lines_count_but_are_not_there() -> None:
    assert list(cut([b"\n\n a \n\r\n", b"  \nb"], 100)) == [(3, b"a"), (6, b"b")]


def test_a_line_that_is_too_long_is_named_and_not_held() -> None:
    def chunks() -> list[bytes]:
        return [b"short\n", *([b"x" * 50] * 9), b"\nafter\n", b"y" * 101]

    assert list(cut(chunks(), 100)) == [(1, b"short"), (2, None), (3, b"after"), (4, None)]


def test_broken_utf_16_is_broken_on_its_own_line() -> None:
    good, bad = '"a"\n'.encode("utf-16-le"), b"\x00\xd8\n\x00"
    lines = list(cut([codecs.BOM_UTF16_LE + good + bad + good], 100))
    assert [number for number, _ in lines] == [1, 2, 3]
    assert (lines[0][1], lines[2][1]) == (b'"a"', b'"a"')
    with pytest.raises(UnicodeDecodeError):
        (lines[1][1] or b"").decode()


@pytest.mark.parametrize("start", [b"\xff\xfe\0\0", b"\0\0\0{", b"{\0\0\0", b"\0\0\xfe\xff"])
def test_what_looks_like_utf_32_is_left_as_it_is(start: bytes) -> None:
    """No program writes it, and as such most bytes have no meaning at all."""
    assert list(cut([start + b"abcdefgh\nnext"], 100)) == [(1, start + b"abcdefgh"), (2, b"next")]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
MESSAGES = st.just([{"role": "user", "content": "hi"}])
BODIES = st.fixed_dictionaries(
    {},
    optional={"messages": MESSAGES | JSON, "model": st.just("m") | JSON, "stream": JSON, "metadata": JSON, "n": JSON},
)
OBJECTS = st.fixed_dictionaries(
    {},
    optional={
        "custom_id": st.text(max_size=5) | JSON,
        "method": st.just("POST") | JSON,
        "url": st.just(CHAT) | JSON,
        "body": BODIES | JSON,
    },
)


@given(st.binary(max_size=60) | (OBJECTS | JSON).map(lambda value: json.dumps(value).encode()))
def test_whatever_a_line_holds_it_is_a_request_or_is_told_what_is_wrong(data: bytes) -> None:
    errors, line = [], None
    try:
        line = read((7, data), CHAT, lambda models: models)
    except BadLine as bad:
        errors = bad.errors
    if line is None:
        assert errors
        assert all(error.line == 7 and error.message for error in errors)
        json.dumps([error.json() for error in errors])
        return
    assert json.loads(line.custom_id) == json.loads(data)["custom_id"]
    assert custom_id_of((7, data)) == line.custom_id
    assert line.custom_id.isascii()


@pytest.mark.parametrize("url", list(ENDPOINTS))
def test_every_endpoint_takes_a_plain_request(url: str) -> None:
    body: dict[str, Any] = {"messages": [{"role": "user", "content": "x"}]} if url == CHAT else {"prompt": "x"}
    if url in {"/v1/embeddings", "/v1/responses"}:
        body = {"input": "x"}
    if url == NATIVE:
        body = {"input": {"prompt": "x"}, "lane": "interactive"}
    asked = {"custom_id": "a", "method": "POST", "url": url, "body": body}
    line = read((1, json.dumps(asked).encode()), url, lambda models: models)
    assert line.request.lane is Lane.BATCH
    assert line.request.models == ("default",)
