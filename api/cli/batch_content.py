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

    @property
    def last(self) -> int:
        """The highest; 0: there is none."""
        return max(0, len(self._marks) - 1)

    def add(self, number: int) -> None:
        if number >= len(self._marks):
            self._marks.extend(bytes(number + 1 - len(self._marks)))
        self._count += not self._marks[number]
        self._marks[number] = 1


class Names:
    """What the lines of one batch are called there. Those that were taken are held by their hashes: two that seem the
    same lose nothing.
    """

    def __init__(self) -> None:
        self._taken: set[int] = set()

    def of(self, line: Line) -> str:
        """Whoever chose a name like ours gets one of ours too: else it might be that of another line."""
        given = line.custom_id
        if given and hash(given) not in self._taken and _OURS.fullmatch(given) is None:
            return given
        return f"completar:line-{line.number}" + ("" if given is None else f":{given}")

    def take(self, name: str) -> None:
        self._taken.add(hash(name))


@dataclass(slots=True)
class Content:
    """`lines`: how many; `full`: there may be more, for another batch."""

    lines: int = 0
    full: bool = False


def write(to: IO[bytes], lines: Iterable[Line]) -> Content:
    """Lines in the order of their numbers."""
    made = Content()
    at = size = 0
    names = Names()
    for line in lines:
        name = names.of(line)
        names.take(name)
        text = dumps({"custom_id": name, "method": "POST", "url": ENDPOINT, "body": line.job}).encode() + b"\n"
        to.write(b"\n" * (line.number - at - 1) + text)
        at = line.number
        size += len(text)
        made.lines += 1
        if made.lines >= MOST_LINES or size >= MOST_BYTES:
            made.full = True
            break
    return made


def named(custom_id: str) -> str | None:
    """As the input has it."""
    found = _OURS.fullmatch(custom_id)
    return custom_id if found is None else found[1]


def reject(line: Line, name: str, unknown: Iterable[str]) -> BrokenLine | None:
    """What the server would say of it, as far as that is known here. `name` is what it is called there; `unknown`:
    names that are no models there.
    """
    from worker.services.batches.lines import BadLine, read  # noqa: PLC0415 - half a second, and hardly ever needed

    models = line.job.get("models") or [line.job.get("model", "default")]
    for model in models if isinstance(models, list) else []:
        if isinstance(model, str) and model in unknown:
            message = f"The model {model!r} is no route and no target. GET /v1/models lists them."
            return BrokenLine(line.number, line.custom_id, message)
    # Which panels there are is known to the server alone: of a prediction only the name is judged.
    body = {"input": {"prompt": "x"}} if line.job.get("kind") == "prediction" else line.job
    asked = {"custom_id": name, "method": "POST", "url": ENDPOINT, "body": body}
    try:
        read((line.number, dumps(asked).encode()), ENDPOINT, lambda _: None)
    except BadLine as exc:
        return BrokenLine(line.number, line.custom_id, exc.errors[0].message.removeprefix("body."))
    return None
