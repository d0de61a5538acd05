"""A web server with a provider that has a price, and the official client of it: what tests of paid batches stand on.

The fixtures are imported by the functions' names (`a_provider`, `a_site`, `a_client`) and asked for by their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import openai
import pytest

from tests.support import scripted_provider as script
from tests.support.scripted_provider import Received, Script, ScriptedProvider
from tests.support.web import _FILE, Web, web

# $1 a million tokens in, $10 a million out: an answer of 100 and 50 tokens costs $0.0006.
PRICES: Final = "\n[providers.stub.models.scripted]\nprice = {{ input = 1, output = 10 }}\n"
COST: Final = 0.0006


def echo(request: Received) -> Script:
    """A question that has `fail` in it is refused."""
    if "input" in request.json:
        return script.embeddings([[0.5, -0.5]] * len(request.json["input"]))
    said = request.json["messages"][-1]["content"]
    if "fail" in said:
        return script.error(400, "no such thing", code="content_filter")
    return script.chat(f"re: {said}", tokens=(100, 50))


@pytest.fixture(name="provider")
def a_provider() -> Iterator[ScriptedProvider]:
    with ScriptedProvider() as started:
        started.always(echo)
        yield started


@pytest.fixture(name="site")
def a_site(
    database_url: str, tmp_path: Path, provider: ScriptedProvider, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Web]:
    monkeypatch.setattr("tests.support.web._FILE", _FILE + PRICES)
    with web(database_url, tmp_path, provider, COMPLETAR_LOG_LEVEL="error") as made:
        yield made


@pytest.fixture(name="client")
def a_client(site: Web) -> Iterator[openai.OpenAI]:
    with site.served() as served, openai.OpenAI(base_url=f"{served}/v1", api_key=site.key) as made:
        yield made
