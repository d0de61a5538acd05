"""What a campaign found: a table for people, a document for machines."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping, Sequence
from os import cpu_count
from typing import Any, Final

from tests.chaos.campaign import Outcome
from tests.chaos.result import Profile

COMMAND: Final = "python3 run.py chaos"
# Figures that say nothing where they are 0, which is most of the time.
_QUIET: Final = frozenset({"lost", "stuck", "twice", "refusals", "given_up", "superseded", "lost_calls", "unknown"})


def document(outcomes: Sequence[Outcome], profile: Profile, seed: int, seconds: float) -> dict[str, Any]:
    return {
        "command": f"{COMMAND} --profile {profile} --seed {seed}",
        "profile": profile,
        "seed": seed,
        "seconds": round(seconds, 1),
        "machine": {"python": platform.python_version(), "system": platform.platform(), "cores": cpu_count()},
        "kept": all(outcome.kept for outcome in outcomes),
        "scenarios": [outcome.document() for outcome in outcomes],
    }


def table(told: Mapping[str, Any]) -> str:
    """The document as Markdown: what was broken, what came of it, which promises were kept."""
    return "\n".join(_lines(told)) + "\n"


def _lines(told: Mapping[str, Any]) -> Iterator[str]:
    yield f"`{told['command']}`, {told['seconds']:.0f} s on {told['machine']['cores']} cores"
    yield ""
    yield "| | scenario | jobs | lost | stuck | twice | extra calls | in flight at deaths | promises | s |"
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for one in told["scenarios"]:
        figures = one["figures"]
        cells = [str(figures.get(name, "")) for name in ("jobs", "lost", "stuck", "twice", "extra", "in_flight")]
        kept = sum(1 for promise in one["promises"] if promise["kept"])
        said = f"{kept} of {len(one['promises'])}" if one["kept"] else f"**{kept} of {len(one['promises'])}**"
        yield f"| {one['number']} | {one['about']} | {' | '.join(cells)} | {said} | {one['seconds']:.0f} |"
    yield ""
    for one in told["scenarios"]:
        yield from _details(one)
    for one in told["scenarios"]:
        yield from _broken(one)


def _details(one: Mapping[str, Any]) -> Iterator[str]:
    shown = {
        name: value
        for name, value in one["figures"].items()
        if not isinstance(value, list) and not (name in _QUIET and value == 0)
    }
    yield f"- {one['number']} {one['name']}: " + ", ".join(f"{name} {value}" for name, value in shown.items())
    for rows in (value for value in one["figures"].values() if isinstance(value, list)):
        yield ""
        yield from _rows(rows)
        yield ""


def _rows(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield "| " + " | ".join(rows[0]) + " |"
    yield "|---" * len(rows[0]) + "|"
    for row in rows:
        yield "| " + " | ".join("" if value is None else str(value) for value in row.values()) + " |"


def _broken(one: Mapping[str, Any]) -> Iterator[str]:
    if one["fault"]:
        yield f"- BROKEN {one['number']} {one['name']}: it did not come to its end"
        yield from ("      " + line for line in one["fault"].splitlines()[-25:])
    for promise in one["promises"]:
        if not promise["kept"]:
            yield f"- BROKEN {one['number']} {one['name']}: {promise['said']}: {promise['found']}"
