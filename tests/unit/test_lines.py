"""Files of requests as people have them: from OpenAI, from PowerShell, by hand, and broken."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.cli.lines import BrokenLine, Line, read

CHAT = {"messages": [{"role": "user", "content": "¿Qué hora es?"}]}
STRICT: dict[str, Any] = {
    "type": "json_schema",
    "json_schema": {"name": "hour", "strict": True, "schema": {"type": "object"}},
}


def lines(data: bytes, **overrides: Any) -> list[Line | BrokenLine]:
    return list(read(io.BufferedReader(io.BytesIO(data)), overrides))  # type: ignore[type-var]


def job(record: dict[str, Any], **overrides: Any) -> dict[str, Any]:
    (line,) = lines(json.dumps(record).encode(), **overrides)
    assert isinstance(line, Line), line
    return line.job


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"prompt": "Hi", "temperature": 0}, {"input": {"prompt": "Hi", "temperature": 0}}),
        ({**CHAT, "model": "groq"}, {"model": "groq", "input": CHAT}),
        ({"input": CHAT, "priority": 1}, {"priority": 1, "input": CHAT}),
        (
            {"input": ["a", "b"], "dimensions": 8},
            {"kind": "embedding", "input": {"input": ["a", "b"], "dimensions": 8}},
        ),
        (
            {"prompt": "Hi", "system": "Be brief.", "models": ["a/b", "c/d"], "output_schema": {}},
            {
                "models": ["a/b", "c/d"],
                "output_schema": {},
                "input": {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]},
            },
        ),
        (
            {"method": "POST", "url": "/v1/chat/completions", "body": {"model": "m", **CHAT, "stream": False, "n": 1}},
            {"kind": "completion", "model": "m", "input": CHAT},
        ),
        (
            {
                "url": "/v1/chat/completions",
                "body": {
                    **CHAT,
                    "models": ["b"],
                    "max_cost": 0.1,
                    "deadline_s": 60,
                    "metadata": {"run": "7"},
                    "response_format": STRICT,
                    "stream_options": {},
                },
            },
            {
                "kind": "completion",
                "models": ["default", "b"],
                "max_cost": 0.1,
                "deadline_s": 60,
                "metadata": {"run": "7"},
                "input": {**CHAT, "response_format": STRICT},
                "output_schema": STRICT["json_schema"]["schema"],
            },
        ),
        (
            {"url": "/v1/responses", "body": {"model": "m", "instructions": "Be brief.", "input": "Hi"}},
            {
                "kind": "completion",
                "model": "m",
                "input": {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]},
            },
        ),
        (
            {"url": "/v1/completions", "body": {"model": "m", "prompt": "Hi", "max_tokens": 5}},
            {"kind": "completion", "model": "m", "input": {"prompt": "Hi", "max_tokens": 5}},
        ),
        (
            {"method": "POST", "url": "/v1/jobs", "body": {"kind": "prediction", "input": {"question": "Rain?"}}},
            {"kind": "prediction", "input": {"question": "Rain?"}},
        ),
        (
            {"url": "/v1/embeddings", "body": {"model": "m", "input": "text"}},
            {"kind": "embedding", "model": "m", "input": {"input": "text"}},
        ),
    ],
)
def test_what_a_line_asks_for(record: dict[str, Any], expected: dict[str, Any]) -> None:
    assert job({"custom_id": "x", **record}) == expected


def test_what_the_command_says_beats_the_line() -> None:
    assert job({"prompt": "Hi", "models": ["a/b"]}, model="c/d", max_attempts=2) == {
        "model": "c/d",
        "max_attempts": 2,
        "input": {"prompt": "Hi"},
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"prompt": "Hi"', "is not valid JSON at column 16"),
        ("[1, 2]", "is not a JSON object"),
        ('{"prompt": NaN}', "holds NaN"),
        ("{}", "a line has `prompt`, `messages` or `input`"),
        ('{"custom_id": 7, "prompt": "Hi"}', "custom_id must be a string"),
        ('{"url": "/v1/moderations", "body": {}}', "url must be one of /v1/chat/completions, /v1/responses, "),
        ('{"url": "/v1/responses", "body": {"input": 7}}', "body.input must be"),
        ('{"url": "/v1/chat/completions", "body": {"messages": [], "stream": true}}', "body.stream cannot be true"),
        ('{"url": "/v1/embeddings", "body": []}', "body must be an object"),
        ('{"url": "/v1/jobs"}', "Missing required parameter: 'body'"),
        ('{"method": "GET", "url": "/v1/embeddings", "body": {"input": "x"}}', "method must be POST"),
        ('{"input": {"prompt": "Hi"}, "temperature": 1}', "has temperature beside input"),
        ('{"messages": "Hi", "system": "Be brief."}', "messages must be a list"),
        ("[" * 100_000, "is nested too deep"),
        (b'{"prompt": "caf\xe9"}', "is not UTF-8"),
        ('{"prompt": "x", "seed": ' + "1" * 5000 + "}", "holds a number out of range"),
    ],
)
def test_a_broken_line_is_told_with_its_number_and_the_others_run(text: str | bytes, said: str) -> None:
    broken = text if isinstance(text, bytes) else text.encode()
    first, found, last = lines(b'{"prompt": "1"}\n' + broken + b'\n\n{"prompt": "4"}')
    assert isinstance(found, BrokenLine)
    assert found.number == 2
    assert said in found.message
    assert [type(one) for one in (first, last)] == [Line, Line]
    assert last.number == 4, "blank lines are counted"


def test_a_broken_line_keeps_its_custom_id() -> None:
    (found,) = lines(b'{"custom_id": "a", "nothing": 1}')
    assert (found.custom_id, type(found)) == ("a", BrokenLine)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_files_as_windows_writes_them(encoding: str, end: str) -> None:
    text = f'{{"prompt": "ñandú"}}{end}{end}{{"prompt": "“zwei”\u2028"}}{end}'
    found = lines(text.encode(encoding))
    assert [(line.number, line.job["input"]) for line in found if isinstance(line, Line)] == [
        (1, {"prompt": "ñandú"}),
        (3, {"prompt": "“zwei”\u2028"}),
    ]


def test_a_line_of_openai_that_is_nested_deep_is_told_however_deep() -> None:
    """Just below what cannot be read is what can, and cannot be written again."""
    for depth in range(800, 1000):
        body = '{"messages": [], "a": ' + "[" * depth + "]" * depth + "}"
        (found,) = lines(f'{{"url": "/v1/chat/completions", "body": {body}}}'.encode())
        assert isinstance(found, BrokenLine)
        assert "nested" in found.message


@given(st.binary(max_size=300))
def test_no_bytes_break_the_reading(data: bytes) -> None:
    numbers = [line.number for line in lines(data)]
    assert numbers == sorted(set(numbers))
