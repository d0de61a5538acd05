"""Which lines ask the same: all that is sent counts, and where it may go; names and notes do not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import pytest

from worker.domain.batch import age_s
from worker.providers.catalog import Catalog, check
from worker.services.batches import lines
from worker.services.batches.digest import digest

CHAT: Final = "/v1/chat/completions"
_FILE: Final = """
[providers.a]
base_url = "http://127.0.0.1:9/v1"
default_model = "m"

[providers.b]
base_url = "http://127.0.0.1:9/v1"
default_model = "m"

[routes.default]
targets = [{targets}]
"""
BODY: Final[dict[str, Any]] = {
    "model": "default",
    "messages": [{"role": "user", "content": "¿hi?"}],
    "temperature": 0.5,
}
SCHEMA: Final = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"a": 1, "b": 2}}}
TURNED: Final = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"b": 2, "a": 1}}}


def _catalog(folder: Path, targets: str) -> Catalog:
    file = folder / "completar.toml"
    file.write_text(_FILE.format(targets=targets), encoding="utf-8")
    return check({}, file)[1]


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return _catalog(tmp_path, '"a"')


def _digest(catalog: Catalog, body: dict[str, Any], project: str = "proj_a", custom_id: str = "x") -> str:
    line = {"custom_id": custom_id, "method": "POST", "url": CHAT, "body": body}
    read = lines.read((1, json.dumps(line).encode()), CHAT, catalog.resolve)
    return digest(catalog, project, CHAT, read.request)


@pytest.mark.parametrize(
    "same",
    [
        dict(reversed(BODY.items())),
        {**BODY, "messages": [{"content": "¿hi?", "role": "user"}]},
        {**BODY, "metadata": {"row": "7"}},
        {**BODY, "top_p": None},
    ],
)
def test_what_asks_the_same(catalog: Catalog, same: dict[str, Any]) -> None:
    found = _digest(catalog, same, custom_id="another")
    assert found == _digest(catalog, BODY)
    assert len(found) == 40


@pytest.mark.parametrize(
    "other",
    [
        {**BODY, "temperature": 0.6},
        {**BODY, "seed": 1},
        {**BODY, "something_new": {"x": 1}},
        {**BODY, "model": "a"},
        {**BODY, "models": ["b"]},
        {**BODY, "max_cost": 1},
        {**BODY, "deadline_s": 10},
        {**BODY, "messages": [*BODY["messages"], {"role": "user", "content": "more"}]},
    ],
)
def test_what_asks_something_else(catalog: Catalog, other: dict[str, Any]) -> None:
    assert _digest(catalog, other) != _digest(catalog, BODY)


def test_the_order_of_a_schema_is_read_by_models(catalog: Catalog) -> None:
    found = {_digest(catalog, {**BODY, "response_format": one}) for one in (SCHEMA, TURNED)}
    assert len(found) == 2


def test_another_project_or_a_route_that_leads_elsewhere_is_something_else(catalog: Catalog, tmp_path: Path) -> None:
    mine = _digest(catalog, BODY)
    assert _digest(catalog, BODY, project="proj_b") != mine
    assert _digest(_catalog(tmp_path, '"b"'), BODY) != mine


def test_ages() -> None:
    told = {"30m": 1800, "12h": 43_200, "7d": 604_800, "365d": 31_536_000, "366d": None, "0d": None}
    assert {text: age_s(text) for text in told} == told
    assert [age_s(text) for text in ("", "7", "d", "7w", " 7d", "7d\n", "-1d", "999999d")] == [None] * 8
