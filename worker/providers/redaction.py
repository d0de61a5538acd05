"""Text of a provider made fit to be stored and shown: one line, short, and nothing in it that looks like a key."""

from __future__ import annotations

import re
from typing import Final

from worker.domain.answer import MESSAGE_CUT
from worker.providers.json_text import clean

MASK: Final = "***"

_LEAST_SECRET: Final = 8  # characters; `EMPTY` and the like are no secrets, and are words of replies

_KEY: Final = re.compile(
    r"(?<![A-Za-z0-9])"
    r"(?:(?:sk|ak|rk|ck|xai|pplx|nvapi|csk)[-_]|(?:gsk|hf|r8|ghp|github_pat)_(?!inference|endpoint|hub)|AIza|AKIA|eyJ)"
    r"[A-Za-z0-9*._~+/=-]{5,}"
)
_BEARER: Final = re.compile(r"\b(bearer) +[A-Za-z0-9*._~+/=-]{6,}", re.IGNORECASE)
# "Incorrect API key provided: badkey." names it whatever it looks like.
_NAMED: Final = re.compile(r"\b(api[ _-]?key(?: provided)? ?[:=] ?)[^\s,;\"'<>]*[^\s,;.\"'<>]", re.IGNORECASE)
_CREDENTIALS: Final = re.compile(r"(?<=://)[^\s/@]+@")
# Validators quote what they were given, which is the prompt.
_ECHO: Final = re.compile(r"(?:\breceived: ?b?['\"{]|['\"]?\binput(?:_value)?['\"]? ?[:=] ?['\"{\[]).*")


def mask(text: str) -> str:
    """The text with every credential in it replaced by `***`."""
    text = _BEARER.sub(r"\1 " + MASK, _CREDENTIALS.sub(MASK + "@", text))
    return _KEY.sub(MASK, _NAMED.sub(r"\1" + MASK, text))


def without(body: bytes, secret: str | None) -> bytes:
    """The bytes with this very key replaced by `***`; the same object where it is not in them."""
    if secret is None or len(secret) < _LEAST_SECRET or (sought := secret.encode("utf-8", "replace")) not in body:
        return body
    return body.replace(sought, MASK.encode())


def one_line(text: str, length: int = MESSAGE_CUT) -> str:
    """At most `length` characters on one line, without keys, control characters or an echo of the input."""
    text = clean(text[: 4 * length])  # what is masked or squeezed out makes room for what follows it
    if not text.isprintable():
        text = "".join(c if c.isprintable() else " " for c in text)
    line = " ".join(text.split())
    line = _ECHO.sub("…", mask(line))
    return line if len(line) <= length else line[: length - 1] + "…"
