"""A question is checked with remedies; its schema admits exactly the answers it asks for."""

from __future__ import annotations

import json
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.domain.question import (
    MAX_CONTEXT,
    MAX_QUESTION,
    AnswerSpec,
    BadQuestion,
    Language,
    asked,
    folded,
    instruction,
    language_of,
    messages,
    schema_for,
)

BOOLEAN = AnswerSpec("boolean")
CHOICE = AnswerSpec("choice", ("Lima", "Cusco"))
TREE = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "$id": "https://example.com/tree",
    "type": "object",
    "properties": {
        "name": {"$ref": "#/$defs/name"},
        "alias": {"$ref": "#/properties/name"},
        "enum": {"$ref": "#/$defs/name"},
        "children": {"type": "array", "items": {"$ref": "#"}},
        "mark": {"const": {"$ref": "#"}},
    },
    "required": ["name"],
    "additionalProperties": False,
    "$defs": {"name": {"type": "string", "minLength": 1}},
}


@pytest.mark.parametrize(
    ("spec", "field", "says"),
    [
        (AnswerSpec("bool"), "answer.type", "Use one of boolean"),  # type: ignore[arg-type]
        (AnswerSpec("boolean", options=("a", "b")), "answer.options", "or use choice"),
        (AnswerSpec("probability", unit="%"), "answer.unit", "or use number"),
        (AnswerSpec("boolean", max=1), "answer.max", "or use number"),
        (AnswerSpec("choice", schema={}), "answer.schema", "or use json"),
        (AnswerSpec("choice"), "answer.options", "Give 2 to 100"),
        (AnswerSpec("choice", ("a",)), "answer.options", "Give 2 to 100"),
        (AnswerSpec("choice", tuple(map(str, range(101)))), "answer.options", "Give 2 to 100"),
        (AnswerSpec("choice", ("a", " ")), "answer.options[1]", "empty"),
        (AnswerSpec("choice", ("a", "b" * 201)), "answer.options[1]", "Use 1 to 200"),
        (AnswerSpec("choice", ("Peru", "b", "PERU ")), "answer.options[2]", "the same as 'Peru'"),
        (AnswerSpec("choice", ("Peru\u0301", "Per\u00fa")), "answer.options[1]", "the same as"),
        (AnswerSpec("choice", ("a", "a")), "answer.options[1]", "the same as"),
        (AnswerSpec("number", min=2, max=2), "answer.min", "not below"),
        (AnswerSpec("number", max=float("nan")), "answer.max", "not finite"),
        (AnswerSpec("number", unit=" "), "answer.unit", "empty"),
        (AnswerSpec("json"), "answer.schema", "Add the JSON Schema"),
        (AnswerSpec("json", schema={"type": "banana"}), "answer.schema", "not a valid JSON Schema"),
        (AnswerSpec("json", schema={"$ref": "http://169.254.169.254/"}), "answer.schema", "points elsewhere"),
    ],
)
def test_a_form_of_answer_that_cannot_be_is_told_with_its_remedy(spec: AnswerSpec, field: str, says: str) -> None:
    with pytest.raises(BadQuestion) as caught:
        asked("Why?", spec)
    assert caught.value.field == field
    assert says in str(caught.value)
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("text", "context", "language", "field"),
    [
        ("", None, None, "question"),
        (" \n", None, None, "question"),
        ("x" * (MAX_QUESTION + 1), None, None, "question"),
        ("x", "y" * (MAX_CONTEXT + 1), None, "context"),
        ("x", None, "de", "language"),
    ],
)
def test_a_text_that_is_no_question_is_told(text: str, context: str | None, language: Any, field: str) -> None:
    with pytest.raises(BadQuestion) as caught:
        asked(text, BOOLEAN, context, language)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Will it rain in Lima tomorrow?", "en"),
        ("Who wins El Clasico?", "en"),
        ("2 + 2", "en"),
        ("¿Lloverá mañana en Lima?", "es"),
        ("Cuanto es 2 + 2", "es"),
        ("Ganara Boca el partido de hoy", "es"),
    ],
)
def test_the_instruction_speaks_the_language_of_the_question(text: str, language: Language) -> None:
    assert language_of(text) == asked(text, BOOLEAN).language == language
    assert ("Responde" in instruction(asked(text, BOOLEAN))) is (language == "es")
    other: Language = "en" if language == "es" else "es"
    assert asked(text, BOOLEAN, language=other).language == other


