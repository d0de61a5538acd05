"""What a block of shell commands does, read from its text: so that curl and PowerShell can be held to the same deeds.

Only the plain subset that the documentation is written in is understood; everything else raises NotPlain.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final


class NotPlain(ValueError):
    """The block says something in a way that cannot be compared."""


@dataclass(frozen=True)
class Variable:
    name: str
    value: str


@dataclass(frozen=True)
class Command:
    """Words of a command line, the program first; the launcher is `run.py` on every system."""

    words: tuple[str, ...]


@dataclass(frozen=True)
class Request:
    """Header names in lower case; `body` is the JSON value, a list of them for lines, or `@FILE`."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: Any


Act = Variable | Command | Request

_SH_VARIABLE: Final = re.compile(r"\$\{?(\w+)\}?")
_PS_VARIABLE: Final = re.compile(r"\$env:(\w+)")


def of_sh(text: str) -> list[Act]:
    return [act for words in _statements(text) for act in _sh(words)]


def _statements(text: str) -> Iterator[list[str]]:
    """Each statement's words. A line that ends in a backslash, or in the middle of a quotation, goes on."""
    begun = ""
    for line in text.replace("\\\n", " ").splitlines():
        begun += line
        try:
            words = shlex.split(begun, comments=True)
        except ValueError:  # no closing quotation yet
            begun += "\n"
            continue
        if words:
            yield words
        begun = ""
    if begun:
        raise NotPlain(begun)


def _sh(words: list[str]) -> Iterator[Act]:
    words = [_SH_VARIABLE.sub(r"{\1}", word) for word in words]
    match words:
        case ["export", *pairs]:
            for pair in pairs:
                name, _, value = pair.partition("=")
                yield Variable(name, value)
        case ["curl", *rest]:
            yield _curl(rest)
        case ["python3", "run.py", *rest]:
            yield Command(("run.py", *rest))
        case _:
            yield Command(tuple(words))


def _curl(words: list[str]) -> Request:
    url = method = data = None
    headers: dict[str, str] = {}
    rest = iter(words)
    for word in rest:
        match word:
            case "-X":
                method = next(rest)
            case "-H":
                name, _, value = next(rest).partition(": ")
                headers[name.lower()] = value
            case "-d" | "--data-binary":
                data = next(rest)
            case "-i" | "-N":
                pass
            case _ if word.startswith("-") or url is not None:
                raise NotPlain(word)
            case _:
                url = word
    if url is None:
        raise NotPlain("curl without a URL")
    return Request(method or ("GET" if data is None else "POST"), url, headers, _body(data))


def of_powershell(text: str) -> list[Act]:
    return list(_powershell(iter(text.splitlines())))


def _powershell(lines: Iterator[str]) -> Iterator[Act]:
    values: dict[str, Any] = {}
    for line in lines:
        if not line.strip() or line.startswith("#") or re.fullmatch(r"\$\w+(\.\w+)+", line):
            continue
        if found := re.fullmatch(r'\$env:(\w+) = "([^"]*)"', line):
            yield Variable(found[1], _ps(found[2]))
        elif found := re.fullmatch(r"\$(\w+) = @'", line):
            values[found[1]] = "\n".join(iter(lambda: next(lines), "'@"))
        elif found := re.fullmatch(r"\$(\w+) = @\{ (.*) \}", line):
            pairs = [re.fullmatch(r'"?([\w-]+)"? = "([^"]*)"', pair) for pair in found[2].split("; ")]
            values[found[1]] = {pair[1].lower(): _ps(pair[2]) for pair in pairs if pair is not None}
            if len(values[found[1]]) != len(pairs):
                raise NotPlain(line)
        elif found := re.fullmatch(r"(?:\$\w+ = )?Invoke-RestMethod (.+)", line):
            yield _invoke(found[1], values)
        elif found := re.fullmatch(r"py run\.py (.+)", line):
            yield Command(("run.py", *shlex.split(found[1])))
        else:
            raise NotPlain(line)


def _invoke(text: str, values: Mapping[str, Any]) -> Request:
    url, *rest = re.findall(r'"[^"]*"|[^"\s]+', text)
    given = dict(zip(rest[::2], rest[1::2], strict=True))
    method = given.pop("-Method", "Get").upper()
    headers = dict(values[given.pop("-Headers").removeprefix("$")])
    kind = given.pop("-ContentType", None)
    if kind is not None:
        headers["content-type"] = kind.strip('"').partition(";")[0]
    file = given.pop("-InFile", None)
    body = given.pop("-Body", None)
    if given:
        raise NotPlain(", ".join(given))
    data = f"@{file}" if file is not None else None if body is None else values[body.removeprefix("$")]
    return Request(method, _ps(url.strip('"')), headers, _body(data))


def _ps(text: str) -> str:
    return _PS_VARIABLE.sub(r"{\1}", text)


def _body(data: str | None) -> Any:
    if data is None or data.startswith("@"):
        return data
    return json.loads(data)
