"""What a member said is read strictly: what can be read in two ways is no vote."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from worker.domain.numeral import NoNumber, read_number, read_share
from worker.domain.question import AnswerSpec, Language, schema_for
from worker.domain.vote import Abstained, NoValue, Unusable, Usable, Vote, canonical, read_vote, same_key, value_of

BOOLEAN = AnswerSpec("boolean")
CHOICE = AnswerSpec("choice", ("Alianza Lima", "Perú", "2026", "None"))
NUMBER = AnswerSpec("number", unit="USD", min=-5, max=1e7)
PROBABILITY = AnswerSpec("probability")
JSON = AnswerSpec(
    "json",
    schema={"type": "object", "properties": {"x": {"type": "number"}, "t": {"type": "string"}}, "required": ["x"]},
)
ANY = AnswerSpec("json", schema={})


@pytest.mark.parametrize(
    ("spec", "text", "value"),
    [
        (BOOLEAN, "yes", True),
        (BOOLEAN, "Sí.", True),
        (BOOLEAN, "¡SI\u0301!", True),
        (BOOLEAN, "NO", False),
        (BOOLEAN, "**True**", True),
        (BOOLEAN, '"falso"', False),
        (BOOLEAN, "Answer: no", False),
        (BOOLEAN, "La respuesta es sí.", True),
        (BOOLEAN, "```\nno\n```", False),
        (BOOLEAN, '```json\n{"answer": true}\n```', True),
        (BOOLEAN, 'Sure! {"answer": "sí", "abstain": false} I hope it helps {really}.', True),
        (BOOLEAN, 'I say {"answer": true}. So: {"answer": "yes"}', True),
        (BOOLEAN, '{"Respuesta": "No"}', False),
        (BOOLEAN, '<think>{"answer": false}</think>\n{"answer": true}', True),
        (BOOLEAN, 'it is {"answer": false} or not</think>{"answer": true}', True),
        (BOOLEAN, '{"rationale": "a </think> inside", "answer": true}', True),
        (BOOLEAN, '{"rationale": "{\\"answer\\": false}", "answer": true}', True),
        (CHOICE, "alianza  LIMA", "Alianza Lima"),
        (CHOICE, '{"answer": "peru"}', "Perú"),
        (CHOICE, "Peru\u0301", "Perú"),
        (CHOICE, "2026", "2026"),
        (CHOICE, '{"answer": 2026}', "2026"),
        (CHOICE, "none", "None"),
        (NUMBER, "1,234", 1234),
        (NUMBER, "$1,234.50", 1234.5),
        (NUMBER, "US$ 3", 3),
        (NUMBER, "1.234,56 usd", 1234.56),
        (NUMBER, "1 234 567", 1234567),
        (NUMBER, "1\u202f234", 1234),
        (NUMBER, "1\u2019234.5", 1234.5),
        (NUMBER, "12,5", 12.5),
        (NUMBER, "\u22123", -3),
        (NUMBER, "-0.0", 0),
        (NUMBER, ".5", 0.5),
        (NUMBER, "1e6", 1_000_000),
        (NUMBER, "\uff11\uff12", 12),
        (NUMBER, '{"answer": 3.0}', 3),
        (NUMBER, '{"answer": "1,234"}', 1234),
        (PROBABILITY, "70%", 0.7),
        (PROBABILITY, "7 percent", 0.07),
        (PROBABILITY, "0,7", 0.7),
        (PROBABILITY, "1%", 0.01),
        (PROBABILITY, "1", 1),
        (PROBABILITY, '{"answer": "45 %"}', 0.45),
        (JSON, '{"answer": {"x": 1}}', {"x": 1}),
        (JSON, '{"x": 1}', {"x": 1}),
        (JSON, 'see {"x": 1}, done', {"x": 1}),
        (JSON, '{"answer": "{\\"x\\": 1}"}', {"x": 1}),
        (JSON, '{"answer": 7, "x": 1}', {"answer": 7, "x": 1}),
        (JSON, '{"x": 1, "t": "\\ud800"}', {"x": 1, "t": "\ufffd"}),
        (ANY, "[1, 2]", [1, 2]),
        (ANY, "1.5", 1.5),
    ],
)
def test_a_vote_is_read(spec: AnswerSpec, text: str, value: Any) -> None:
    vote = read_vote(spec, text)
    assert isinstance(vote, Usable), vote
    assert vote.value == value
    assert type(vote.value) is type(value)


@pytest.mark.parametrize(
    ("spec", "text", "language", "reason"),
    [
        (BOOLEAN, None, "en", "empty"),
        (BOOLEAN, " \n ", "en", "empty"),
        (BOOLEAN, "<think>yes", "en", "within its thoughts"),
        (BOOLEAN, "maybe", "en", "neither yes nor no"),
        (BOOLEAN, "yes and no", "en", "neither yes nor no"),
        (BOOLEAN, "Yes, because it rained.", "en", "neither yes nor no"),
        (BOOLEAN, "1", "en", "neither yes nor no"),
        (BOOLEAN, '{"answer": [true]}', "en", "a list is neither"),
        (BOOLEAN, '{"verdict": true}', "en", "`answer` is missing"),
        (BOOLEAN, '{"answer": true} or {"answer": false}', "en", "several answers"),
        (BOOLEAN, '{"answer": true} or {"abstain": true}', "en", "several answers"),
        (BOOLEAN, '{"answer": true, "answer": false}', "en", "broken"),
        (BOOLEAN, '{"answer": true, "Answer": false}', "en", "twice"),
        (BOOLEAN, '{"answer": tru', "en", "broken"),
        (BOOLEAN, '{"rationale": "cut", "inner": {"answer": true}', "en", "broken"),
        (CHOICE, "Alianza", "en", "none of the options"),
        (CHOICE, "Perú or Alianza Lima", "en", "none of the options"),
        (NUMBER, "5-10", "en", "no plain number"),
        (NUMBER, "about 5", "en", "no plain number"),
        (NUMBER, "12%", "en", "no plain number"),
        (NUMBER, "5 EUR", "en", "no plain number"),
        (NUMBER, "2 million", "en", "no plain number"),
        (NUMBER, "1,23,4", "en", "odd places"),
        (NUMBER, "1,234.567,8", "en", "odd places"),
        (NUMBER, "1,234", "es", "can be read as 1234 and as 1.234"),
        (NUMBER, "1.234", "es", "can be read as 1234 and as 1.234"),
        (NUMBER, "-6", "en", "below the minimum of -5"),
        (NUMBER, "1e8", "en", "above the maximum"),
        (NUMBER, '{"answer": 1e400}', "en", "broken"),
        (NUMBER, '{"answer": true}', "en", "no number"),
        (PROBABILITY, "70", "en", "not between 0 and 1"),
        (PROBABILITY, "150%", "en", "not between 0 and 1"),
        (PROBABILITY, "-0.1", "en", "not between 0 and 1"),
        (JSON, "no", "en", "not JSON"),
        (JSON, '{"x": "a"}', "en", "does not fit the schema: x"),
        (JSON, f'{{"x": {"1" * 200}}}', "en", "out of range"),
        (ANY, "[" * 80 + "]" * 80, "en", "64 levels"),
    ],
)
def test_what_is_no_answer_is_no_vote(spec: AnswerSpec, text: str | None, language: Language, reason: str) -> None:
    vote = read_vote(spec, text, language=language)
    assert isinstance(vote, Unusable), vote
    assert reason in vote.reason


@pytest.mark.parametrize("spec", [BOOLEAN, CHOICE, NUMBER, PROBABILITY, JSON], ids=lambda spec: spec.type)
@pytest.mark.parametrize(
    "text",
    [
        "I don\u2019t know.",
        "No lo sé",
        "abstain",
        '{"answer": null}',
        '{"abstain": true, "answer": null, "rationale": "r"}',
    ],
)
def test_an_abstention_is_no_vote_and_no_fault(spec: AnswerSpec, text: str) -> None:
    vote = read_vote(spec, text)
    assert vote == Abstained("r" if "rationale" in text else None)


def test_who_abstains_has_no_vote_whatever_else_it_says() -> None:
    assert read_vote(BOOLEAN, '{"answer": true, "abstain": "yes"}') == Abstained()


@pytest.mark.parametrize(
    ("said", "confidence"),
    [(0.8, 0.8), (0, 0.0), ("80%", 0.8), ("0,8", 0.8), (80, None), ("high", None), (None, None), (True, None)],
)
def test_a_confidence_that_cannot_be_read_costs_no_vote(said: Any, confidence: float | None) -> None:
    text = json.dumps({"answer": True, "confidence": said, "rationale": " because "})
    assert read_vote(BOOLEAN, text) == Usable(True, confidence, "because")


def test_what_the_engine_has_parsed_is_not_read_again() -> None:
    assert read_vote(BOOLEAN, "no", {"answer": True}) == Usable(True)


@pytest.mark.parametrize("text", ["{" * 100_000, '{"a":' * 100_000, "[" * 100_000, '{"a": 1}' * 20_000, "1" * 100_000])
def test_hostile_texts_end_soon(text: str) -> None:
    assert isinstance(read_vote(NUMBER, text), Unusable)


# -- laws --------------------------------------------------------------------------------------------------------

LEAVES = st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats(-1e90, 1e90) | st.text(max_size=8)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
)
RAW: dict[str, st.SearchStrategy[Any]] = {
    "boolean": st.booleans() | st.sampled_from(("yes", " SÍ", "falso.")),
    "choice": st.sampled_from((*CHOICE.options, "peru", " NONE ")),
    "number": st.floats(-5, 1e7) | st.integers(-5, 10**7),
    "probability": st.floats(0, 1),
    "json": VALUES,
}


@given(st.sampled_from((BOOLEAN, CHOICE, NUMBER, PROBABILITY, ANY)), st.data())
def test_the_canonical_form_of_a_canonical_form_is_itself(spec: AnswerSpec, data: st.DataObject) -> None:
    once = canonical(spec, data.draw(RAW[spec.type]))
    assert canonical(spec, once) == once
    assert same_key(spec, once) == same_key(spec, canonical(spec, once))


@given(VALUES)
@example({"a": 1.0, "B": "Lima  norte"})
def test_case_spaces_numbers_and_key_order_make_no_difference(value: Any) -> None:
    assert same_key(ANY, _rewritten(value)) == same_key(ANY, value)


def _rewritten(value: Any) -> Any:
    match value:
        case bool():
            return value
        case int() if abs(value) < 2**53:
            return float(value)
        case str():
            return f" {value}\n"
        case list():
            return [_rewritten(item) for item in value]
        case dict():
            return {name: _rewritten(value[name]) for name in reversed(value)}
        case _:
            return value


@given(st.sampled_from((BOOLEAN, CHOICE, NUMBER, PROBABILITY, JSON)), st.data())
def test_what_fits_the_schema_is_a_vote(spec: AnswerSpec, data: st.DataObject) -> None:
    raw = {"boolean": st.booleans(), "choice": st.sampled_from(CHOICE.options), "json": st.just({"x": 1})}
    answer = data.draw(raw.get(spec.type, RAW[spec.type]))
    form = {"rationale": "r", "abstain": False, "answer": answer, "confidence": 0.5}
    assert list(form) == schema_for(spec)["required"]
    for vote in (read_vote(spec, None, form), read_vote(spec, json.dumps(form), language="es")):
        assert vote == Usable(value_of(spec, answer), 0.5, "r")


@given(st.integers(-(10**12), 10**12), st.integers(0, 99))
def test_numbers_come_back_from_every_custom(whole: int, cents: int) -> None:
    number = float(f"{whole}.{cents:02}")
    english = f"{whole:,}.{cents:02}"
    spanish = english.translate(str.maketrans(",.", ".,"))
    for text in (english, spanish, english.replace(",", " "), spanish.replace(".", "'"), f"{whole}.{cents:02}"):
        for language in ("en", "es"):
            assert read_number(text, language) == pytest.approx(number)


@given(st.text(alphabet="0123456789.,' -+e%", max_size=12), st.sampled_from(("en", "es")))
def test_any_text_is_a_number_or_is_refused(text: str, language: Language) -> None:
    for read in (read_number, read_share):
        try:
            number = read(text, language)
        except NoNumber:
            continue
        assert -1e100 <= number <= 1e100


@given(st.sampled_from((BOOLEAN, CHOICE, NUMBER, PROBABILITY, JSON, ANY)), st.text() | VALUES.map(json.dumps))
def test_any_text_is_a_vote_or_is_not(spec: AnswerSpec, text: str) -> None:
    vote: Vote = read_vote(spec, text)
    assert isinstance(vote, Usable | Abstained | Unusable)
    if isinstance(vote, Usable):
        assert same_key(spec, vote.value)


def test_a_value_of_another_type_is_told() -> None:
    with pytest.raises(NoValue, match="none of the options"):
        canonical(CHOICE, "Quito")
