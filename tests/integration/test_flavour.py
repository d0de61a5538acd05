"""An endpoint whose flavour nobody declared is asked once what it is."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support import scripted_provider as script
from tests.support.scripted_provider import Received, Script, ScriptedProvider
from worker.providers import catalog
from worker.services.flavour import discovered
from worker.settings import load

KEY = {"HUGGINGFACE_API_KEY": "hf_canary0123456789", "COMPLETAR_SANDBOX": "off"}
TEI = {"model_id": "x", "model_type": {"embedding": {}}, "max_client_batch_size": 32, "max_input_length": 512}
TGI = {"model_id": "x", "max_total_tokens": 4096, "router": "text-generation-router"}


def answering(**by_path: Any) -> Any:
    def answer(request: Received) -> Script:
        found = by_path.get(request.path.rpartition("/")[2])
        return script.reply(json_body=found) if found is not None else script.reply(404, body="Not Found")

    return answer


@pytest.mark.parametrize(
    ("answer", "flavour", "wire"),
    [
        (answering(models={"object": "list", "data": [{"id": "m"}]}), "openai", "hf-openai"),
        (answering(info=TEI), "tei", "tei"),
        (answering(info=TGI), "tgi", "hf-openai"),
        (answering(), None, "hf-handler"),
        (lambda _: script.error(503, "starting"), None, "hf-handler"),
        (lambda _: script.reset(), None, "hf-handler"),
        (lambda _: script.reply(body="<html>"), None, "hf-handler"),
    ],
)
def test_it_is_told_from_what_it_answers(answer: Any, flavour: str | None, wire: str) -> None:
    with ScriptedProvider() as endpoint:
        endpoint.always(answer)
        settings = discovered(load({**KEY, "HUGGINGFACE_ENDPOINT_URL": endpoint.url}))
        assert all(r.headers["authorization"] == "Bearer hf_canary0123456789" for r in endpoint.requests)
        assert 1 <= len(endpoint.requests) <= 2
    assert settings.endpoint is not None
    assert settings.endpoint.flavour == flavour
    assert catalog.build(settings).providers["huggingface"].format == wire


@pytest.mark.parametrize("more", [{"HUGGINGFACE_ENDPOINT_FLAVOUR": "vllm"}, {}])
def test_a_declared_one_is_not_asked(more: dict[str, str]) -> None:
    with ScriptedProvider() as endpoint:
        url = endpoint.url if more else endpoint.base_url
        given = load({**KEY, "HUGGINGFACE_ENDPOINT_URL": url, **more})
        assert discovered(given) is given
        assert endpoint.requests == []


def test_without_an_endpoint_nobody_is_asked() -> None:
    given = load(KEY)
    assert discovered(given) is given
