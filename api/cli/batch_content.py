"""What is handed over of an input: its lines as jobs, each where it stood, and blank where one is not handed over.

So the numbers of lines are those of the input, whatever was left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import IO, Final

from api.cli.lines import BrokenLine, Line
from worker.store.text import dumps

ENDPOINT: Final = "/v1/jobs"
MOST_LINES: Final = 500_000  # of one batch; servers take a million unless they were told otherwise
MOST_BYTES: Final = 256 * 1024 * 1024  # half of what a server takes
# A batch wants a name for every line, and another for each. What a person named twice, or not at all, gets one of ours.
_OURS: Final = re.compile(r"completar:line-\d+(?::(.*))?", re.DOTALL)


class Seen:
    """Numbers of lines, a bit over a byte for each."""

    def __init__(self) -> None:
        self._marks = bytearray()
        self._count = 0

    def __contains__(self, number: int) -> bool:
        return number < len(self._marks) and bool(self._marks[number])

    def __len__(self) -> int:
        return self._count

    def add(self, number: int) -> None:
        if number >= len(self._marks):
            self._marks.extend(bytes(number + 1 - len(self._marks)))
        self._count += not self._marks[number]
        self._marks[number] = 1


@dataclass(slots=True)
class Content:
    """`lines`: how many; `full`: there may be more, for another batch."""

    lines: int = 0
    full: bool = False


def write(to: IO[bytes], lines: Iterable[Line]) -> Content:
    """Lines in the order of their numbers."""
    made = Content()
    at = size = 0
    names: set[int] = set()  # by their hashes: two that are taken for the same lose nothing
    for line in lines:
        given = line.custom_id
        own = given is not None and len(given) > 0 and hash(given) not in names
        name = given if own else _name(line.number, given)
        names.add(hash(name))
        text = dumps({"custom_id": name, "method": "POST", "url": ENDPOINT, "body": line.job}).encode() + b"\n"
        to.write(b"\n" * (line.number - at - 1) + text)
        at = line.number
        size += len(text)
        made.lines += 1
        if made.lines >= MOST_LINES or size >= MOST_BYTES:
            made.full = True
            break
    return made


def _name(number: int, given: str | None) -> str:
    return f"completar:line-{number}" + ("" if given is None else f":{given}")


def named(custom_id: str) -> str | None:
    """As the input has it."""
    found = _OURS.fullmatch(custom_id)
    return custom_id if found is None else found[1]


def reject(line: Line, unknown: Iterable[str]) -> BrokenLine | None:
    """What the server would say of it, as far as that is known here. `unknown`: names that are no models there."""
    from worker.services.batches.lines import BadLine, read  # noqa: PLC0415 - half a second, and hardly ever needed

    models = line.job.get("models") or [line.job.get("model", "default")]
    for name in models if isinstance(models, list) else []:
        if name in unknown:
            message = f"The model {name!r} is no route and no target. GET /v1/models lists them."
            return BrokenLine(line.number, line.custom_id, message)
    if line.job.get("kind") == "prediction":  # which panels there are is known to the server alone
        return None
    asked = {"custom_id": "x", "method": "POST", "url": ENDPOINT, "body": line.job}
    try:
        read((line.number, dumps(asked).encode()), ENDPOINT, lambda _: None)
    except BadLine as exc:
        return BrokenLine(line.number, line.custom_id, exc.errors[0].message.removeprefix("body."))
    return None
