"""The portable request in the words of Anthropic's Messages."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from worker.domain.answer import Call, Json
from worker.providers.anthropic_schema import narrowed
from worker.providers.format import Unfit
from worker.providers.portable import (
    Turn,
    arguments_object,
    ceiling,
    chosen_function,
    conversation,
    image_url,
    inline,
    schema_of,
    stops,
    text_in,
    tools_of,
)

# The API demands a ceiling. Every active model takes this one, and it bills nothing that is not written.
MAX_TOKENS: Final = 8192

# Claude up to Opus 4.6 and the other 4 series takes sampling parameters, and one of the two at a time; later ones
# answer them with a 400, which a caller cannot know, least of all after a fallback.
_CLAUDE: Final = "claude-"
_SAMPLED: Final = re.compile(r"claude-(?:\d|instant|(?:haiku|sonnet)-4|opus-4(?!-[789]))")
_NOT_IN_ID: Final = re.compile(r"[^a-zA-Z0-9_-]")
_CHOICES: Final = {"auto": "auto", "required": "any", "none": "none"}


def fields_of(call: Call) -> dict[str, Any]:
    """The body: `model`, `max_tokens`, and what the caller set. Raises Unfit."""
    request = call.input
    told = conversation(request)
    most = ceiling(request)
    fields: dict[str, Any] = {"model": call.model, "max_tokens": MAX_TOKENS if most is None else most}
    if told.instructions:
        fields["system"] = "\n".join(told.instructions)
    fields["messages"] = _messages(told.turns)
    if ends := sent_stops(request):
        fields["stop_sequences"] = ends
    fields |= _sampling(call.model, request)
    if tools := [_tool(tool) if is_function else tool for tool, is_function in tools_of(request)]:
        fields["tools"] = tools
        if choice := _tool_choice(request):
            fields["tool_choice"] = choice
    schema = schema_of(call)
    if isinstance(schema, Mapping):
        fields["output_config"] = {"format": {"type": "json_schema", "schema": narrowed(schema)}}
    return fields


def sent_stops(request: Mapping[str, Json]) -> list[str]:
    """Stops of white space alone are refused; the others are sent."""
    return [end for end in stops(request) if end.strip()]


def _sampling(model: str, request: Mapping[str, Json]) -> dict[str, Json]:
    given = {name: request[name] for name in ("temperature", "top_p", "top_k") if request.get(name) is not None}
    heat = given.get("temperature")
    if isinstance(heat, int | float) and heat > 1:
        given["temperature"] = 1  # its range ends there; OpenAI's ends at 2
    if not model.startswith(_CLAUDE):
        return given
    if not _SAMPLED.match(model):
        return {}
    if "temperature" in given:
        given.pop("top_p", None)
    return given


def _messages(turns: tuple[Turn, ...]) -> list[dict[str, Any]]:
    """Turns of one side after one another are one: all results of parallel calls must stand in one."""
    messages: list[dict[str, Any]] = []
    for turn in turns:
        role = "user" if turn.role == "tool" else turn.role
        blocks = list(_blocks(turn))
        if messages and messages[-1]["role"] == role:
            messages[-1]["content"] += blocks
        elif blocks:
            messages.append({"role": role, "content": blocks})
    for message in messages:
        message["content"] = _shortest(message["content"])
    return messages


def _blocks(turn: Turn) -> Iterator[dict[str, Any]]:
    if turn.role == "tool":
        result = {"type": "tool_result", "tool_use_id": _id(turn.answers)}
        content = _shortest([block for part in turn.parts for block in _block(part)])
        yield {**result, "content": content} if content else result
        return
    for part in turn.parts:
        yield from _block(part)
    for call in turn.calls:
        yield {"type": "tool_use", "id": _id(call.id), "name": call.name, "input": arguments_object(call.arguments)}


def _block(part: Mapping[str, Json]) -> Iterator[dict[str, Any]]:
    """A part in Anthropic's words; text of white space alone is refused and left out. Raises Unfit."""
    text = text_in(part)
    if text is not None:
        if text.strip():
            yield {"type": "text", "text": text}
    elif (url := image_url(part)) is not None:
        data = inline(url)
        if data is None:
            yield {"type": "image", "source": {"type": "url", "url": url}}
        else:
            yield {"type": "image", "source": {"type": "base64", "media_type": data.media_type, "data": data.data}}
    elif (document := _document(part)) is not None:
        yield document
    else:
        raise Unfit(f"format anthropic takes no content of type {part.get('type')!s:.40}")


def _document(part: Mapping[str, Json]) -> dict[str, Any] | None:
    """A PDF in a `file` part; its name becomes the title."""
    file = part.get("file")
    given = file.get("file_data") if isinstance(file, Mapping) else None
    data = inline(given) if isinstance(given, str) else None
    if data is None or data.media_type != "application/pdf":
        return None
    source = {"type": "base64", "media_type": data.media_type, "data": data.data}
    title = file.get("filename") if isinstance(file, Mapping) else None
    return {"type": "document", "source": source} | ({"title": title} if isinstance(title, str) else {})


def _shortest(blocks: list[dict[str, Any]]) -> str | list[dict[str, Any]]:
    """A lone text needs no block."""
    if not blocks:
        return ""
    return blocks[0]["text"] if len(blocks) == 1 and blocks[0]["type"] == "text" else blocks


def _id(given: str) -> str:
    """Ids other providers gave (`functions.find:0`) in the characters that are taken here."""
    return _NOT_IN_ID.sub("_", given) or "_"


def _tool(function: Mapping[str, Json]) -> dict[str, Any]:
    tool: dict[str, Any] = {"name": function.get("name")}
    if function.get("description") is not None:
        tool["description"] = function["description"]
    parameters = function.get("parameters")
    tool["input_schema"] = {"type": "object", "properties": {}} if parameters is None else parameters
    if function.get("strict") is not None:
        tool["strict"] = function["strict"]
    return tool


def _tool_choice(request: Mapping[str, Json]) -> dict[str, Any]:
    given = request.get("tool_choice")
    choice: dict[str, Any] = {}
    if (name := chosen_function(given)) is not None:
        choice = {"type": "tool", "name": name}
    elif isinstance(given, str):
        choice = {"type": _CHOICES.get(given, given)}
    elif isinstance(given, Mapping):
        choice = dict(given)
    if request.get("parallel_tool_calls") is False and choice.get("type") != "none":
        choice = {"type": "auto", **choice, "disable_parallel_tool_use": True}
    return choice
