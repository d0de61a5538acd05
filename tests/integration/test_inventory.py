"""`completar providers check` against scripted providers of each family."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support import scripted_provider as script
from tests.support.scripted_provider import ScriptedProvider
from worker.providers import catalog
from worker.providers.listing import Listed, build_listing, read_listing
from worker.services.inventory import check
from worker.settings import load

LISTS: dict[str, Any] = {
    "openai": {"object": "list", "data": [{"id": "m"}, {"id": "old", "shutdown_date": "2026-12-11"}]},
    "anthropic": {"data": [{"type": "model", "id": "m"}], "has_more": False},
    "gemini": {"models": [{"name": "models/m", "version": "1"}]},
}


def configured(tmp_path: Any, provider: ScriptedProvider, format_name: str, *models: str) -> catalog.Catalog:
    path = tmp_path / "c.toml"
    targets = ", ".join(f'"p/{model}"' for model in models)
    path.write_text(
        f'[providers.p]\nformat = "{format_name}"\nbase_url = "{provider.url}/v1"\napi_keys = ["P_KEY"]\n'
        f"[routes.default]\ntargets = [{targets}]\n"
    )
    return catalog.build(load({"P_KEY": "k-1234567890", "COMPLETAR_SANDBOX": "off"}, path))


@pytest.mark.parametrize("format_name", LISTS)
def test_a_model_that_is_listed_is_there_and_one_that_is_not_is_gone(tmp_path: Any, format_name: str) -> None:
    with ScriptedProvider() as provider:
        provider.always(script.reply(json_body=LISTS[format_name]))
        found = check(configured(tmp_path, provider, format_name, "m", "m:cheapest", "retired"))
        assert [(f.model, f.verdict) for f in found] == [("m", "there"), ("m:cheapest", "there"), ("retired", "gone")]
        (request,) = provider.requests
    assert request.method == "GET"
    assert "k-1234567890" not in request.path
    assert "k-1234567890" in " ".join(request.headers.values())


def test_an_end_that_the_provider_announces_is_told(tmp_path: Any) -> None:
    with ScriptedProvider() as provider:
        provider.always(script.reply(json_body=LISTS["openai"]))
        (found,) = check(configured(tmp_path, provider, "openai", "old"))
    assert (found.verdict, found.note) == ("ending", "it goes away on 2026-12-11")


@pytest.mark.parametrize("answer", [script.error(401, "no"), script.reply(body="<html>"), script.reset()])
def test_a_provider_that_cannot_be_asked_makes_its_models_unknown(tmp_path: Any, answer: Any) -> None:
    with ScriptedProvider() as provider:
        provider.always(answer)
        (found,) = check(configured(tmp_path, provider, "openai", "m"))
    assert found.verdict == "unknown"
    assert found.note


@pytest.mark.parametrize(
    "body", [b"", b"null", b"[]", b'{"data": 5}', b'{"data": [null, 5, {}, {"id": 7}, {"id": "a"}]}']
)
def test_any_body_is_read_without_an_error(body: bytes) -> None:
    found = read_listing(body)
    assert found is None or found in ([], [Listed("a")])


def test_a_server_of_one_model_is_not_asked() -> None:
    assert build_listing("tei", "http://127.0.0.1:1", None) is None
