"""The portable request: what a job's `input` may say, whichever provider answers it. Names are OpenAI's."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    PlainValidator,
    Tag,
    WithJsonSchema,
    model_validator,
)

from worker.domain.answer import Json
from worker.services.openai.fields import AS_GIVEN, FIRST_FAULT, WHOLE, Strict, Text, checked_schema, fault

MAX_MESSAGES: Final = 2_000
MAX_INPUTS: Final = 2_048


def _list_or_text(value: Any) -> str:
    return "list" if isinstance(value, list) else "text"


# -- messages ----------------------------------------------------------------------------------------------------


class TextPart(Strict):
    type: Literal["text"]
    text: Text


class ImageUrl(Strict):
    url: Text
    detail: Literal["auto", "low", "high", "original"] | None = None


class ImagePart(Strict):
    type: Literal["image_url"]
    image_url: ImageUrl


class AudioPart(Strict):
    type: Literal["input_audio"]
    input_audio: dict[str, Any]


class FilePart(Strict):
    type: Literal["file"]
    file: dict[str, Any]


class RefusalPart(Strict):
    type: Literal["refusal"]
    refusal: Text


Part = Annotated[TextPart | ImagePart | AudioPart | FilePart | RefusalPart, Field(discriminator="type")]
Content = Annotated[
    Annotated[Text, Tag("text")] | Annotated[list[Part], Field(min_length=1), FIRST_FAULT, Tag("list")],
    Discriminator(_list_or_text),
]


class Instruction(Strict):
    role: Literal["system", "developer"]
    content: Content
    name: Text | None = None


class UserTurn(Strict):
    role: Literal["user"]
    content: Content
    name: Text | None = None


class Function(Strict):
    name: Text
    arguments: Text


class ToolCall(Strict):
    """Further fields are kept, as those of the turn are."""

    model_config = ConfigDict(extra="allow", strict=True, hide_input_in_errors=True)

    id: Text
    type: Literal["function"] = "function"
    function: Function


class AssistantTurn(Strict):
    """Further fields are kept: providers add their own to a turn, and want them back."""

    model_config = ConfigDict(extra="allow", strict=True, hide_input_in_errors=True)

    role: Literal["assistant"]
    content: Content | None = None
    tool_calls: Annotated[list[ToolCall], FIRST_FAULT] | None = None


class ToolTurn(Strict):
    role: Literal["tool"]
    content: Content
    tool_call_id: Text


Message = Annotated[Instruction | UserTurn | AssistantTurn | ToolTurn, Field(discriminator="role")]
Messages = Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES), AS_GIVEN]


class AnyTurn(BaseModel):
    """A message as OpenAI's clients send it: what Completar does not know is passed on."""

    model_config = ConfigDict(extra="allow", strict=True, hide_input_in_errors=True)

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: (
        Annotated[
            Annotated[Text, Tag("text")] | Annotated[list[dict[str, Any]], FIRST_FAULT, Tag("list")],
            Discriminator(_list_or_text),
        ]
        | None
    ) = None


AnyMessages = Annotated[list[AnyTurn], Field(min_length=1, max_length=MAX_MESSAGES), AS_GIVEN]


# -- parameters --------------------------------------------------------------------------------------------------

Tokens = Annotated[int, Field(ge=1, le=10_000_000), WHOLE]
Penalty = Annotated[float, Field(ge=-2, le=2)]
_Stops = Annotated[list[Text], Field(max_length=16)]
_Stop = Annotated[Annotated[Text, Tag("text")] | Annotated[_Stops, Tag("list")], Discriminator(_list_or_text)]


def _choice(value: Any) -> Any:
    if isinstance(value, str | dict):
        return value
    raise fault("must be a string or a JSON object", "Send `auto`, `none`, `required` or a tool's name as an object.")


ToolChoice = Annotated[
    Any, PlainValidator(_choice), WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "object"}]})
]


def _format(value: dict[str, Any]) -> dict[str, Any]:
    """A schema in it is judged here: a provider would fetch what it points at."""
    wanted = value.get("json_schema")
    schema = wanted.get("schema") if isinstance(wanted, dict) else None
    if isinstance(schema, dict):
        checked_schema(schema)
    return value


