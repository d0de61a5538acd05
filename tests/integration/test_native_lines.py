"""Jobs as lines of a batch (`/v1/jobs`): whatever a job may be, a line may be, and its answer is that job."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import closing
from io import StringIO
from pathlib import Path
from typing import Any

import openai
import pytest

from api.cli.batch_run import BatchRun, Terms
from api.cli.client import Client
from api.cli.fault import CliFault, Exit
from api.cli.lines import Line
from api.cli.progress import Progress
from api.cli.results import Output
from api.cli.screen import Screen
from tests.support import scripted_provider as script
from tests.support.batches import both, jsonl, line, made, until, uploaded
from tests.support.scripted_provider import Received, Script, ScriptedProvider
from tests.support.wait import wait_until
from tests.support.web import _FILE, Web, web
from worker.services.batches.endpoints import NATIVE
from worker.services.batches.lines import hold_nano, read
from worker.webhooks import guard as guards

# $1 a million tokens in, $10 out.
MORE = """
[providers.stub.models.scripted]
price = {{ input = 1, output = 10 }}

[panels.three]
members = ["stub", "stub", "stub"]
"""


def _answer(request: Received) -> Script:
    said = json.dumps(request.json["messages"])
    if "fail" in said:
        return script.error(503, "gone for lunch")
    vote = {"answer": True, "confidence": 0.9, "rationale": "So it is."}
    return script.chat(json.dumps(vote) if "Is it so?" in said else "fine")


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    with ScriptedProvider() as started:
        started.always(_answer)
        yield started


@pytest.fixture
def receiver() -> Iterator[ScriptedProvider]:
    with ScriptedProvider() as started:
        started.always(script.reply(204))
        yield started


@pytest.fixture
def site(
    database_url: str, tmp_path: Path, provider: ScriptedProvider, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Web]:
    monkeypatch.setattr("tests.support.web._FILE", _FILE + MORE)
    private = {"COMPLETAR_SECRET_KEY": "k" * 32, "COMPLETAR_PRIVATE_NETWORKS": "127.0.0.0/8"}
    with web(database_url, tmp_path, provider, COMPLETAR_POLL_S="0.2", **private) as made_site:
        yield made_site


@pytest.fixture
def client(site: Web) -> Iterator[openai.OpenAI]:
    with site.served() as served, openai.OpenAI(base_url=f"{served}/v1", api_key=site.key) as one:
        yield one


def native(number: int, **body: Any) -> dict[str, Any]:
    return {"custom_id": f"n{number}", "method": "POST", "url": NATIVE, "body": body}


def prompt(text: str) -> dict[str, str]:
    return {"prompt": text}


QUESTION = {"question": "Is it so?", "answer": {"type": "boolean"}, "panel": "three"}


def test_a_job_of_any_kind_is_a_line_and_its_answer_is_that_job(
    site: Web, client: openai.OpenAI, receiver: ScriptedProvider
) -> None:
    hook = {"url": f"{receiver.url}/hook", "events": ["job.completed"]}
    lines = [
        native(1, input=prompt("hi"), metadata={"a": "b"}, priority=2, webhook=hook, lane="interactive"),
        native(2, input=prompt("fail"), max_attempts=1, on_interruption="fail", priority=-1),
        native(3, kind="prediction", input=QUESTION),
    ]
    batch = made(client, jsonl(lines), endpoint=NATIVE, extra_body={"priority": 1})
    with site.working():
        done = until(client, batch.id)
        wait_until(lambda: receiver.requests, "the line's webhook")
    output, errors = both(client, done)
    first, vote = (one["response"]["body"] for one in output)
    assert (first["object"], first["status"], first["result"]["text"]) == ("job", "completed", "fine")
    assert (first["metadata"], first["priority"], first["lane"]) == ({"a": "b"}, 2, "batch")
    assert (first["batch_id"], vote["kind"], len(vote["result"]["votes"])) == (batch.id, "prediction", 3)
    (failed,) = errors
    job = failed["response"]["body"]
    assert (failed["response"]["status_code"], job["status"], job["error"]["kind"]) == (503, "failed", "overloaded")
    assert (job["attempts"], job["on_interruption"], job["priority"]) == (1, "fail", 0)
    assert site.get(f"/v1/jobs/{job['id']}").json == job, "as it is read by its id"
    assert json.loads(receiver.requests[0].body)["data"]["id"] == first["id"]
    assert len(receiver.requests) == 1


def test_a_faulty_job_names_its_line_and_its_field(client: openai.OpenAI, site: Web) -> None:
    lines = [
        native(1, input={"prompt": "x", "temperature": 9}),
        native(2, input=prompt("x"), kind="poem"),
        native(3, kind="prediction", input={**QUESTION, "panel": "four"}),
        native(4, kind="prediction", input={**QUESTION, "panel": ["nobody"]}),
        native(5, input=prompt("x"), webhook={"url": "http://10.0.0.1/x"}),
        native(6, input={"messages": [{"role": "user", "content": [_picture("http://169.254.169.254/x")]}]}),
        native(7, input=prompt("fine")),
    ]
    with site.working():
        failed = until(client, made(client, jsonl(lines), endpoint=NATIVE).id, "failed")
    found = {error.line: (error.code, error.message) for error in failed.errors.data}
    picture = "body.input.messages[0].content[0].image_url"
    assert set(found) == {1, 2, 3, 4, 5, 6}
    assert "body.input.temperature must be" in found[1][1]
    assert "must be completion, embedding or prediction" in found[2][1]
    assert "body.input.panel names no panel of the settings" in found[3][1]
    assert found[4][0] == "model_not_found"
    assert "body.webhook.url" in found[5][1]
    assert found[6][1].startswith(f"{picture} leads to an address")
    assert next(error.param for error in failed.errors.data if error.line == 6) == picture


def _picture(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def test_pictures_of_lines_in_openai_s_words_are_judged_too(client: openai.OpenAI, site: Web) -> None:
    asked = line(1)
    asked["body"]["messages"][0]["content"] = [_picture("http://169.254.169.254/latest")]
    with site.working():
        failed = until(client, made(client, jsonl([asked])).id, "failed")
    assert [(error.line, error.param) for error in failed.errors.data] == [(1, "body.messages[0].content[0].image_url")]


def test_a_webhook_of_a_line_needs_a_key(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guards.Lookups, "ask", lambda *_: pytest.fail("nobody is looked up"))
    with (
        web(database_url, tmp_path) as bare,
        bare.served() as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key=bare.key) as one,
    ):
        lines = [native(1, input=prompt("x"), webhook={"url": "https://hooks.example.com/x"})]
        batch = made(one, jsonl(lines), endpoint=NATIVE)
        with bare.working():
            (error,) = until(one, batch.id, "failed").errors.data
    assert "no key to encrypt its secret" in error.message


def test_a_receiver_whose_name_does_not_resolve_is_looked_up_once_for_a_file(
    site: Web, client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def hangs(_lookups: guards.Lookups, host: str, _port: int) -> Future[Sequence[str]]:
        asked.append(host)
        return Future()

    monkeypatch.setattr(guards.Lookups, "ask", hangs)
    monkeypatch.setattr(guards, "WITHIN_S", 0.05)
    hooks = [{"url": f"https://hooks.dead.example/{n}"} for n in range(20)]
    lines = [native(n, input=prompt("x"), webhook=hook) for n, hook in enumerate(hooks, 1)]
    lines.append(native(21, input=prompt("x"), webhook={"url": "https://10.0.0.1/x"}))
    with site.working():
        failed = until(client, made(client, jsonl(lines), endpoint=NATIVE).id, "failed")
    assert [(error.line, error.param) for error in failed.errors.data] == [(21, "body.webhook.url")]
    assert asked == ["hooks.dead.example."]


def test_a_panel_may_cost_what_all_its_seats_may(site: Web, client: openai.OpenAI) -> None:
    catalog, panels = site.deps.catalog, site.deps.settings.panels

    def most(body: dict[str, Any]) -> int:
        raw = json.dumps(native(1, **body)).encode()
        return hold_nano(catalog, read((1, raw), NATIVE, catalog.resolve, panels), 400)

    question = {**QUESTION, "panel": ["stub"], "parameters": {"max_tokens": 100}}
    single = most({"kind": "prediction", "input": question})
    assert most({"kind": "prediction", "input": {**question, "panel": "three"}}) == 3 * single > 0
    judged = {**question, "panel": "three", "consensus": {"method": "judge", "judge": "stub"}}
    assert most({"kind": "prediction", "input": judged}) == 4 * single
    # 100 tokens in for $1 a million, and as many out for $10 as the caller lets each of them have, or 1,024.
    for parameters, out in (({"max_tokens": 100}, 100), ({"max_completion_tokens": 30_000}, 30_000), ({}, 1024)):
        bounded = {**question, "parameters": parameters}
        assert most({"kind": "prediction", "input": bounded}) == 100 * 1_000 + out * 10_000
    long = {**QUESTION, "parameters": {"max_tokens": 30_000}}
    file_id = uploaded(client, jsonl([native(1, kind="prediction", input=long), native(2, input=prompt("x"))]))
    told = site.post("/v1/batches/estimate", {"input_file_id": file_id, "endpoint": NATIVE}).json
    assert (told["lines"], told["faulty"], sum(one["lines"] for one in told["models"])) == (2, 0, 4)
    assert sum(one["output_tokens"] for one in told["models"]) == 3 * 30_000 + 1024


def test_a_run_with_a_bound_says_whose_price_is_not_known(
    database_url: str, tmp_path: Path, provider: ScriptedProvider
) -> None:
    lines = [Line(2, "a", {"input": {"prompt": "x"}})]
    with (
        web(database_url, tmp_path, provider) as dear,
        dear.working(),
        dear.served() as url,
        closing(Client(url, dear.key, Screen())) as asking,
    ):
        output, terms = Output(StringIO()), Terms(max_cost=1.0)
        with pytest.raises(CliFault, match="the price of stub/scripted is not known") as refused:
            BatchRun(asking, Screen(), output, Progress(Screen()), lambda: lines, terms).run()
    assert refused.value.code is Exit.USAGE
    assert refused.value.message.startswith("line 2: ")
    assert provider.requests == []
