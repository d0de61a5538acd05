"""Responses as the portable request: every form a client sends, and what is refused by name."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from worker.domain.answer import Call
from worker.providers.openai_responses_fields import fields_of
from worker.services.openai.faults import faults_of
from worker.services.openai.responses import ResponseRequest, response_job
from worker.services.submit import JobRequest

ADAPTER = TypeAdapter(ResponseRequest)
SCHEMA = {"type": "object", "properties": {"a": {"type": "string", "default": None}}, "required": ["a"]}
FUNCTION = {"type": "function", "name": "rain", "description": "d", "parameters": {"type": "object"}, "strict": False}


def job(**body: Any) -> JobRequest:
    return response_job(ADAPTER.validate_python(body, strict=True))


def messages(given: Any, **rest: Any) -> Any:
    return job(input=given, **rest).input["messages"]


def test_a_text_and_instructions() -> None:
    asked = job(model="stub/a", models=["stub/b"], input="Hi", instructions="Be brief.", metadata={"k": "v"})
    assert asked.models == ("stub/a", "stub/b")
    assert asked.metadata == {"k": "v"}
    assert asked.input == {
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
    }


def test_every_setting_a_chat_has_a_word_for() -> None:
    asked = job(
        input="Hi",
        max_output_tokens=7,
        temperature=0,
        top_p=1,
        text={"format": {"type": "json_schema", "name": "n", "schema": SCHEMA, "strict": True}, "verbosity": "low"},
        reasoning={"effort": "low", "summary": "auto"},
        tools=[FUNCTION],
        tool_choice={"type": "function", "name": "rain"},
        parallel_tool_calls=False,
        store=False,
        truncation="disabled",
        stream=False,
        background=False,
        previous_response_id=None,
        include=["reasoning.encrypted_content"],
        deadline_s=60,
    )
    assert asked.deadline_s == 60
    assert asked.output_schema == SCHEMA, "Completar itself sees to a strict schema"
    del asked.input["messages"]  # type: ignore[attr-defined]
    assert asked.input == {
        "max_tokens": 7,
        "temperature": 0,
        "top_p": 1,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "n", "schema": SCHEMA, "strict": True},
        },
        "verbosity": "low",
        "reasoning_effort": "low",
        "tools": [{"type": "function", "function": {k: v for k, v in FUNCTION.items() if k != "type"}}],
        "tool_choice": {"type": "function", "function": {"name": "rain"}},
        "parallel_tool_calls": False,
        "store": False,
    }
    loose = {"type": "json_schema", "name": "n", "schema": SCHEMA}
    assert job(input="Hi", text={"format": loose}).output_schema is None
    assert "response_format" not in job(input="Hi", text={"format": {"type": "text"}}).input
    assert job(input="Hi", text={"format": {"type": "json_object"}}).input["response_format"] == {"type": "json_object"}


def test_a_conversation_with_calls_becomes_turns() -> None:
    """What an answer brought is sent back whole: with ids, states and thoughts that nobody else can read."""
    given = [
        {"role": "developer", "content": "Use tools."},
        {"role": "user", "content": [{"type": "input_text", "text": "Rain in Lima?"}]},
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x"},
        {
            "type": "message",
            "id": "msg_1",
            "status": "completed",
            "role": "assistant",
            "content": [
                {"type": "output_text", "text": "I ", "annotations": [], "logprobs": []},
                {"type": "output_text", "text": "look.", "annotations": []},
            ],
        },
        {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "rain", "arguments": "{}", "status": "x"},
        {"type": "function_call", "call_id": "c2", "name": "rain", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "no"},
        {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "yes"}]},
        {"type": "function_call", "call_id": "c3", "name": "rain", "arguments": "{}"},
        {"role": "assistant", "content": "Said after the call."},
    ]

    def call(name: str) -> dict[str, Any]:
        return {"id": name, "type": "function", "function": {"name": "rain", "arguments": "{}"}}

    assert messages(given) == [
        {"role": "developer", "content": "Use tools."},
        {"role": "user", "content": "Rain in Lima?"},
        {"role": "assistant", "content": "I look.", "tool_calls": [call("c1"), call("c2")]},
        {"role": "tool", "tool_call_id": "c1", "content": "no"},
        {"role": "tool", "tool_call_id": "c2", "content": "yes"},
        {"role": "assistant", "content": "Said after the call.", "tool_calls": [call("c3")]},
    ]


def test_pictures_files_and_sounds() -> None:
    given = [
        {"type": "input_text", "text": "What is it?"},
        {"type": "input_image", "image_url": "data:image/png;base64,AA==", "detail": "low", "file_id": None},
        {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,AA=="},
        {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}},
    ]
    assert messages([{"role": "user", "content": given}])[0]["content"] == [
        {"type": "text", "text": "What is it?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA==", "detail": "low"}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,AA=="}},
        {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}},
    ]


def test_a_provider_that_speaks_responses_gets_what_was_asked() -> None:
    body: dict[str, Any] = {
        "input": [
            {"role": "user", "content": [{"type": "input_image", "image_url": "data:,", "detail": "auto"}]},
            {"type": "function_call", "call_id": "c1", "name": "rain", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c1", "output": "no"},
        ],
        "max_output_tokens": 9,
        "temperature": 0.5,
        "reasoning": {"effort": "low"},
        "text": {"format": {"type": "json_schema", "name": "answer", "schema": SCHEMA, "strict": True}},
        "tools": [FUNCTION],
        "tool_choice": {"type": "function", "name": "rain"},
        "store": False,
    }
    asked = job(**body)
    call = Call("completion", "https://api.openai.com/v1", "m", asked.input, asked.output_schema)
    assert fields_of(call) == {"model": "m", **body}


@pytest.mark.parametrize(
    ("body", "field", "said"),
    [
        ({}, "input", "is missing"),
        ({"input": []}, "input", "at least 1 item"),
        ({"input": [{"type": "reasoning", "id": "r"}]}, "input", "holds no message"),
        ({"input": 3}, "input", "must be"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type", "must be one of message, function_call"),
        ({"input": [{"type": "web_search_call"}]}, "input[0].type", "must be one of"),
        ({"input": [{"role": "robot", "content": "x"}]}, "input[0].role", "must be"),
        (
            {"input": [{"role": "user", "content": [{"type": "text", "text": "x"}]}]},
            "input[0].content[0].type",
            "one of",
        ),
        ({"input": [{"role": "user", "content": [{"text": "x"}]}]}, "input[0].content[0].type", "is missing"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]},
            "input[0].content[0].image_url",
            "is missing",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_file", "file_url": "https://x/"}]}]},
            "input[0].content[0].file_url",
            "is not taken",
        ),
        ({"input": "x", "tools": [{"type": "web_search"}]}, "tools[0].type", "must be one of function"),
        ({"input": "x", "tool_choice": {"type": "web_search"}}, "tool_choice", "must be auto"),
        ({"input": "x", "previous_response_id": "resp_1"}, "previous_response_id", "is not taken"),
        ({"input": "x", "conversation": "conv_1"}, "conversation", "is not taken"),
        ({"input": "x", "prompt": {"id": "p"}}, "prompt", "is not taken"),
        ({"input": "x", "truncation": "auto"}, "truncation", "must be disabled"),
        ({"input": "x", "background": True}, "background", "cannot be true"),
        ({"input": "x", "messages": []}, "messages", "is not a known field"),
        ({"input": "x", "max_output_tokens": 0}, "max_output_tokens", "greater than"),
        (
            {"input": "x", "text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": 7}}}},
            "text.format.schema",
            "",
        ),
    ],
)
def test_what_is_refused_is_named(body: dict[str, Any], field: str, said: str) -> None:
    with pytest.raises(ValidationError) as error:
        ADAPTER.validate_python(body, strict=True)
    faults = faults_of(error.value, ResponseRequest, body)
    assert [fault.field for fault in faults] == [field]
    assert said in faults[0].message
    assert faults[0].remedy
