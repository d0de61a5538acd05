"""What comes back from a task of Hugging Face: a text, labels with scores, vectors or any JSON, read into an answer.

What is no text of its own is given as compact JSON, and parsed beside it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, NoReturn

from worker.domain.answer import Answer, Call, Outcome
from worker.domain.failure import FailureKind
from worker.providers.facts import Facts
from worker.providers.json_text import clean, kept
from worker.providers.vectors import vector_of, vectors_in

_TEXTS: Final = ("generated_text", "summary_text", "translation_text")
_LABELLING: Final = frozenset({"text-classification", "sentiment-analysis", "zero-shot-classification", "predict"})


def tells_error(reply: Any) -> bool:
    """An error may come with a good status, alone or as the only item of a list."""
    first = reply[0] if isinstance(reply, list) and len(reply) == 1 else reply
    return isinstance(first, dict) and bool(first.get("error"))


def no_stream(body: bytes) -> NoReturn:  # noqa: ARG001 - the shape of a fold
    raise ValueError("a stream nobody asked for")


def texts_in(value: Any) -> str | list[str] | None:
    """The generated text or texts; None: there is none in it.

    One input gives `{"generated_text"}`, alone or in a list; several give a list of these, or of such lists.
    """
    if isinstance(value, dict):
        return _text(value)
    if not isinstance(value, list) or not value:
        return None
    texts = []
    for item in value:
        first = item[0] if isinstance(item, list) and item else item
        text = _text(first) if isinstance(first, dict) else None
        if text is None:
            return None
        texts.append(text)
    return texts[0] if len(texts) == 1 and isinstance(value[0], dict) else texts


def embeddings_answer(call: Call, facts: Facts, value: Any) -> Outcome:
    if value == []:
        return facts.failure(FailureKind.EMPTY_OUTPUT, "a reply without embeddings")
    try:
        vectors = vectors_in(value, call.input.get("input"))
    except (ValueError, OverflowError) as fault:
        return facts.failure(FailureKind.BAD_OUTPUT, f"the reply is no list of embeddings: {fault}")
    return Answer(usage=facts.usage, embeddings=vectors, model=facts.model, request_id=facts.request_id)


def task_answer(call: Call, facts: Facts, value: Any) -> Outcome:
    """The output of a task. One input's labels are a flat list of `{label, score}`, however they came."""
    task = call.input.get("task")
    single = not isinstance(call.input.get("inputs"), list | tuple)
    try:
        if task in _LABELLING:
            value = _labels(value, single=single)
        elif task == "sentence-similarity":
            value = vector_of(value)
    except (ValueError, OverflowError) as fault:
        return facts.failure(FailureKind.BAD_OUTPUT, f"the reply is no output of {task}: {fault}")
    return json_answer(facts, value)


def json_answer(facts: Facts, value: Any) -> Outcome:
    if value is None or value == "":
        return facts.failure(FailureKind.EMPTY_OUTPUT, "a reply without output")
    try:
        value = kept(value)
    except (ValueError, OverflowError) as fault:
        return facts.failure(FailureKind.BAD_OUTPUT, f"the output cannot be kept: {fault}")
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return Answer(
        usage=facts.usage,
        text=text,
        message={"role": "assistant", "content": text},
        json=value,
        model=facts.model,
        request_id=facts.request_id,
    )


def is_scored(item: Any, name: str, kind: type) -> bool:
    """`{name, score}`, of the right types."""
    return isinstance(item, dict) and type(item.get(name)) is kind and type(item.get("score")) in (int, float)


def _text(item: Mapping[str, Any]) -> str | None:
    """The text of one output; of a conversation that came back whole, what was added to it."""
    text = next((item[name] for name in _TEXTS if name in item), None)
    if isinstance(text, list) and text and isinstance(text[-1], dict) and text[-1].get("role") == "assistant":
        text = text[-1].get("content")
    return clean(text) if isinstance(text, str) else None


def _labels(value: Any, *, single: bool) -> Any:
    """Raises ValueError."""
    if isinstance(value, list) and len(value) == 1 and single and not is_scored(value[0], "label", str):
        value = value[0]
    if isinstance(value, dict) and isinstance(value.get("labels"), list) and isinstance(value.get("scores"), list):
        pairs = zip(value["labels"], value["scores"], strict=True)
        value = [{"label": label, "score": score} for label, score in pairs]
    if not isinstance(value, list) or not value:
        raise ValueError("no labels")
    if all(is_scored(item, "label", str) for item in value):
        return value
    if single:
        raise ValueError("a label without a score")
    return [_labels(item, single=True) for item in value]
