"""Costs by the published table: exact where it knows, None where it does not."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from worker.domain.money import NANO, Usage
from worker.providers.prices import published_nano

AT = datetime(2026, 11, 22, tzinfo=UTC)
MILLION = 1_000_000


@pytest.mark.parametrize(
    ("base_url", "model", "usage", "dollars"),
    [
        ("https://api.groq.com/openai/v1", "openai/gpt-oss-20b", Usage(MILLION, MILLION), 0.375),
        ("https://api.groq.com/openai/v1", "openai/gpt-oss-20b", Usage(MILLION, 0, MILLION), 0.0375),
        ("https://api.openai.com/v1", "gpt-4o-mini", Usage(MILLION, MILLION), 0.75),
        ("https://api.openai.com/v1", "text-embedding-3-small", Usage(MILLION, 0), 0.02),
        ("https://api.moonshot.ai/v1", "kimi-k2.6", Usage(MILLION, MILLION), 4.95),
        ("https://api.anthropic.com/v1", "claude-haiku-4-5", Usage(MILLION, MILLION), 6.0),
        ("https://generativelanguage.googleapis.com/v1beta", "gemini-3.5-flash-lite", Usage(MILLION, MILLION), 2.8),
        ("https://api.openai.com/v1", "gpt-4o-mini", Usage(0, 0), 0.0),
    ],
)
def test_a_listed_model_costs_what_is_published(base_url: str, model: str, usage: Usage, dollars: float) -> None:
    assert published_nano(base_url, model, usage, AT) == round(dollars * NANO)


@pytest.mark.parametrize(
    ("base_url", "model"),
    [
        ("http://127.0.0.1:9000/v1", "gpt-4o-mini"),
        ("https://api.openai.com/v1", "no-such-model"),
        ("https://my-endpoint.us-east-1.aws.endpoints.huggingface.cloud/v1", "tgi"),
    ],
)
def test_what_the_table_does_not_know_is_unknown_and_not_free(base_url: str, model: str) -> None:
    assert published_nano(base_url, model, Usage(10, 10), AT) is None


def test_unreported_tokens_have_no_price() -> None:
    for usage in (Usage(None, 5), Usage(5, None)):
        assert published_nano("https://api.openai.com/v1", "gpt-4o-mini", usage, AT) is None


def test_more_cached_tokens_than_tokens_is_no_reason_to_fail() -> None:
    published_nano("https://api.openai.com/v1", "gpt-4o-mini", Usage(1, 1, 5), AT)
