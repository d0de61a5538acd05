"""The portable request (OpenAI's chat, as `call.input` holds it) read once for the formats that say it otherwise.

Nothing here judges: what is not of the expected shape is read as absent, and the provider will say so.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple
from urllib.parse import unquote_to_bytes

from worker.domain.answer import Call, Json
from worker.providers.json_text import read_strict_json

# The field of a turn that holds what only the provider that wrote it understands, by provider (Google's own name for
# such a place in messages of this shape). Formats send their own part back and drop the rest.
EXTRA: Final = "extra_content"

_INSTRUCTING: Final = frozenset({"system", "developer"})
_DATA_URL: Final = re.compile(r"data:(?P<type>[^;,]*)(?P<params>(?:;[^;,]*)*),", re.IGNORECASE)


class FunctionCall(NamedTuple):
    """A tool call of an earlier turn; `arguments` as the model wrote them, JSON text."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Turn:
    """One message.

    role     user | assistant | tool, or whatever the caller wrote
    parts    its content in parts; no text among them is empty
    answers  the id of the call a tool's turn answers
    extra    what a provider left in EXTRA, by provider
    """

    role: str
    parts: tuple[Mapping[str, Json], ...]
    calls: tuple[FunctionCall, ...] = ()
    answers: str = ""
    extra: Mapping[str, Json] = field(default_factory=dict)


class Conversation(NamedTuple):
    """Instructions of the system or the developer apart from the turns, both in their order."""

    instructions: tuple[str, ...]
    turns: tuple[Turn, ...]


class Inline(NamedTuple):
    media_type: str
    data: str  # base64


def turns_of(request: Mapping[str, Json]) -> tuple[Turn, ...]:
    """Every message; a bare prompt is one turn of the user."""
    messages = request.get("messages")
    if messages is None and request.get("prompt") is not None:
        messages = [{"role": "user", "content": request["prompt"]}]
    return tuple(_turn(message) for message in _list(messages) if isinstance(message, Mapping))


def conversation(request: Mapping[str, Json]) -> Conversation:
    """For providers that take instructions apart. They take none alone: then those are the user's turn."""
    turns = turns_of(request)
    told = tuple(text for turn in turns if turn.role in _INSTRUCTING and (text := text_of(turn)))
    said = tuple(turn for turn in turns if turn.role not in _INSTRUCTING)
    if told and not said:
        return Conversation((), (Turn("user", tuple({"type": "text", "text": text} for text in told)),))
    return Conversation(told, said)


def text_of(turn: Turn) -> str:
    return "".join(text for part in turn.parts if (text := text_in(part)) is not None)


def text_in(part: Mapping[str, Json]) -> str | None:
    """The text of a part, a refusal's words too; None of a part that is no text."""
    kind = part.get("type")
    text = part.get(kind) if kind in ("text", "refusal") else None
    return text if isinstance(text, str) else None


def image_url(part: Mapping[str, Json]) -> str | None:
    """The address of an image, `data:` or other; None of a part that is no image."""
    image = part.get("image_url")
    url = image.get("url") if isinstance(image, Mapping) else image
    return url if part.get("type") == "image_url" and isinstance(url, str) else None


def inline(url: str) -> Inline | None:
    """What a `data:` URL holds; None for any other."""
    head = _DATA_URL.match(url)
    if head is None:
        return None
    data = url[head.end() :]
    if not head["params"].lower().endswith(";base64"):
        data = base64.b64encode(unquote_to_bytes(data.encode("utf-8", "replace"))).decode("ascii")
    media_type = head["type"].lower()
    return Inline("image/jpeg" if media_type == "image/jpg" else media_type, data)


def arguments_object(written: str) -> dict[str, Json]:
    """Arguments for an API that takes an object; what is none stands under `arguments`."""
    try:
        value = read_strict_json(written) if written else {}
    except ValueError:
        value = written
    return value if isinstance(value, dict) else {"arguments": value}


def ceiling(request: Mapping[str, Json]) -> Json:
    """The most output tokens, by its newer name or its older one; None: not set."""
    newer = request.get("max_completion_tokens")
    return request.get("max_tokens") if newer is None else newer


def stops(request: Mapping[str, Json]) -> list[str]:
    stop = request.get("stop")
    given = [stop] if isinstance(stop, str) else _list(stop)
    return [text for text in given if isinstance(text, str) and text]


def cut_at(text: str, ends: list[str]) -> str:
    """The text up to the first of the stops: for a provider that does not take them."""
    places = [place for end in ends if (place := text.find(end)) >= 0]
    return text[: min(places)] if places else text


def schema_of(call: Call) -> Json:
    """The JSON Schema the answer must fit; None: none."""
    if call.output_schema is not None:
        return call.output_schema
    wanted = response_format(call.input).get("json_schema")
    return wanted.get("schema") if isinstance(wanted, Mapping) else None


def response_format(request: Mapping[str, Json]) -> Mapping[str, Json]:
    wanted = request.get("response_format")
    return wanted if isinstance(wanted, Mapping) else {}


def tools_of(request: Mapping[str, Json]) -> Iterator[tuple[Mapping[str, Json], bool]]:
    """Each tool: the function and True, or the tool as the caller wrote it, in the provider's own words, and False."""
    for tool in _list(request.get("tools")):
        if isinstance(tool, Mapping):
            function = tool.get("function")
            yield (function, True) if isinstance(function, Mapping) else (tool, False)


def chosen_function(choice: Json) -> str | None:
    """The function that `tool_choice` names."""
    function = choice.get("function") if isinstance(choice, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    return name if isinstance(name, str) else None


def _turn(message: Mapping[str, Json]) -> Turn:
    extra = message.get(EXTRA)
    return Turn(
        role=str(message.get("role")),
        parts=tuple(_parts(message)),
        calls=tuple(_calls(message)),
        answers=str(message.get("tool_call_id", "")),
        extra=extra if isinstance(extra, Mapping) else {},
    )


def _parts(message: Mapping[str, Json]) -> Iterator[Mapping[str, Json]]:
    content = message.get("content")
    for part in [content] if isinstance(content, str) else _list(content):
        whole = {"type": "text", "text": part} if isinstance(part, str) else part
        if isinstance(whole, Mapping) and text_in(whole) != "":
            yield whole
    refusal = message.get("refusal")
    if isinstance(refusal, str) and refusal:
        yield {"type": "refusal", "refusal": refusal}


def _calls(message: Mapping[str, Json]) -> Iterator[FunctionCall]:
    for call in _list(message.get("tool_calls")):
        function = call.get("function") if isinstance(call, Mapping) else None
        if isinstance(function, Mapping):
            written = function.get("arguments")
            if not isinstance(written, str):
                written = "" if written is None else json.dumps(written)
            yield FunctionCall(str(call.get("id", "")), str(function.get("name", "")), written)


def _list(value: Json) -> list[Any] | tuple[Any, ...]:
    return value if isinstance(value, list | tuple) else ()
