"""A real inference engine as the provider: its tokens, its window, its refusals and its death, through all that we are.

Anybody can repeat it, with no key and no model to download. With llama.cpp's `llama-server` on PATH:

    python3 run.py test tests/e2e/test_real_engine.py

or with transformers, in a Python of its own (1 to 2 GB on disk with a build of torch for the processor alone):

    python3 -m venv ENGINE
    ENGINE/bin/pip install torch "transformers[serving]>=5"
    TEST_ENGINE_PYTHON=ENGINE/bin/python python3 run.py test tests/e2e/test_real_engine.py

Where both are found, both are tried. The model is tiny and random (tests/support/tiny_model.py): what it says is noise
full of broken characters, always as long as it may be, and with temperature 0 always the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any, Final

import httpx
import openai
import pytest

from tests.support.engine import KEY as ENGINE_KEY
from tests.support.engine import KINDS, Engine, found
from tests.support.parts import PartMissing
from tests.support.processes import Processes
from tests.support.wait import wait_until
from worker.domain.failure import FailureKind

pytestmark = pytest.mark.slow

_KEY: Final = "ck_for-the-tests-with-a-real-engine"
_LIMIT_S: Final = 40
_CONFIG: Final = """
[providers.engine]
base_url = "{engine.base_url}"
api_keys = ["ENGINE_KEY"]
label = "An engine of our own"
limits = {{ concurrency = 2 }}

[providers.stranger]
base_url = "{engine.base_url}"
api_keys = ["STRANGERS_KEY"]

[routes.default]
targets = ["engine/{engine.model}", "sandbox/echo"]
backoff = {{ base_s = 0.01, cap_s = 0.05 }}

[routes.alone]
targets = ["engine/{engine.model}"]
"""


class Site:
    """Completar as its users have it: over HTTP, and by nothing else."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._http = httpx.Client(
            base_url=url, headers={"Authorization": f"Bearer {_KEY}"}, timeout=_LIMIT_S, trust_env=False
        )

    def close(self) -> None:
        self._http.close()

    def run(self, prompt: str, **more: Any) -> Any:
        """One job, ended."""
        return self.ended(self.submit([prompt], **more))[0]

    def submit(self, prompts: Sequence[str], max_tokens: int = 16, **more: Any) -> list[str]:
        lines = [
            json.dumps({"input": {"prompt": prompt, "max_tokens": max_tokens, "temperature": 0}, **more})
            for prompt in prompts
        ]
        headers = {"Content-Type": "application/x-ndjson"}
        answer = self._http.post("/v1/jobs/bulk", content="\n".join(lines), headers=headers)
        assert answer.status_code == 202, answer.text
        return [job["id"] for job in answer.json()["data"]]

    def job(self, job_id: str) -> Any:
        return self._get(f"/v1/jobs/{job_id}")

    def attempts(self, job_id: str) -> Any:
        return self._get(f"/v1/jobs/{job_id}/attempts")["data"]

    def ended(self, ids: Sequence[str]) -> list[Any]:
        wait_until(lambda: self.count("queued") + self.count("in_progress") == 0, "the end of all jobs", _LIMIT_S)
        return [self.job(job_id) for job_id in ids]

    def count(self, status: str) -> int:
        return len(self._get("/v1/jobs", status=status, limit=100)["data"])

    def _get(self, path: str, **query: Any) -> Any:
        return self._http.get(path, params=query).raise_for_status().json()


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind.name)
def _engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    try:
        kinds = found()
    except PartMissing as missing:
        pytest.skip(str(missing))
    if request.param not in kinds:
        pytest.skip(f"this machine has {', '.join(kind.name for kind in kinds)} instead")
    with closing(Engine(request.param, tmp_path_factory.mktemp("engine"))) as engine:
        yield engine


@pytest.fixture
def engine(_engine: Engine) -> Engine:
    """Running, whatever the last test did to it."""
    return _engine.start()


@pytest.fixture
def env(engine: Engine, tmp_path: Path) -> dict[str, str]:
    config = tmp_path / "completar.toml"
    config.write_text(_CONFIG.format(engine=engine), encoding="utf-8")
    return {
        "COMPLETAR_CONFIG": str(config),
        "COMPLETAR_DATA_DIR": str(tmp_path / "data"),
        "COMPLETAR_API_KEY": _KEY,
        "COMPLETAR_SANDBOX": "on",
        "ENGINE_KEY": ENGINE_KEY,
        "STRANGERS_KEY": "not-a-key-of-the-engine",
    }


@pytest.fixture
def site(processes: Processes, env: dict[str, str]) -> Iterator[Site]:
    _, url = processes.up(env)
    with closing(Site(url)) as opened:
        yield opened


def test_the_official_client_gets_what_the_engine_says(site: Site, engine: Engine) -> None:
    asked: dict[str, Any] = {
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why is the sky blue?"}],
        "max_tokens": 24,
        "temperature": 0,
    }
    with openai.OpenAI(base_url=f"{site.url}/v1", api_key=_KEY, max_retries=0) as client:
        got = client.chat.completions.create(model="default", **asked)
    said = engine.chat(**asked)
    assert got.usage is not None
    assert got.choices[0].message.content == said["choices"][0]["message"]["content"]
    assert got.choices[0].finish_reason == "length"
    assert got.model == said["model"]
    assert got.usage.completion_tokens == 24
    assert got.usage.prompt_tokens == said["usage"]["prompt_tokens"] > len("Be brief.Why is the sky blue?")


