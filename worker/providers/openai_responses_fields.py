"""The portable request in the words of OpenAI's Responses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from worker.domain.answer import Call, Json
from worker.providers.format import Unfit
from worker.providers.openai_schema import named_schema
from worker.providers.portable import (
    Turn,
    ceiling,
    chosen_function,
    image_url,
    response_format,
    text_in,
    text_of,
    tools_of,
    turns_of,
)

_SAME: Final = (
    "temperature",
    "top_p",
    "parallel_tool_calls",
    "store",
    "user",
    "safety_identifier",
    "prompt_cache_key",
    "service_tier",
)


def fields_of(call: Call) -> dict[str, Any]:
    """The body: `model` and what the caller set. Raises Unfit."""
    request = call.input
    items = [item for turn in turns_of(request) for item in _items(turn)]
    fields: dict[str, Any] = {"model": call.model, "input": items}
    if (most := ceiling(request)) is not None:
        fields["max_output_tokens"] = most
    fields |= {name: request[name] for name in _SAME if request.get(name) is not None}
    if (effort := request.get("reasoning_effort")) is not None:
        fields["reasoning"] = {"effort": effort}
    if text := _text_config(call):
        fields["text"] = text
    if tools := [_tool(tool) if is_function else tool for tool, is_function in tools_of(request)]:
        fields["tools"] = tools
        if (choice := request.get("tool_choice")) is not None:
            name = chosen_function(choice)
            fields["tool_choice"] = choice if name is None else {"type": "function", "name": name}
    return fields


def _items(turn: Turn) -> Iterator[dict[str, Any]]:
    """A turn and the calls in it are items side by side."""
    if turn.role == "tool":
        yield {"type": "function_call_output", "call_id": turn.answers, "output": _content(turn)}
        return
    content = text_of(turn) if turn.role == "assistant" else _content(turn)
    if content or not turn.calls:
        yield {"role": turn.role, "content": content}
    for call in turn.calls:
        yield {"type": "function_call", "call_id": call.id, "name": call.name, "arguments": call.arguments}


def _content(turn: Turn) -> str | list[dict[str, Any]]:
    if all(text_in(part) is not None for part in turn.parts):
        return text_of(turn)
    return [_part(part) for part in turn.parts]


def _part(part: Mapping[str, Json]) -> dict[str, Any]:
    """Raises Unfit."""
    text = text_in(part)
    if text is not None:
        return {"type": "input_text", "text": text}
    if (url := image_url(part)) is not None:
        image = part["image_url"]
        detail = image.get("detail") if isinstance(image, Mapping) else None
        # The API's own default, which its schema demands all the same.
        return {"type": "input_image", "image_url": url, "detail": "auto" if detail is None else detail}
    file = part.get("file")
    if isinstance(file, Mapping):
        return {"type": "input_file", **{name: value for name, value in file.items() if value is not None}}
    raise Unfit(f"format openai-responses takes no content of type {part.get('type')!s:.40}")


def _text_config(call: Call) -> dict[str, Any]:
    """A chat's `response_format` without the layer between, or our own schema; and `verbosity`."""
    config: dict[str, Any] = {}
    wanted = response_format(call.input)
    if call.output_schema is not None:
        config["format"] = {"type": "json_schema", **named_schema(call.output_schema, call.input)}
    elif wanted:
        inner = wanted.get("json_schema")
        config["format"] = {"type": wanted.get("type"), **(inner if isinstance(inner, Mapping) else {})}
    if (verbosity := call.input.get("verbosity")) is not None:
        config["verbosity"] = verbosity
    return config


def _tool(function: Mapping[str, Json]) -> dict[str, Any]:
    """A function is strict here unless told otherwise, and in a chat only if told so."""
    tool: dict[str, Any] = {"type": "function", "name": function.get("name")}
    if function.get("description") is not None:
        tool["description"] = function["description"]
    strict = function.get("strict")
    return {**tool, "parameters": function.get("parameters"), "strict": False if strict is None else strict}
