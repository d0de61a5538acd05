"""The portable request in the words of Gemini's generateContent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final

from worker.domain.answer import Call, Json
from worker.providers.format import Unfit
from worker.providers.json_text import read_strict_json
from worker.providers.portable import (
    Inline,
    Turn,
    arguments_object,
    ceiling,
    chosen_function,
    conversation,
    image_url,
    inline,
    response_format,
    schema_of,
    stops,
    text_in,
    text_of,
    tools_of,
)

GOOGLE: Final = "google"  # our part of EXTRA: {"thought_signature": of the text, "tool_calls": {id: of the call}}
_SAME: Final = (("temperature", "temperature"), ("top_p", "topP"), ("top_k", "topK"))
_CHOICES: Final = {"auto": "AUTO", "required": "ANY", "none": "NONE"}
# Models from 3 on refuse a call of a tool without the signature they gave it. For one that another provider or an
# older model made there is this word of Google's (ai.google.dev, "Thought signatures").
_FOREIGN_CALL: Final = "skip_thought_signature_validator"
_UNSIGNED: Final = ("gemini-1", "gemini-2")
_INT32: Final = 2**31
# Google fetches the image and asks what it is.
_MEDIA_TYPES: Final = MappingProxyType(
    {
        "png": "image/png",
        "jpg": "image/jpeg",
        "jpeg": "image/jpeg",
        "webp": "image/webp",
        "gif": "image/gif",
        "heic": "image/heic",
        "heif": "image/heif",
    }
)


def fields_of(call: Call) -> dict[str, Any]:
    """The body: what the caller set. Raises Unfit."""
    told = conversation(call.input)
    fields: dict[str, Any] = {"contents": _contents(told.turns, is_signed=not call.model.startswith(_UNSIGNED))}
    if told.instructions:
        fields["systemInstruction"] = {"parts": [{"text": text} for text in told.instructions]}
    if config := _config(call):
        fields["generationConfig"] = config
    if tools := _tools(call.input):
        fields["tools"] = tools
        if choice := _choice(call.input.get("tool_choice")):
            fields["toolConfig"] = {"functionCallingConfig": choice}
    return fields


def _config(call: Call) -> dict[str, Any]:
    request = call.input
    config = {name: request[ours] for ours, name in _SAME if request.get(ours) is not None}
    if (most := ceiling(request)) is not None:
        config["maxOutputTokens"] = most
    if ends := stops(request):
        config["stopSequences"] = ends
    if (seed := request.get("seed")) is not None:
        config["seed"] = seed if not isinstance(seed, int) or -_INT32 <= seed < _INT32 else seed % _INT32
    schema = schema_of(call)
    if schema is not None or response_format(request).get("type") == "json_object":
        config["responseMimeType"] = "application/json"
    if schema is not None:
        config["responseJsonSchema"] = schema
    return config


def _contents(turns: tuple[Turn, ...], *, is_signed: bool) -> list[dict[str, Any]]:
    """Turns of one side after one another are one: the results of parallel calls must stand in one."""
    contents: list[dict[str, Any]] = []
    names: dict[str, str] = {}  # of the functions by the ids of their calls, the latest where an id comes twice
    for turn in turns:
        names.update((call.id, call.name) for call in turn.calls)
        role = {"assistant": "model", "tool": "user"}.get(turn.role, turn.role)
        if turn.role == "tool":
            parts = [_result(turn, names), *_media(turn)]
        else:
            parts = list(_parts(turn, is_signed=is_signed))
        if contents and contents[-1]["role"] == role:
            contents[-1]["parts"] += parts
        elif parts:
            contents.append({"role": role, "parts": parts})
    return contents


def _parts(turn: Turn, *, is_signed: bool) -> Iterator[dict[str, Any]]:
    ours = turn.extra.get(GOOGLE)
    signatures = ours if isinstance(ours, Mapping) else {}
    of_text = signatures.get("thought_signature")
    of_calls = signatures.get("tool_calls")
    for part in turn.parts:
        yield _part(part) | _signed(of_text)
        of_text = None
    for index, call in enumerate(turn.calls):
        signature = of_calls.get(call.id) if isinstance(of_calls, Mapping) else None
        if index == 0 and is_signed and not isinstance(signature, str):
            signature = _FOREIGN_CALL  # of parallel calls only the first has one
        function = {"name": call.name, "args": arguments_object(call.arguments)}
        yield {"functionCall": ({"id": call.id} if call.id else {}) | function} | _signed(signature)


def _signed(signature: Json) -> dict[str, Any]:
    return {"thoughtSignature": signature} if isinstance(signature, str) else {}


def _result(turn: Turn, names: Mapping[str, str]) -> dict[str, Any]:
    """What a tool answered, an object: its own, else under `output`."""
    written = text_of(turn)
    try:
        value = read_strict_json(written)
    except ValueError:
        value = written
    response = value if isinstance(value, dict) else {"output": written}
    identity = {"id": turn.answers} if turn.answers else {}
    return {"functionResponse": identity | {"name": names.get(turn.answers, turn.answers), "response": response}}


def _media(turn: Turn) -> list[dict[str, Any]]:
    return [_part(part) for part in turn.parts if text_in(part) is None]


def _part(part: Mapping[str, Json]) -> dict[str, Any]:
    """Raises Unfit."""
    text = text_in(part)
    if text is not None:
        return {"text": text}
    url = image_url(part)
    data = _inline(part) if url is None else inline(url)
    if data is not None:
        return {"inlineData": {"mimeType": data.media_type, "data": data.data}}
    if url is not None:
        ending = url.partition("?")[0].rpartition(".")[2].lower()
        known = _MEDIA_TYPES.get(ending)
        return {"fileData": ({} if known is None else {"mimeType": known}) | {"fileUri": url}}
    raise Unfit(f"format gemini takes no content of type {part.get('type')!s:.40}")


def _inline(part: Mapping[str, Json]) -> Inline | None:
    """A file or a recording that the request holds itself."""
    file = part.get("file")
    given = file.get("file_data") if isinstance(file, Mapping) else None
    if isinstance(given, str):
        return inline(given)
    audio = part.get("input_audio")
    if isinstance(audio, Mapping) and isinstance(audio.get("data"), str):
        return Inline(f"audio/{audio.get('format')}", audio["data"])
    return None


def _tools(request: Mapping[str, Json]) -> list[Any]:
    tools = list(tools_of(request))
    functions = [_function(tool) for tool, is_function in tools if is_function]
    others = [tool for tool, is_function in tools if not is_function]
    return [{"functionDeclarations": functions}, *others] if functions else others


def _function(function: Mapping[str, Json]) -> dict[str, Any]:
    named = (("name", "name"), ("description", "description"), ("parameters", "parametersJsonSchema"))
    return {name: function[ours] for ours, name in named if function.get(ours) is not None}


def _choice(choice: Json) -> dict[str, Any] | None:
    if (name := chosen_function(choice)) is not None:
        return {"mode": "ANY", "allowedFunctionNames": [name]}
    if isinstance(choice, str):
        return {"mode": _CHOICES.get(choice, choice)}
    return dict(choice) if isinstance(choice, Mapping) else None