def test_a_job_keeps_what_the_engine_counted(site: Site, engine: Engine) -> None:
    job = site.run("hello")
    said = engine.chat(messages=[{"role": "user", "content": "hello"}], max_tokens=16, temperature=0)
    assert (job["status"], job["attempts"]) == ("completed", 1)
    assert job["result"]["text"] == said["choices"][0]["message"]["content"]
    assert job["result"]["finish_reason"] == "length"
    assert job["usage"]["input_tokens"] == said["usage"]["prompt_tokens"]
    assert job["usage"]["output_tokens"] == 16
    assert job["served_by"] == {"provider": "engine", "label": "An engine of our own", "model": said["model"]}
    (attempt,) = site.attempts(job["id"])
    assert (attempt["state"], attempt["http_status"], attempt["usage"]) == ("answered", 200, job["usage"])
    assert 0 < attempt["first_byte_s"] <= attempt["total_s"]


@pytest.mark.parametrize(
    ("what", "model", "prompt"),
    [
        ("unknown model", "engine/never-heard-of", "hello"),
        ("prompt too long", "alone", "too long " * 300),
        ("wrong key", "stranger/{engine.model}", "hello"),
    ],
)
def test_what_it_refuses_is_a_failure_with_a_name(
    site: Site, engine: Engine, what: str, model: str, prompt: str
) -> None:
    kind: FailureKind | None = engine.kind.refuses[what]
    job = site.run(prompt, model=model.format(engine=engine), max_attempts=2)
    if kind is None:
        assert job["status"] == "completed", "it takes any"
        return
    assert (job["status"], job["error"]["kind"]) == ("failed", kind.value)
    assert prompt not in job["error"]["message"]
    assert {one["kind"] for one in site.attempts(job["id"])} == {kind.value}
    assert site.run("hello", model="alone")["status"] == "completed", "it goes on serving"


def test_a_batch_of_twenty_lines_ends(site: Site) -> None:
    jobs = site.ended(site.submit([f"line {i}" for i in range(20)]))
    assert [(job["status"], job["lane"]) for job in jobs] == [("completed", "batch")] * 20
    assert [job["served_by"]["provider"] for job in jobs] == ["engine"] * 20
    assert [job["usage"]["output_tokens"] for job in jobs] == [16] * 20
    assert len({job["result"]["text"] for job in jobs}) > 1


def test_killed_in_mid_run_the_rest_goes_to_the_next_target(site: Site, engine: Engine) -> None:
    ids = site.submit([f"line {i}" for i in range(40)], max_tokens=300)
    wait_until(lambda: site.count("completed") >= 3, "the first answers", _LIMIT_S)
    engine.kill()
    jobs = site.ended(ids)
    assert {job["status"] for job in jobs} == {"completed"}
    before, after = ([job for job in jobs if job["served_by"]["provider"] == by] for by in ("engine", "sandbox"))
    assert len(before) >= 3
    assert len(before) + len(after) == 40
    assert {job["usage"]["output_tokens"] for job in before} == {300}
    courses = [[(one["provider"], one["state"], one["kind"]) for one in site.attempts(job["id"])] for job in after]
    assert ("engine", "failed", "connection") in courses[0], "the first of them was asked for in vain"
    for *tries, last in courses:
        assert last == ("sandbox", "answered", None)
        # Passed over without a call, once enough calls have shown that nobody is there.
        assert all(provider == "engine" for provider, _, _ in tries)
        assert {(state, kind) for _, state, kind in tries} <= {("failed", "connection"), ("skipped", "overloaded")}


_ODD: Final = (
    *"\x00\x01\x07\t\n\r\x1b\x7f\x85\xa0\xad",
    *"\u0301\u200b\u200d\u202e\u2028\u2029\ufeff\ufffd\ufffe\ue000",
    *"ñ¿ßİıǆ語のعשไ𝔘🧑🏽‍🚀🇵🇪\U0010ffff",
    *('"', "'", "\\", "{}", "<|im_end|>", "%s", "</script>", "\\u0000", "ho"),
)


@pytest.mark.parametrize("store", ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def test_odd_characters_go_there_and_come_back(
    store: str, request: pytest.FixtureRequest, processes: Processes, env: dict[str, str], engine: Engine
) -> None:
    random = Random(7)
    prompts = ["".join(random.choices(_ODD, k=20)) for _ in range(12)]
    if store == "postgres":
        env["DATABASE_URL"] = request.getfixturevalue("postgres_url")
    _, url = processes.up(env)
    with closing(Site(url)) as site:
        jobs = site.ended(site.submit(prompts, max_tokens=40, model="alone"))
    said = [
        engine.chat(messages=[{"role": "user", "content": prompt}], max_tokens=40, temperature=0) for prompt in prompts
    ]
    assert [job["result"]["text"] for job in jobs] == [one["choices"][0]["message"]["content"] for one in said]
    # As many tokens as the engine counts when asked directly: the prompt went there letter by letter.
    assert [job["usage"]["input_tokens"] for job in jobs] == [one["usage"]["prompt_tokens"] for one in said]
    assert any(not character.isprintable() for job in jobs for character in job["result"]["text"])
