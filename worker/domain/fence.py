"""The fence of Markdown that some models put around what they were asked for."""

from __future__ import annotations

from typing import Final

_FENCE: Final = "```"


def unfenced(text: str) -> str:
    """What stands in a fence that goes around the whole text, else the text; without blanks around it.

    Without a regular expression: the one that was here took the square of an answer's length to find no end of it.
    """
    text = text.strip()
    if not text.startswith(_FENCE) or not text.endswith(_FENCE):
        return text
    head, line, inside = text.removesuffix(_FENCE).partition("\n")
    word = head.removeprefix(_FENCE).rstrip(" \t")
    return inside.strip() if line and (not word or word.isidentifier()) else text
