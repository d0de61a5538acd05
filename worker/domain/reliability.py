"""The reliability plot of a record, as SVG text: how often it happened over what probability was given."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Final

from worker.domain.calibration import Bin, Score
from worker.domain.question import Language

_SIDE: Final = 360
_LEFT: Final = 64
_TOP: Final = 48
_LEGEND: Final = _LEFT + _SIDE + 32
_WIDTH: Final = _LEGEND + 300
_ROW: Final = 22
_NAME: Final = 32  # characters
_STYLE: Final = 'role="img" font-family="sans-serif" font-size="12"'
# Okabe and Ito's colours, told apart by every eye; a second round is dashed.
_COLOURS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
_DIAGONAL: Final = 'stroke="#808080" stroke-dasharray="4 4"'

_WORDS: Final[Mapping[Language, Mapping[str, str]]] = {
    "en": {
        "title": "Reliability: what was said and what happened",
        "x": "probability given",
        "y": "share that happened",
        "perfect": "perfect calibration",
        "none": "no forecast with a probability and a known outcome",
        "point": "{name}: {count} forecasts said {said:.0%} on average; {happened:.0%} happened",
    },
    "es": {
        "title": "Fiabilidad: lo que se dijo y lo que pasó",
        "x": "probabilidad dada",
        "y": "proporción que ocurrió",
        "perfect": "calibración perfecta",
        "none": "ningún pronóstico con probabilidad y resultado conocido",
        "point": "{name}: {count} pronósticos decían {said:.0%} en promedio; ocurrió el {happened:.0%}",
    },
}


def reliability_svg(scored: Sequence[Score], language: Language = "en") -> str:
    """Well-formed XML that stands alone: no script, no font, no reference. Larger dots stand for more forecasts."""
    words = _WORDS[language]
    shown = [score for score in scored if any(one.count for one in score.bins)]
    height = max(_TOP + _SIDE + 64, _TOP + _ROW * (len(shown) + 2))
    title = escape(words["title"])
    size = f'width="{_WIDTH}" height="{height}"'
    box = f'{size} viewBox="0 0 {_WIDTH} {height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {box} {_STYLE} aria-label="{title}">',
        f"<title>{title}</title>",
        f'<rect {size} fill="#ffffff"/>',
        f'<text x="{_LEFT}" y="28" font-size="15">{title}</text>',
        *_axes(words),
        *(part for n, score in enumerate(shown) for part in _curve(n, score, words)),
        *_legend(shown, words),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _axes(words: Mapping[str, str]) -> Iterator[str]:
    bottom, right = _TOP + _SIDE, _LEFT + _SIDE
    for tenths in range(0, 11, 2):
        x, y = _x(tenths / 10), _y(tenths / 10)
        yield f'<path d="M{x:g} {_TOP}V{bottom}M{_LEFT} {y:g}H{right}" stroke="#e0e0e0" fill="none"/>'
        yield f'<text x="{x:g}" y="{bottom + 18}" text-anchor="middle">{tenths / 10:g}</text>'
        yield f'<text x="{_LEFT - 8}" y="{y + 4:g}" text-anchor="end">{tenths / 10:g}</text>'
    yield f'<path d="M{_LEFT} {bottom}L{right} {_TOP}" {_DIAGONAL} fill="none"/>'
    middle = _TOP + _SIDE // 2
    turned = f'text-anchor="middle" transform="rotate(-90 20 {middle})"'
    yield f'<text x="{_LEFT + _SIDE // 2}" y="{bottom + 42}" text-anchor="middle">{escape(words["x"])}</text>'
    yield f'<text x="20" y="{middle}" {turned}>{escape(words["y"])}</text>'


def _curve(n: int, score: Score, words: Mapping[str, str]) -> Iterator[str]:
    dots = [(one.mean_probability, one.happened_share, one) for one in score.bins]
    known = [(said, happened, one) for said, happened, one in dots if said is not None and happened is not None]
    way = "L".join(f"{_x(said):.1f} {_y(happened):.1f}" for said, happened, _ in known)
    yield f'<path d="M{way}" {_stroke(n)} fill="none"/>'
    for said, happened, one in known:
        told = words["point"].format(name=_plain(score.member), count=one.count, said=said, happened=happened)
        yield (
            f'<circle cx="{_x(said):.1f}" cy="{_y(happened):.1f}" r="{_radius(one):.1f}" fill="{_colour(n)}">'
            f"<title>{escape(told)}</title></circle>"
        )


def _legend(shown: Sequence[Score], words: Mapping[str, str]) -> Iterator[str]:
    said = words["perfect"] if shown else words["none"]
    yield f'<path d="M{_LEGEND} {_TOP + 8}h24" {_DIAGONAL} fill="none"/>'
    yield f'<text x="{_LEGEND + 32}" y="{_TOP + 12}">{escape(said)}</text>'
    for n, score in enumerate(shown):
        y = _TOP + 12 + _ROW * (n + 1)
        name = _plain(score.member)
        short = name if len(name) <= _NAME else f"{name[: _NAME - 1]}…"
        count = sum(one.count for one in score.bins)
        yield f'<path d="M{_LEGEND} {y - 4}h24" {_stroke(n)} fill="none"/>'
        yield f'<text x="{_LEGEND + 32}" y="{y}">{escape(short)} (n={count}, Brier {score.brier:.3f})</text>'


def _plain(text: str) -> str:
    """Without what XML cannot hold: control characters, lone surrogates."""
    return "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in text)


def _x(share: float) -> float:
    return _LEFT + _SIDE * share


def _y(share: float) -> float:
    return _TOP + _SIDE * (1 - share)


def _radius(one: Bin) -> float:
    """Its area grows with the forecasts, up to a bound."""
    return min(3.0 + math.sqrt(one.count), 12.0)


def _colour(n: int) -> str:
    return _COLOURS[n % len(_COLOURS)]


def _stroke(n: int) -> str:
    dashes = "" if n < len(_COLOURS) else ' stroke-dasharray="6 3"'
    return f'stroke="{_colour(n)}" stroke-width="2"{dashes}'
