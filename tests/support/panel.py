"""A station with five providers of its own for each seat of a panel, all of them one scripted server."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from tests.support import scripted_provider as script
from tests.support.scripted_provider import Received, Script, ScriptedProvider
from tests.support.station import Station
from worker.domain.failure import Lane
from worker.domain.panel import Place
from worker.domain.question import AnswerSpec
from worker.services.ask import Asked, panel_of
from worker.services.submit import JobRequest, submit

NAMES: Final = ("a", "b", "c", "d", "e")
PANEL: Final = tuple(f"{name}/model-{name}" for name in NAMES)
SPARE: Final = "spare/model-s"
QUESTION: Final = "Will it rain in Lima tomorrow?"
BOOLEAN: Final = AnswerSpec("boolean")
PRICE: Final = "price = { input = 1, output = 10 }"

Says = Script | Callable[[], Script]


def tables(url: str, names: tuple[str, ...] = (*NAMES, "spare")) -> str:
    """Below the default route: a provider for each seat, with a price."""
    return "\n".join(
        f'[providers.{name}]\nformat = "openai"\nbase_url = "{url}/{name}/v1"\nlabel = "{name.upper()}"\n'
        f"[providers.{name}.models.model-{name[0]}]\n{PRICE}"
        for name in names
    )


def says(answer: Any, confidence: float | None = None, *, abstain: bool = False, **rest: Any) -> Script:
    """A member's answer in the asked form."""
    said = {"rationale": f"because {answer}", "abstain": abstain, "answer": answer, "confidence": confidence}
    return script.chat(json.dumps(said), **{"tokens": (100, 50), **rest})


COST: Final = 600_000  # nano-dollars of such an answer


def by_name(scripts: Mapping[str, Says], otherwise: Says | None = None) -> Callable[[Received], Script]:
    """Scripts by provider; a list is gone through call by call, and its last stays."""

    def answer(received: Received) -> Script:
        name = received.path.split("/")[1]
        chosen = scripts.get(name, otherwise)
        assert chosen is not None, f"nobody told what {name} says"
        return chosen() if callable(chosen) else chosen

    return answer


def in_turn(*scripts: Script) -> Callable[[], Script]:
    """One after the other; the last stays."""
    rest = list(scripts)
    return lambda: rest.pop(0) if len(rest) > 1 else rest[0]


def held(answer: Script) -> tuple[script.Hold, Script]:
    hold = script.Hold()
    return hold, replace(answer, hold=hold)


def asked(*, answer: AnswerSpec = BOOLEAN, panel: Any = PANEL, **rest: Any) -> Asked:
    places = None if panel is None else [Place(one, (one,)) if isinstance(one, str) else one for one in panel]
    return Asked(QUESTION, answer, panel=places, **rest)


def put(station: Station, one: Asked, *, lane: Lane = Lane.INTERACTIVE, **rest: Any) -> str:
    """Store a prediction; its id."""
    panel = panel_of(station.deps.settings.panels, one)
    request = JobRequest("prediction", panel.models, panel.stored(), lane=lane, **rest)
    return submit(station.deps, station.project_id, [request]).ids[0]


def station_for(
    stack: ExitStack, database_url: str, provider: ScriptedProvider, folder: Path, more: str = "", **env: Any
) -> Station:
    config = f"{tables(provider.url)}\n{more}"
    return stack.enter_context(closing(Station(database_url, provider, folder, more=config, **env)))


def calls(provider: ScriptedProvider) -> list[str]:
    """Who was asked, in the order of arrival."""
    return [received.path.split("/")[1] for received in provider.requests]