class Parameters(Strict):
    """What steers a completion. Only what is set is sent to the provider; null counts as not set."""

    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    max_tokens: Tokens | None = None
    max_completion_tokens: Tokens | None = None
    stop: _Stop | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63), WHOLE] | None = None
    tools: Annotated[list[dict[str, Any]], Field(max_length=512)] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    response_format: Annotated[dict[str, Any], AfterValidator(_format)] | None = None
    n: Annotated[int, Field(ge=1, le=1, description="A job has one answer."), WHOLE] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: Annotated[dict[str, float], AS_GIVEN] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20), WHOLE] | None = None
    reasoning_effort: Text | None = None
    verbosity: Text | None = None
    user: Text | None = None
    safety_identifier: Text | None = None
    prompt_cache_key: Text | None = None
    service_tier: Text | None = None
    store: bool | None = None
    modalities: Annotated[list[Text], FIRST_FAULT] | None = None
    audio: dict[str, Any] | None = None
    prediction: dict[str, Any] | None = None
    web_search_options: dict[str, Any] | None = None
    top_k: Annotated[int, Field(ge=0, le=1_000_000), WHOLE] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(ge=0, le=10)] | None = None


class CompletionInput(Parameters):
    """`messages`, or a bare `prompt`."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [{"required": ["messages"]}, {"required": ["prompt"]}],
            "examples": [{"messages": [{"role": "user", "content": "Say hello."}], "temperature": 0.2}],
        }
    )

    messages: Messages = Field(default_factory=list)
    prompt: Text = Field(default_factory=str)

    @model_validator(mode="after")
    def _one(self) -> CompletionInput:
        given = self.model_fields_set & {"messages", "prompt"}
        if not given:
            raise fault("is missing", "Add messages, or a bare prompt.", "messages")
        if len(given) == 2:
            raise fault("cannot stand beside messages", "Give one of the two.", "prompt")
        return self


class TaskInput(Strict):
    """For a server of one task (classification, question answering ...), in the words of Hugging Face."""

    inputs: Text | Annotated[list[Text], Field(min_length=1, max_length=MAX_INPUTS)] | dict[str, Any]
    task: Annotated[str, Field(pattern="^[a-z0-9-]{1,64}$", examples=["text-classification"])] | None = None
    parameters: dict[str, Any] | None = None


class RankInput(Strict):
    """Texts to be ranked by a query."""

    query: Text
    texts: Annotated[list[Text], Field(min_length=1, max_length=MAX_INPUTS)]


def _sort_of_input(given: Any) -> str:
    names = set(given) if isinstance(given, dict) else set(getattr(given, "model_fields_set", ()))
    if names & {"query", "texts"}:
        return "rank"
    return "task" if names & {"inputs", "task"} else "chat"


PortableInput = Annotated[
    Annotated[CompletionInput, Tag("chat")] | Annotated[TaskInput, Tag("task")] | Annotated[RankInput, Tag("rank")],
    Discriminator(_sort_of_input),
]


def set_fields(model: BaseModel) -> dict[str, Json]:
    """What the caller set, as it is stored and sent: null counts as not set."""
    return {
        name: value for name, value in model.__dict__.items() if value is not None and name in model.model_fields_set
    }


# -- embeddings --------------------------------------------------------------------------------------------------


def _inputs(value: Any) -> Any:
    """One text, texts, the tokens of one text, or those of several."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and 0 < len(value) <= MAX_INPUTS:
        if all(isinstance(item, str) for item in value):
            return value
        if (tokens := _tokens(value)) is not None:
            return tokens
        several = [_tokens(item) for item in value]
        if all(several):
            return several
    raise fault(
        f"must be a text, a list of 1 to {MAX_INPUTS} texts, or lists of tokens", "Send one of these as `input`."
    )


def _tokens(value: Any) -> list[int] | None:
    if not isinstance(value, list) or not all(type(item) in {int, float} and item == int(item) for item in value):
        return None
    whole = [int(item) for item in value]
    return whole if all(0 <= item < 2**31 for item in whole) else None


_TOKEN: Final = {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}
_ONE: Final = {"type": "array", "items": _TOKEN, "minItems": 1, "maxItems": MAX_INPUTS}
Inputs = Annotated[
    Any,
    PlainValidator(_inputs),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string"},
                {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": MAX_INPUTS},
                _ONE,
                {
                    "type": "array",
                    "items": {"type": "array", "items": _TOKEN, "minItems": 1},
                    "minItems": 1,
                    "maxItems": MAX_INPUTS,
                },
            ]
        }
    ),
]
Dimensions = Annotated[int, Field(ge=1, le=65_536), WHOLE]


class EmbeddingInput(Strict):
    input: Inputs
    dimensions: Dimensions | None = None
    user: Text | None = None
