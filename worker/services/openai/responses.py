"""OpenAI's Responses as the portable request: any provider may answer, whatever its own words are.

What only OpenAI's own servers could do (keep a conversation, run a tool of theirs, look a file up) is refused by name,
for a fallback would answer something else. Source: the `openai` client's own types, 3.54.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PlainValidator,
    Tag,
    WithJsonSchema,
)

from worker.domain.answer import Json
from worker.domain.failure import Lane
from worker.services.openai.fields import FIRST_FAULT, Strict, Text, checked_schema, fault
from worker.services.openai.portable import MAX_MESSAGES, Tokens
from worker.services.openai.requests import Ours, job_of, strict_schema
from worker.services.submit import JobRequest


class _Given(BaseModel):
    """A part that clients also send back as they got it: ids, states and whatever else stands in it are left out."""

    model_config = ConfigDict(extra="ignore", strict=True, hide_input_in_errors=True)


def _is_text(value: Any) -> str:
    return "text" if isinstance(value, str) else "list"


def _sort(default: str) -> Callable[[Any], str]:
    def sort(value: Any) -> str:
        kind = value.get("type", default) if isinstance(value, dict) else getattr(value, "type", default)
        return default if kind is None else str(kind)

    return sort


def _one_of(default: str | None, *known: str) -> BeforeValidator:
    """The sort of an item by name, before its fields are looked at."""

    def judged(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        kind = value.get("type", default)
        if kind is None and default is None:
            raise fault("is missing", "Add it.", "type")
        if kind is not None and kind not in known:
            remedy = "Leave it out: what OpenAI keeps or runs itself, no other provider can."
            raise fault(f"must be one of {', '.join(known)}", remedy, "type")
        return value

    return BeforeValidator(judged)


def _refused(message: str, remedy: str, *fine: Json) -> PlainValidator:
    def judged(value: Any) -> None:
        if value is not None and not any(type(value) is type(one) and value == one for one in fine):
            raise fault(message, remedy)

    return PlainValidator(judged)


# -- what is said ------------------------------------------------------------------------------------------------


class InputText(_Given):
    type: Literal["input_text"]
    text: Text


class OutputText(_Given):
    type: Literal["output_text"]
    text: Text


class Refusal(_Given):
    type: Literal["refusal"]
    refusal: Text


class InputImage(_Given):
    type: Literal["input_image"]
    image_url: Text
    detail: Literal["auto", "low", "high", "original"] | None = None


class InputFile(_Given):
    """`file_id` is the provider's; a file by URL is refused, for a chat has no word for it."""

    type: Literal["input_file"]
    file_data: Text | None = None
    file_id: Text | None = None
    filename: Text | None = None
    file_url: Annotated[
        None,
        _refused("is not taken", "Send the file itself as file_data."),
        WithJsonSchema({"type": "null"}),
    ] = None


class InputAudio(_Given):
    type: Literal["input_audio"]
    input_audio: dict[str, Any]


_PARTS: Final = ("input_text", "output_text", "refusal", "input_image", "input_file", "input_audio")
Part = Annotated[
    Annotated[InputText, Tag("input_text")]
    | Annotated[OutputText, Tag("output_text")]
    | Annotated[Refusal, Tag("refusal")]
    | Annotated[InputImage, Tag("input_image")]
    | Annotated[InputFile, Tag("input_file")]
    | Annotated[InputAudio, Tag("input_audio")],
    Discriminator(_sort("")),
    _one_of(None, *_PARTS),
]
Content = Annotated[
    Annotated[Text, Tag("text")] | Annotated[list[Part], Field(min_length=1), FIRST_FAULT, Tag("list")],
    Discriminator(_is_text),
]


class Said(_Given):
    type: Literal["message"] | None = None
    role: Literal["system", "developer", "user", "assistant"]
    content: Content


class Called(_Given):
    type: Literal["function_call"]
    call_id: Text
    name: Text
    arguments: Text


class Returned(_Given):
    type: Literal["function_call_output"]
    call_id: Text
    output: Content


class Reasoned(_Given):
    """Left out: only the model that thought it can read it."""

    type: Literal["reasoning"]