@given(st.text(min_size=1).filter(str.strip), st.none() | st.text(), st.sampled_from(("en", "es")))
def test_the_callers_text_is_never_touched(text: str, context: str | None, language: Language) -> None:
    said = messages(asked(text, CHOICE, context, language))
    assert [one["content"] for one in said[1:]] == ([] if context is None else [context]) + [text]
    assert [one["role"] for one in said] == ["system", *["user"] * (len(said) - 1)]


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        (CHOICE, '"Lima", "Cusco"'),
        (AnswerSpec("choice", ('say "hi" {x}', "b")), r'"say \"hi\" {x}"'),
        (AnswerSpec("number", unit="USD", min=0, max=1234567.5), '"USD"'),
        (AnswerSpec("number", max=1234567.5), "1234567.5."),
        (AnswerSpec("json", schema={"type": "array"}), '{"type": "array"}'),
    ],
)
@pytest.mark.parametrize("language", ["en", "es"])
def test_the_instruction_tells_all_of_the_form(spec: AnswerSpec, told: str, language: Language) -> None:
    said = instruction(asked("Why?", spec, language=language))
    assert told in said
    assert all(f'"{name}"' in said for name in schema_for(spec)["required"])


# -- the schema of what a member says ----------------------------------------------------------------------------


def said(answer: Any, confidence: Any = 0.5, *, abstain: bool = False) -> dict[str, Any]:
    return {"rationale": "", "abstain": abstain, "answer": answer, "confidence": confidence}


@pytest.mark.parametrize(
    ("spec", "good", "bad"),
    [
        (BOOLEAN, (True, False), ("yes", 1)),
        (CHOICE, ("Lima",), ("lima", "Quito", 0)),
        (AnswerSpec("number", min=0, max=10), (0, 9.5, 10), (-1, 11, "3")),
        (AnswerSpec("number"), (-1e9,), (True,)),
        (AnswerSpec("probability"), (0, 0.5, 1), (1.1, "50%")),
        (
            AnswerSpec("json", schema=TREE),
            ({"name": "a", "alias": "b", "children": [{"name": "c"}], "mark": {"$ref": "#"}},),
            ({}, {"name": ""}, {"name": "a", "alias": ""}, {"name": "a", "enum": ""}, {"name": "a", "children": [{}]}),
        ),
    ],
    ids=["boolean", "choice", "range", "number", "probability", "json"],
)
def test_the_schema_admits_what_is_asked_for(spec: AnswerSpec, good: tuple[Any, ...], bad: tuple[Any, ...]) -> None:
    validator = jsonschema_rs.validator_for(json.loads(json.dumps(schema_for(spec))))
    for answer in good:
        assert validator.is_valid(said(answer)), answer
    for answer in bad:
        assert not validator.is_valid(said(answer)), answer
    assert validator.is_valid(said(None, None, abstain=True))
    assert not validator.is_valid(said(good[0], 1.5))


def test_the_schema_is_what_strict_modes_take() -> None:
    made = schema_for(AnswerSpec("json", schema=TREE))
    assert list(made["properties"]) == made["required"], "the reasons are written before the answer"
    assert made["additionalProperties"] is False
    assert "$defs" in made
    assert "$id" not in json.dumps(made)


@given(st.text())
def test_folding_twice_changes_nothing(text: str) -> None:
    assert folded(folded(text)) == folded(text)
