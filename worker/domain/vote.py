"""What a member of a panel said, as a vote that can be compared with others."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from worker.domain import schema as schemas
from worker.domain.answer import Json
from worker.domain.fence import unfenced
from worker.domain.numeral import GREATEST, NoNumber, read_number, read_share, tidy
from worker.domain.question import MAX_RATIONALE, AnswerSpec, Language, folded, unaccented

_QUOTED: Final = 60  # characters of an answer that a reason shows
_MAX_DEPTH: Final = 64


@dataclass(frozen=True, slots=True)
class Usable:
    """A vote.

    value       of a boolean, choice, number or probability in canonical form; of json as the member wrote it
    confidence  0..1, that the answer is right; None: the member named none
    rationale   at most MAX_RATIONALE characters
    """

    value: Json
    confidence: float | None = None
    rationale: str | None = None


@dataclass(frozen=True, slots=True)
class Abstained:
    """The member could not judge. It answered, but it is no vote."""

    rationale: str | None = None


@dataclass(frozen=True, slots=True)
class Unusable:
    """No vote: the call failed, or its text cannot be read as an answer. `reason` is for people."""

    reason: str


Vote = Usable | Abstained | Unusable


class NoValue(ValueError):
    """It is not an answer of the asked type; the message says why, as in `'soon' is no plain number`."""


def read_vote(spec: AnswerSpec, text: str | None, parsed: Json | None = None, language: Language = "en") -> Vote:
    """The vote in a member's answer. Nothing is guessed: what can be read in two ways is unusable.

    parsed    the JSON of the answer where the engine has it; None: the text is read
    language  in which a number was perhaps written: `1,234` is a thousand and more in English, unclear in Spanish
    """
    if parsed is not None:
        return _of_json(spec, parsed, language)
    said = _THOUGHTS.sub("", text or "").strip()
    if said.startswith("<think>"):
        return Unusable("the answer ends within its thoughts")
    said = unfenced(said)
    if not said:
        return Unusable("the answer is empty")
    try:
        whole = _DECODER.decode(said)
    except (ValueError, RecursionError):
        pass
    else:
        # What a bare number means depends on the language: it was written as words are.
        if isinstance(whole, int | float) and not isinstance(whole, bool) and spec.type != "json":
            return _of_words(spec, said, language)
        return _of_json(spec, whole, language)
    try:
        votes = _votes(spec, list(_objects(said)), language)
    except (ValueError, RecursionError):
        return Unusable("the answer holds JSON that is broken")
    if not votes:
        return _of_words(spec, said, language)
    if len({_told(spec, vote) for vote in votes}) > 1:
        return Unusable("the answer holds several answers that differ")
    return votes[-1]


# -- JSON --------------------------------------------------------------------------------------------------------

# Some templates swallow the opening tag. What begins as JSON may speak of a tag in its texts.
_THOUGHTS: Final = re.compile(r"\A(?!\s*[{\[`\"]).*?</think>", re.DOTALL)
_BRACE: Final = re.compile(r'\{(?=\s*["}])')


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError("a number out of range")
    return number


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a field is given twice")
    return made


_DECODER: Final = json.JSONDecoder(parse_constant=_refuse, parse_float=_finite, object_pairs_hook=_once)


def _objects(said: str) -> Iterator[dict[str, Json]]:
    """The JSON objects in a text, in order. Raises ValueError for what begins like one and is none."""
    at = 0
    while brace := _BRACE.search(said, at):
        value, at = _DECODER.raw_decode(said, brace.start())
        yield value


def _votes(spec: AnswerSpec, found: list[dict[str, Json]], language: Language) -> list[Vote]:
    own = [_of_json(spec, value, language) for value in found if _is_form(value)]
    if own or spec.type != "json":
        return own
    return [vote for vote in (_of_json(spec, value, language) for value in found) if isinstance(vote, Usable)]


def _told(spec: AnswerSpec, vote: Vote) -> str:
    match vote:
        case Usable():
            return same_key(spec, vote.value)
        case Abstained():
            return "abstained"
        case Unusable():
            return f"unusable: {vote.reason}"


_NAMES: Final[Mapping[str, frozenset[str]]] = {
    "answer": frozenset({"answer", "respuesta"}),
    "abstain": frozenset({"abstain", "abstención", "abstencion"}),
    "confidence": frozenset({"confidence", "confianza"}),
    "rationale": frozenset({"rationale", "reasoning", "razonamiento", "razones", "justificación", "justificacion"}),
}


def _is_form(value: Json) -> bool:
    return isinstance(value, dict) and any(_given(value, name) for name in ("answer", "abstain"))


def _given(form: Mapping[str, Json], name: str) -> list[Json]:
    return [value for key, value in form.items() if folded(key) in _NAMES[name]]


def _of_json(spec: AnswerSpec, value: Json, language: Language) -> Vote:
    """Of the whole of what a member said: the asked form, or the bare answer."""
    if not isinstance(value, dict):
        return _of_value(spec, value, language)
    if spec.type == "json" and not _is_form(value):
        return _of_value(spec, value, language)
    vote = _of_form(spec, value, language)
    if isinstance(vote, Unusable) and spec.type == "json":  # a schema of the caller's may have an `answer` too
        whole = _of_value(spec, value, language)
        return whole if isinstance(whole, Usable) else vote
    return vote


def _of_form(spec: AnswerSpec, form: Mapping[str, Json], language: Language) -> Vote:
    rationale = next((_cut(said) for said in _given(form, "rationale") if isinstance(said, str)), None)
    answers = _given(form, "answer")
    if len(answers) > 1:
        return Unusable("the field `answer` is given twice")
    if _says_yes(next(iter(_given(form, "abstain")), False)) or answers == [None]:
        return Abstained(rationale)
    if not answers:
        return Unusable("the field `answer` is missing")
    vote = _of_value(spec, answers[0], language)
    if not isinstance(vote, Usable):
        return vote
    confidence = next((_confidence(said, language) for said in _given(form, "confidence")), None)
    return Usable(vote.value, confidence, rationale)


def _says_yes(value: Json) -> bool:
    return value is True or (isinstance(value, str) and folded(value) in _TRUE)


def _cut(text: str) -> str | None:
    return _clean(text.strip())[:MAX_RATIONALE] or None


def _confidence(said: Json, language: Language) -> float | None:
    """One that cannot be read costs nobody the vote."""
    try:
        return float(_share(said, language))
    except NoValue:
        return None


def _of_value(spec: AnswerSpec, raw: Json, language: Language) -> Vote:
    if raw is None:
        return Abstained()
    if isinstance(raw, str) and spec.type != "json" and _is_abstention(raw, spec):
        return Abstained()
    try:
        return Usable(value_of(spec, raw, language))
    except NoValue as exc:
        return Unusable(str(exc))


# -- plain words -------------------------------------------------------------------------------------------------

_TRUE: Final = frozenset({"true", "yes", "sí", "si", "verdadero", "cierto"})
_FALSE: Final = frozenset({"false", "no", "falso"})
_ABSTENTION: Final = frozenset(
    {"abstain", "i abstain", "unknown", "i don't know", "i do not know", "cannot judge", "n/a", "null", "none"}
    | {"abstención", "me abstengo", "no sé", "no lo sé", "desconocido"}
)
_LEAD: Final = re.compile(
    r"(?:final answer|answer|the answer is|respuesta final|respuesta|la respuesta es)\s*:?\s*", re.IGNORECASE
)
_AROUND: Final = " \t\r\n*_`\"'"
_MARKS: Final = " \t\r\n*_`\"'“”«».!¡"


def _bare(text: str) -> str:
    """Folded, without the marks and the `Answer:` that some models put around."""
    said = folded(text).replace("\N{RIGHT SINGLE QUOTATION MARK}", "'").strip(_MARKS)
    return said[lead.end() :].strip(_MARKS) if (lead := _LEAD.match(said)) else said


def _is_abstention(text: str, spec: AnswerSpec) -> bool:
    said = _bare(text)
    return said in _ABSTENTION and said not in {folded(option) for option in spec.options}


def _of_words(spec: AnswerSpec, said: str, language: Language) -> Vote:
    if spec.type == "json":
        return Abstained() if _is_abstention(said, spec) else Unusable("the answer is not JSON")
    return _of_value(spec, said, language)


# -- values ------------------------------------------------------------------------------------------------------


def value_of(spec: AnswerSpec, raw: Json, language: Language = "en") -> Json:
    """An answer of the asked type. Raises NoValue."""
    match spec.type:
        case "boolean":
            return _boolean(raw)
        case "choice":
            return _choice(spec.options, raw)
        case "number":
            return _number(spec, raw, language)
        case "probability":
            return _share(raw, language)
        case "json":
            return _fitting(spec.schema or {}, raw)


def _boolean(raw: Json) -> bool:
    if isinstance(raw, bool):
        return raw
    said = _bare(raw) if isinstance(raw, str) else None
    if said in _TRUE:
        return True
    if said in _FALSE:
        return False
    raise NoValue(f"{_shown(raw)} is neither yes nor no")


def _choice(options: tuple[str, ...], raw: Json) -> str:
    said = raw if isinstance(raw, str) else json.dumps(raw) if isinstance(raw, bool | int) else None
    if said is not None:
        for form in (str, folded, _bare, lambda text: unaccented(_bare(text))):
            same = [option for option in options if form(option) == form(said)]
            if len(same) == 1:
                return same[0]
    raise NoValue(f"{_shown(raw)} is none of the options")


def _number(spec: AnswerSpec, raw: Json, language: Language) -> int | float:
    number = _numeral(raw, lambda said: read_number(said, language, spec.unit))
    if spec.min is not None and number < spec.min:
        raise NoValue(f"{number} is below the minimum of {tidy(spec.min)}")
    if spec.max is not None and number > spec.max:
        raise NoValue(f"{number} is above the maximum of {tidy(spec.max)}")
    return number


def _share(raw: Json, language: Language) -> int | float:
    number = _numeral(raw, lambda said: read_share(said, language))
    if not 0 <= number <= 1:
        raise NoValue(f"{_shown(raw)} is not between 0 and 1")
    return number


def _numeral(raw: Json, read: Callable[[str], int | float]) -> int | float:
    try:
        if isinstance(raw, str):
            return read(_unmarked(raw))
        if isinstance(raw, int | float) and not isinstance(raw, bool):
            return tidy(raw)
    except NoNumber as exc:
        raise NoValue(f"{_shown(raw)} {exc}") from None
    raise NoValue(f"{_shown(raw)} is no number")


def _unmarked(raw: str) -> str:
    """Without the marks and words around a number, but with the point it may begin with: `.5`."""
    said = raw.strip(_AROUND)
    if lead := _LEAD.match(said):
        said = said[lead.end() :].strip(_AROUND)
    return said.removesuffix(".")


def _fitting(schema: Mapping[str, Json], raw: Json) -> Json:
    value = _kept(raw, _MAX_DEPTH)
    wrong = _mismatch(schema, value)
    if wrong is not None and isinstance(raw, str):  # some models put their JSON into a text
        try:
            inner = _kept(_DECODER.decode(raw), _MAX_DEPTH)
        except (ValueError, RecursionError):
            inner = None
        if inner is not None and _mismatch(schema, inner) is None:
            return inner
    if wrong is not None:
        raise NoValue(f"the answer does not fit the schema: {wrong}")
    return value


def _mismatch(schema: Mapping[str, Json], value: Json) -> str | None:
    try:
        return schemas.mismatch(schema, value)
    except ValueError as exc:
        return str(exc)[: schemas.MESSAGE_CUT]


def _kept(value: Json, depth: int) -> Json:
    """Texts clean, numbers in range, no deeper than `depth`. Raises NoValue."""
    if isinstance(value, str):
        return _clean(value)
    if isinstance(value, int | float) and not -GREATEST <= value <= GREATEST:
        raise NoValue("the answer holds a number out of range")
    if not isinstance(value, list | dict):
        return value
    if depth == 0:
        raise NoValue(f"the answer is nested more than {_MAX_DEPTH} levels deep")
    if isinstance(value, list):
        return [_kept(item, depth - 1) for item in value]
    return {_clean(name): _kept(item, depth - 1) for name, item in value.items()}


def _clean(text: str) -> str:
    """Lone surrogates become U+FFFD; no encoder takes them."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _shown(raw: Json) -> str:
    if isinstance(raw, list | dict):
        return "a list" if isinstance(raw, list) else "an object"
    said = _clean(raw) if isinstance(raw, str) else json.dumps(raw)
    return repr(said if len(said) <= _QUOTED else f"{said[:_QUOTED]}...")


# -- sameness ----------------------------------------------------------------------------------------------------


def canonical(spec: AnswerSpec, value: Json) -> Json:
    """The form in which answers are compared; doing it twice changes nothing. Raises NoValue for no answer at all.

    Of json: no case, single spaces, one form of Unicode, of numbers, of key order.
    """
    return _form(value) if spec.type == "json" else value_of(spec, value)


def same_key(spec: AnswerSpec, value: Json) -> str:
    """Two answers are the same answer exactly if their keys are equal."""
    return json.dumps(canonical(spec, value), sort_keys=True, separators=(",", ":"))


def _form(value: Json) -> Json:
    if isinstance(value, str):
        return folded(value)
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int | float):
        return tidy(value)
    if isinstance(value, list):
        return [_form(item) for item in value]
    return {name: _form(value[name]) for name in sorted(value)}