_ITEMS: Final = ("message", "function_call", "function_call_output", "reasoning")
Item = Annotated[
    Annotated[Said, Tag("message")]
    | Annotated[Called, Tag("function_call")]
    | Annotated[Returned, Tag("function_call_output")]
    | Annotated[Reasoned, Tag("reasoning")],
    Discriminator(_sort("message")),
    _one_of("message", *_ITEMS),
]


def _says_something(items: list[Any]) -> list[Any]:
    if all(isinstance(item, Reasoned) for item in items):
        raise fault("holds no message", "Send a text, or items of which one is a message.")
    return items


_THOUGHT: Final = {"properties": {"type": {"const": "reasoning"}}, "required": ["type"]}
Items = Annotated[
    list[Item],
    Field(min_length=1, max_length=MAX_MESSAGES, json_schema_extra={"contains": {"not": _THOUGHT}}),
    AfterValidator(_says_something),
]


# -- how it is to be answered ------------------------------------------------------------------------------------


class AnswerFormat(_Given):
    type: Literal["text", "json_object", "json_schema"]
    name: Text | None = None
    description: Text | None = None
    schema_: Annotated[dict[str, Any], AfterValidator(checked_schema)] | None = Field(default=None, alias="schema")
    strict: bool | None = None


class TextOptions(_Given):
    format: AnswerFormat | None = None
    verbosity: Text | None = None


class Reasoning(_Given):
    """Of it, `effort` is passed on; summaries of thoughts are not kept."""

    effort: Text | None = None


class FunctionTool(_Given):
    type: Literal["function"]
    name: Text
    description: Text | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


Tool = Annotated[FunctionTool, _one_of(None, "function")]


def _choice(value: Any) -> Any:
    if value in ("auto", "none", "required"):
        return value
    if isinstance(value, dict) and value.get("type") == "function" and isinstance(value.get("name"), str):
        return {"type": "function", "function": {"name": value["name"]}}
    raise fault("must be auto, none, required or a function by name", 'Send {"type": "function", "name": ...}.')


ToolChoice = Annotated[
    Any,
    PlainValidator(_choice),
    WithJsonSchema(
        {
            "anyOf": [
                {"enum": ["auto", "none", "required"]},
                {
                    "type": "object",
                    "properties": {"type": {"const": "function"}, "name": {"type": "string"}},
                    "required": ["type", "name"],
                },
            ]
        }
    ),
]
_NULL: Final = WithJsonSchema({"type": "null"})
_WHOLE_TALK: Final = "Send the whole conversation as `input`: Completar keeps none."


class ResponseRequest(Ours, Strict):
    """As OpenAI's, as far as any provider can answer it. `include` and `max_tool_calls` change nothing here."""

    input: Annotated[
        Annotated[Text, Tag("text")] | Annotated[Items, Tag("list")],
        Discriminator(_is_text),
    ]
    instructions: Text | None = None
    max_output_tokens: Tokens | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    text: TextOptions | None = None
    reasoning: Reasoning | None = None
    tools: Annotated[list[Tool], Field(max_length=512)] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    user: Text | None = None
    safety_identifier: Text | None = None
    prompt_cache_key: Text | None = None
    service_tier: Text | None = None
    store: bool | None = None
    include: Annotated[list[Text], FIRST_FAULT] | None = None
    max_tool_calls: int | None = None
    truncation: Annotated[
        None,
        _refused("must be disabled: nothing is cut silently", "Leave it out.", "disabled"),
        WithJsonSchema({"enum": ["disabled", None]}),
    ] = None
    stream: Annotated[bool, WithJsonSchema({"const": False, "description": "Answers are not streamed."})] | None = None
    background: Annotated[
        None,
        _refused("cannot be true", "Leave it out; a batch, or POST /v1/jobs, answers later.", False),
        WithJsonSchema({"enum": [False, None]}),
    ] = None
    previous_response_id: Annotated[None, _refused("is not taken", _WHOLE_TALK), _NULL] = None
    conversation: Annotated[None, _refused("is not taken", _WHOLE_TALK), _NULL] = None
    prompt: Annotated[None, _refused("is not taken", "Send its text: it is kept at OpenAI."), _NULL] = None


