"""Numbers as people and models write them. What can be read in two ways is refused: a wrong thousand is worse."""

from __future__ import annotations

import math
import re
import unicodedata
from decimal import Decimal
from typing import Final, Literal

GREATEST: Final = 1e100
_EXACT: Final = 1e21  # from here on whole numbers are kept as floats
_NUMERAL: Final = re.compile(r"([+-]?) ?([0-9][0-9 .,'_]*|[.,][0-9]+)(e[+-]?[0-9]{1,3})?", re.ASCII | re.IGNORECASE)
_SEPARATOR: Final = re.compile(r"([ .,'_])")
_PERCENT: Final = re.compile(r" ?(?:%|per ?cent|por ciento)$", re.IGNORECASE)
_SIGNS: Final = str.maketrans({"\N{MINUS SIGN}": "-", "\N{RIGHT SINGLE QUOTATION MARK}": "'"})


class NoNumber(ValueError):
    """The text is no number, or can be read as two; the message says which."""


def tidy(number: float) -> int | float:
    """The form in which numbers are kept and compared: whole ones as int, others with 12 significant digits.

    Raises NoNumber beyond GREATEST and for what is not finite.
    """
    if not -GREATEST <= number <= GREATEST:  # also false of NaN
        raise NoNumber("is out of range")
    if abs(number) >= _EXACT:
        return float(f"{float(number):.12g}")
    if number == math.trunc(number):
        return math.trunc(number)
    rounded = float(f"{number:.12g}")
    return math.trunc(rounded) if rounded.is_integer() else rounded


def read_number(text: str, language: Literal["en", "es"], unit: str | None = None) -> int | float:
    """A number with its separators, and perhaps its unit. Raises NoNumber."""
    said = _plain(text)
    if unit is not None:
        said = _without_unit(said, _plain(unit))
    return tidy(float(_decimal(said, language)))


def read_share(text: str, language: Literal["en", "es"]) -> int | float:
    """A number from 0 to 1, or a percentage of 0 to 100 that says it is one. Raises NoNumber."""
    said = _plain(text)
    bare = _PERCENT.sub("", said)
    value = _decimal(bare, language)
    return tidy(float(value / 100 if bare != said else value))


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text.translate(_SIGNS)).split())


_SYMBOLS: Final = {"usd": ("us$", "$"), "eur": ("€",), "gbp": ("£",), "pen": ("s/.", "s/"), "mxn": ("$",)}


def _without_unit(said: str, unit: str) -> str:
    if unit == "%":
        return _PERCENT.sub("", said)
    low = said.casefold()
    for word in (unit.casefold(), *_SYMBOLS.get(unit.casefold(), ())):
        if low.endswith(word):
            return said[: len(said) - len(word)].rstrip()
        if low.startswith(word):
            return said[len(word) :].lstrip()
    return said


def _decimal(said: str, language: Literal["en", "es"]) -> Decimal:
    found = _NUMERAL.fullmatch(said)
    if found is None:
        raise NoNumber("is no plain number")
    sign, body, exponent = found.groups()
    return Decimal(f"{sign}{_digits(body, language)}{exponent or ''}")


def _digits(body: str, language: Literal["en", "es"]) -> str:
    """With a point for decimals and nothing for thousands."""
    parts = _SEPARATOR.split(body)
    digits, marks = parts[0::2], parts[1::2]
    if not marks:
        return body
    point = _point(digits, marks, language)
    if point is None:
        whole, decimals = digits, ""
    else:
        whole, decimals, marks = digits[:-1], digits[-1], marks[:-1]
    if marks and not (1 <= len(whole[0]) <= 3 and all(len(group) == 3 for group in whole[1:])):
        raise NoNumber("has its separators in odd places")
    if point is not None and not decimals:
        raise NoNumber("ends in a separator")
    return f"{''.join(whole) or '0'}.{decimals or '0'}"


def _point(digits: list[str], marks: list[str], language: Literal["en", "es"]) -> str | None:
    """The mark before the decimals; None: all marks are between thousands."""
    last = marks[-1]
    kinds = set(marks)
    if len(kinds) > 2 or (len(kinds) == 2 and (last not in ".," or marks.count(last) > 1)):
        raise NoNumber("has its separators in odd places")
    if len(kinds) == 2:
        return last
    if last not in ".," or len(marks) > 1:
        return None
    whole, decimals = digits
    if len(decimals) != 3 or not 1 <= len(whole) <= 3 or whole.startswith("0"):
        return last
    if language == "es":  # both customs live in the Spanish-speaking countries
        raise NoNumber(f"can be read as {whole}{decimals} and as {whole}.{decimals}")
    return None if last == "," else last
