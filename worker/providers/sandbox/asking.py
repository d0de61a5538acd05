"""What the sandbox is asked, and whether that makes sense."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jsonschema_rs

from worker.domain.money import estimate_tokens

Json = Any


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request; header names in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Ask:
    """A request that was understood. `identity`: the same for every try of the same thing."""

    embedding: bool
    model: str
    body: Mapping[str, Json]
    digest: bytes
    identity: str


def fault_of(body: Mapping[str, Json], *, embedding: bool) -> str | None:
    """What is wrong with a body, its first word being the field; None when nothing is."""
    if not isinstance(body.get("model"), str):
        return "model must be a string"
    if embedding:
        return "input must be text or tokens, one or a list" if to_embed(body.get("input")) is None else None
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages or not all(isinstance(each, dict) for each in messages):
        return "messages must be a list of objects, at least one"
    return "stream is not offered" if body.get("stream") else None


def to_embed(given: Json) -> list[Json] | None:
    """What is to be embedded, each a text or a text's tokens; None for what is neither."""
    items = [given] if isinstance(given, str) or _are_tokens(given) else given
    if isinstance(items, list) and items and all(isinstance(item, str) or _are_tokens(item) for item in items):
        return items
    return None


def _are_tokens(value: Json) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(token, int) for token in value)


def schemas_of(body: Mapping[str, Json]) -> Iterator[tuple[str, Json]]:
    """Every schema of a body, with the field it stands in."""
    form = body.get("response_format")
    asked = form.get("json_schema") if isinstance(form, dict) else None
    if isinstance(asked, dict) and "schema" in asked:
        yield "response_format", asked["schema"]
    for function in functions_of(body):
        yield "tools", function.get("parameters", {})


def functions_of(body: Mapping[str, Json]) -> list[Mapping[str, Json]]:
    tools = body.get("tools")
    offered = [tool.get("function") for tool in tools if isinstance(tool, dict)] if isinstance(tools, list) else []
    return [function for function in offered if isinstance(function, dict)]


def is_schema(schema: Json) -> bool:
    if isinstance(schema, dict):  # a `$schema` that the library does not know, it would fetch
        schema = {name: value for name, value in schema.items() if name != "$schema"}
    return jsonschema_rs.meta.is_valid(schema)


def last_text(ask: Ask) -> str:
    users = [message for message in ask.body.get("messages", ()) if message.get("role") == "user"]
    return _text(users[-1]) if users else ""


def _text(message: Mapping[str, Json]) -> str:
    content = message.get("content")
    if isinstance(content, list):
        texts = [part.get("text") for part in content if isinstance(part, dict)]
        return "\n".join(text for text in texts if isinstance(text, str))
    return content if isinstance(content, str) else ""


def prompt_tokens(ask: Ask) -> int:
    return estimate_tokens(sum(len(_text(message)) for message in ask.body.get("messages", ())))
