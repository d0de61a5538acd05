"""What each model of the sandbox does with a request. Pure but for `Seen`, which counts tries."""

from __future__ import annotations

import math
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from hashlib import blake2b
from typing import Final, cast

from worker.domain.money import estimate_tokens
from worker.providers.sandbox import panelist
from worker.providers.sandbox.asking import Ask, last_text, prompt_tokens, schemas_of
from worker.providers.sandbox.bodies import (
    NAME,
    Ending,
    Reply,
    as_json,
    chat,
    embeddings,
    error,
    error_of,
    json_reply,
    tool_call,
)

_BIG: Final = 50_000_000
_REMEMBERED: Final = 100_000


class Seen:
    """How often each request was tried; the oldest are forgotten."""

    def __init__(self) -> None:
        self._times: OrderedDict[str, int] = OrderedDict()

    def before(self, identity: str) -> int:
        """How often it came before this time."""
        times = self._times.pop(identity, 0)
        self._times[identity] = times + 1
        if len(self._times) > _REMEMBERED:
            self._times.popitem(last=False)
        return times


Behaviour = Callable[[Ask, Seen], Reply]


def _good(ask: Ask, seen: Seen) -> Reply:  # noqa: ARG001 - every behaviour is called alike
    if ask.embedding:
        return json_reply(embeddings(ask))
    form = ask.body.get("response_format")
    wants_json = isinstance(form, dict) and form.get("type") in ("json_schema", "json_object")
    text = as_json(ask) if wants_json else f"{NAME}No model was asked. You wrote: {last_text(ask)}"
    most = ask.body.get("max_completion_tokens", ask.body.get("max_tokens"))
    if isinstance(most, int) and 0 < most < estimate_tokens(len(text)):
        return chat(ask, text[: most * 4], "length")
    return chat(ask, text)


def _after(delay_s: float, ask: Ask, seen: Seen) -> Reply:
    return replace(_good(ask, seen), delay_s=delay_s)


def _failing(status: int, times: float, ask: Ask, seen: Seen) -> Reply:
    """The error of a status the first `times` times, then an answer."""
    if seen.before(ask.identity) >= times:
        return _good(ask, seen)
    wait = (("retry-after", "1"), ("x-ratelimit-remaining-requests", "0")) if status == 429 else ()
    return replace(error_of(status), headers=wait)


def _flaky(percent: int, ask: Ask, seen: Seen) -> Reply:
    chosen = int.from_bytes(blake2b(ask.identity.encode(errors="replace"), digest_size=4).digest()) % 100 < percent
    return _failing(503, 1, ask, seen) if chosen else _good(ask, seen)


def _quota(ask: Ask, seen: Seen) -> Reply:  # noqa: ARG001
    text = "You exceeded your current quota, please check your plan and billing details."
    return error(429, text, "insufficient_quota", code="insufficient_quota")


def _too_long(ask: Ask, seen: Seen) -> Reply:  # noqa: ARG001
    text = f"This model's maximum context length is 16 tokens. Your messages came to {prompt_tokens(ask) + 16}."
    return error(400, text, "invalid_request_error", "messages", "context_length_exceeded")


def _ended(ending: Ending, ask: Ask, seen: Seen) -> Reply:
    return replace(_good(ask, seen), ending=ending)


def _said(text: str, ask: Ask, seen: Seen) -> Reply:
    return _good(ask, seen) if ask.embedding else chat(ask, text)


def _html(ask: Ask, seen: Seen) -> Reply:  # noqa: ARG001
    page = f"<!doctype html><title>{NAME}</title><p>{NAME}Please sign in to the network."
    return Reply(body=page.encode(), content_type="text/html; charset=utf-8")


def _no_utf8(ask: Ask, seen: Seen) -> Reply:
    good = _said(f"{NAME}caf?", ask, seen)
    return replace(good, body=good.body.replace(b"caf?", b"caf\xe9\xff") + b"\xff" * ask.embedding)


