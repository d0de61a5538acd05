"""A job for a server of one task: what its `input` may say, and what it may not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.web import Web, web


@pytest.fixture
def site(sqlite_url: str, tmp_path: Path) -> Iterator[Web]:
    with web(sqlite_url, tmp_path) as made:
        yield made


@pytest.mark.parametrize(
    "given",
    [
        {"inputs": "I love it", "task": "text-classification"},
        {"inputs": {"question": "Who?", "context": "Ana."}, "parameters": {"top_k": 1}},
        {"inputs": ["a", "b"]},
        {"query": "rivers", "texts": ["a lake", "the Amazon"]},
    ],
)
def test_a_task_is_taken(site: Web, given: dict[str, Any]) -> None:
    answer = site.post("/v1/jobs", {"input": given})
    assert answer.status_code == 202, answer.text


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"query": "rivers"}, "input.texts"),
        ({"texts": ["a"]}, "input.query"),
        ({"inputs": "x", "prompt": "y"}, "input.prompt"),
        ({"inputs": "x", "task": "Not A Task"}, "input.task"),
        ({"query": "q", "texts": []}, "input.texts"),
    ],
)
def test_what_says_too_little_or_too_much_is_named(site: Web, given: dict[str, Any], field: str) -> None:
    answer = site.post("/v1/jobs", {"input": given})
    assert answer.status_code == 422
    assert field in [error["field"] for error in answer.json["errors"]]
