"""An endpoint is resumed before a batch and sent to sleep after it, against a scripted management API."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from api.cli.awake import awake
from api.cli.fault import CliFault, Exit
from api.cli.screen import Screen
from tests.support.payloads import load
from tests.support.scripted_provider import ScriptedProvider, reply

BODY = next(case["body"] for case in load("hf_endpoints_api") if case["case"] == "get_paused")


def in_state(state: str) -> Any:
    return reply(json_body={**BODY, "status": {**BODY["status"], "state": state}})


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedProvider]:
    monkeypatch.setenv("HUGGINGFACE_API_KEY", "hf_secret0123456789")
    with ScriptedProvider() as scripted:
        yield scripted


def asked(api: ScriptedProvider) -> list[str]:
    return [f"{r.method} {r.path.removeprefix('/endpoint/ana/me')}" for r in api.requests]


def test_a_paused_one_is_resumed_waited_for_and_put_to_sleep(api: ScriptedProvider) -> None:
    api.queue(*map(in_state, ("paused", "initializing", "initializing", "initializing", "running", "scaledToZero")))
    with awake(Screen(), "ana/me", api.url, then_sleep=True, look_s=0.001):
        before = asked(api)
    assert before == ["GET ", "POST /resume", "GET ", "GET ", "GET "]
    assert asked(api)[len(before) :] == ["POST /scale-to-zero"]


@pytest.mark.parametrize(("state", "looks"), [("running", 1), ("scaledToZero", 1), ("updating", 1)])
def test_one_that_serves_or_sleeps_needs_nothing(api: ScriptedProvider, state: str, looks: int) -> None:
    api.always(in_state(state))
    with awake(Screen(), "ana/me", api.url, then_sleep=False, look_s=0.001):
        pass
    assert asked(api) == ["GET "] * looks


def test_one_that_failed_ends_the_batch_before_it_begins(api: ScriptedProvider) -> None:
    api.always(in_state("failed"))
    with pytest.raises(CliFault, match="will not serve"), awake(Screen(), "ana/me", api.url, then_sleep=True):
        pytest.fail("the batch began")
    assert asked(api) == ["GET "]


def test_an_interrupted_batch_leaves_it_up(api: ScriptedProvider) -> None:
    api.always(in_state("running"))
    with pytest.raises(KeyboardInterrupt), awake(Screen(), "ana/me", api.url, then_sleep=True):
        raise KeyboardInterrupt
    assert asked(api) == ["GET "]


def test_without_an_endpoint_nothing_is_asked_and_a_wrong_name_is_told(api: ScriptedProvider) -> None:
    with awake(Screen(), None, api.url, then_sleep=True):
        pass
    with pytest.raises(CliFault) as told, awake(Screen(), "just-a-name", api.url, then_sleep=True):
        pytest.fail("the batch began")
    assert told.value.code is Exit.USAGE
    assert api.requests == []