def _big(ask: Ask, seen: Seen) -> Reply:
    before, rest = _good(ask, seen).body.removesuffix(b"}") + b',"padding":"', b'"}'
    return Reply(body=before, filler=_BIG - len(before) - len(rest), rest=rest)


def _json_text(ask: Ask, seen: Seen) -> Reply:
    return _said(as_json(ask), ask, seen)


def _broken_json(ask: Ask, seen: Seen) -> Reply:
    text = as_json(ask)
    return _said(text[: len(text) // 2 + 1].rstrip("}]"), ask, seen)


def _panelist(percent: int, manner: panelist.Manner, ask: Ask, seen: Seen) -> Reply:
    for field, schema in schemas_of(ask.body):
        said = panelist.vote(last_text(ask), schema, percent, manner) if isinstance(schema, dict) else None
        if field == "response_format" and said is not None:
            return _said(said, ask, seen)
    return _good(ask, seen)


def _tools(ask: Ask, seen: Seen) -> Reply:
    call = tool_call(ask)
    if call is None:
        return _good(ask, seen)
    return chat(ask, None, "tool_calls", {"tool_calls": [call]})


def _length(ask: Ask, seen: Seen) -> Reply:
    if ask.embedding:
        return _good(ask, seen)
    text = f"{NAME}You wrote: {last_text(ask)}"
    return chat(ask, text[: max(len(NAME) + 4, len(text) // 2)], "length")


def _refuse(ask: Ask, seen: Seen) -> Reply:
    return _good(ask, seen) if ask.embedding else chat(ask, None, "stop", {"refusal": f"{NAME}I'd rather not."})


def _filtered(ask: Ask, seen: Seen) -> Reply:
    return _good(ask, seen) if ask.embedding else chat(ask, "", "content_filter")


def _embed(ask: Ask, seen: Seen) -> Reply:
    if ask.embedding:
        return _good(ask, seen)
    text = "This is not a chat model: ask /v1/embeddings."
    return error(404, text, "invalid_request_error", "model", "model_not_found")


BEHAVIOURS: Final[Mapping[str, Behaviour]] = {
    "echo": _good,
    "rate-limited": partial(_failing, 429, 2),
    "always-rate-limited": partial(_failing, 429, math.inf),
    "quota": _quota,
    "context-too-long": _too_long,
    "silent": partial(_ended, "silence"),
    "cut": partial(_ended, "cut"),
    "reset": partial(_ended, "reset"),
    "empty": partial(_said, ""),
    "html": _html,
    "nul": partial(_said, f"{NAME}before\0after"),
    "invalid-utf8": _no_utf8,
    "big": _big,
    "json": _json_text,
    "json-broken": _broken_json,
    "tools": _tools,
    "length": _length,
    "refuse": _refuse,
    "filtered": _filtered,
    "embed": _embed,
}
_PATTERN: Final = re.compile(
    r"slow-(?P<wait>\d{1,5}(?:\.\d{1,3})?)(?P<unit>m?s)"
    r"|flaky-(?P<percent>\d{1,2}|100)"
    r"|fail-(?P<status>[45]\d\d)(?P<times>-once|-twice)?"
)
_TIMES: Final = {None: math.inf, "-once": 1, "-twice": 2}


def by_pattern(model: str) -> Behaviour | None:
    member = panelist.NAME.fullmatch(model)
    if member is not None:
        return partial(_panelist, int(member["percent"]), cast("panelist.Manner", member["manner"] or ""))
    match = _PATTERN.fullmatch(model)
    if match is None:
        return None
    if match["wait"]:
        return partial(_after, float(match["wait"]) / (1000 if match["unit"] == "ms" else 1))
    if match["percent"]:
        return partial(_flaky, int(match["percent"]))
    return partial(_failing, int(match["status"]), _TIMES[match["times"]])