# -- as a job ----------------------------------------------------------------------------------------------------

_SAME: Final = (
    *("temperature", "top_p", "tool_choice", "parallel_tool_calls", "user", "safety_identifier"),
    *("prompt_cache_key", "service_tier", "store"),
)


def response_job(asked: ResponseRequest, lane: Lane = Lane.INTERACTIVE) -> JobRequest:
    """A ceiling becomes `max_tokens`, which every format knows."""
    wanted: dict[str, Json] = {"messages": _messages(asked)}
    if asked.max_output_tokens is not None:
        wanted["max_tokens"] = asked.max_output_tokens
    wanted |= {name: value for name in _SAME if (value := getattr(asked, name)) is not None}
    if asked.reasoning is not None and asked.reasoning.effort is not None:
        wanted["reasoning_effort"] = asked.reasoning.effort
    if asked.text is not None:
        if asked.text.verbosity is not None:
            wanted["verbosity"] = asked.text.verbosity
        if asked.text.format is not None and asked.text.format.type != "text":
            wanted["response_format"] = _format(asked.text.format)
    if asked.tools:
        wanted["tools"] = [{"type": "function", "function": _set(tool, but="type")} for tool in asked.tools]
    return job_of("completion", asked, wanted, lane, strict_schema(wanted))


def _set(model: BaseModel, *, but: str) -> dict[str, Json]:
    said = ((info.alias or name, getattr(model, name)) for name, info in type(model).model_fields.items())
    return {name: value for name, value in said if value is not None and name != but}


def _format(asked: AnswerFormat) -> dict[str, Json]:
    """A chat has a layer between."""
    inner = _set(asked, but="type")
    return {"type": asked.type} | ({"json_schema": {"name": "answer"} | inner} if asked.type == "json_schema" else {})


def _messages(asked: ResponseRequest) -> list[dict[str, Json]]:
    """What a chat has in one turn, a text and the calls beside it, are items one after another here."""
    turns: list[dict[str, Json]] = []
    if asked.instructions:
        turns.append({"role": "system", "content": asked.instructions})
    if isinstance(asked.input, str):
        return [*turns, {"role": "user", "content": asked.input}]
    for item in asked.input:
        match item:
            case Said(role="assistant"):
                turn = _going_on(turns)
                content = _content(item.content, joined=True)
                if turn is not None and turn["content"] is None:
                    turn["content"] = content
                else:
                    turns.append({"role": "assistant", "content": content})
            case Said():
                turns.append({"role": item.role, "content": _content(item.content)})
            case Called():
                turn = _going_on(turns)
                if turn is None:
                    turns.append(turn := {"role": "assistant", "content": None})
                function = {"name": item.name, "arguments": item.arguments}
                turn.setdefault("tool_calls", []).append({"id": item.call_id, "type": "function", "function": function})
            case Returned():
                turns.append({"role": "tool", "tool_call_id": item.call_id, "content": _content(item.output)})
    return turns


def _going_on(turns: list[dict[str, Any]]) -> dict[str, Any] | None:
    return turns[-1] if turns and turns[-1]["role"] == "assistant" else None


def _content(content: str | list[Any], *, joined: bool = False) -> Json:
    """Text alone stays a text where it can: not every server reads parts."""
    if isinstance(content, str):
        return content
    parts = list(_parts(content))
    texts = [part["text"] for part in parts if part["type"] == "text"]
    return "".join(texts) if len(texts) == len(parts) and (joined or len(parts) == 1) else parts


def _parts(content: list[Any]) -> Iterator[Mapping[str, Json]]:
    for part in content:
        match part:
            case InputText() | OutputText():
                yield {"type": "text", "text": part.text}
            case Refusal():
                yield {"type": "refusal", "refusal": part.refusal}
            case InputImage():
                detail = {} if part.detail is None else {"detail": part.detail}
                yield {"type": "image_url", "image_url": {"url": part.image_url, **detail}}
            case InputFile():
                yield {"type": "file", "file": _set(part, but="type")}
            case InputAudio():
                yield {"type": "input_audio", "input_audio": part.input_audio}
