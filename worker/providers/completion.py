"""What a model said, read into an answer or into what it is instead of one: the same for every format."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from worker.domain.answer import Answer, Call, Json, Outcome
from worker.domain.failure import FailureKind
from worker.providers.facts import Facts
from worker.providers.json_text import answer_json, clean, kept, read_strict_json

_RAW_CUT: Final = 100


class WrittenCall(NamedTuple):
    """A tool call as it came; nothing of it is sure.

    arguments  JSON text, or the object itself, or nothing for a tool without parameters
    """

    id: Any
    name: Any
    arguments: Any


class Said(NamedTuple):
    """A model's turn.

    text     None where the API told none, which is not ""
    finish   stop | length | tool_calls | content_filter | refusal | error, or None where the API reports none
    raw      the finish reason in the provider's word
    refusal  the words of a refusal that the API keeps apart from the text
    extra    further fields of the turn, which this provider wants back in a later request
    """

    text: str | None
    finish: str | None = None
    raw: str | None = None
    calls: Sequence[WrittenCall] = ()
    refusal: str | None = None
    extra: Mapping[str, Json] | None = None


def raw_word(value: Any) -> str | None:
    """A finish reason as it is kept."""
    return clean(value[:_RAW_CUT]) if isinstance(value, str) else None


def completion(call: Call, facts: Facts, said: Said) -> Outcome:
    """`length` is an answer, even an empty one: reasoning may have eaten the ceiling, and it is billed."""
    text, finish = said.text, said.finish
    if finish == "error":
        return facts.failure(FailureKind.SERVER_ERROR, f"the provider broke off the answer ({said.raw})")
    if finish == "content_filter":
        told = f"the provider's content filter stopped the answer ({said.raw})"
        return facts.failure(FailureKind.CONTENT_FILTER, told)
    if finish == "refusal" or said.refusal:
        return facts.failure(FailureKind.REFUSAL, f"the model refused: {said.refusal or text or ''}")
    try:
        calls = [_read_call(written, index, cut=finish == "length") for index, written in enumerate(said.calls)]
    except ValueError as fault:
        return facts.failure(FailureKind.BAD_OUTPUT, f"a broken tool call: {fault}")
    if not calls and finish != "length" and (text is None or not text.strip()):
        return facts.failure(FailureKind.EMPTY_OUTPUT, f"an answer without text (finish reason {said.raw})")

    value = None
    if call.output_schema is not None and text is not None and not calls and finish != "length":
        # Whether it fits is judged by the caller, for every format alike.
        with contextlib.suppress(ValueError):
            value = answer_json(text)
    return Answer(
        usage=facts.usage,
        text=text,
        finish_reason=finish,
        raw_finish=said.raw,
        tool_calls=[{"id": c.id, "name": c.name, "arguments": c.arguments} for c in calls],
        message={**_turn(text, calls), **(said.extra or {})},
        json=value,
        model=facts.model,
        request_id=facts.request_id,
    )


def call_id(given: Any, index: int) -> str:
    """The id of a tool call, or one made from its place where the provider gave none."""
    return clean(given) if isinstance(given, str) and given else f"call_{index}"


class _Call(NamedTuple):
    """`arguments` as parsed, `written` as the model wrote them."""

    id: str
    name: str
    arguments: Any
    written: str


def _read_call(call: WrittenCall, index: int, *, cut: bool) -> _Call:
    """Raises ValueError, but not where the ceiling `cut` the arguments off: they stay text then."""
    if not isinstance(call.name, str) or not call.name:
        raise ValueError("it names no function")
    identity, name, written = call_id(call.id, index), clean(call.name), call.arguments
    if isinstance(written, dict):
        arguments = kept(written)
        return _Call(identity, name, arguments, json.dumps(arguments, ensure_ascii=False))
    if not isinstance(written, str | None):
        raise ValueError("its arguments are no text")  # noqa: TRY004 - the model's fault, not the program's
    written = written or "{}"
    try:
        arguments = read_strict_json(written)
    except ValueError as fault:
        if not cut:
            raise ValueError(f"its arguments are no JSON: {fault}") from None
        arguments = clean(written)
    return _Call(identity, name, arguments, clean(written))


def _turn(text: str | None, calls: list[_Call]) -> dict[str, Any]:
    """The assistant's turn as a later request may carry it: fields every provider takes, once written its own way."""
    turn: dict[str, Any] = {"role": "assistant", "content": text}
    if calls:
        turn["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.written}}
            for call in calls
        ]
    return turn
