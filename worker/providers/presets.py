"""Providers that exist as soon as their key is in the environment, in the order they are tried.

Names, addresses and prices (US dollars per million tokens) as published on 2026-11-22. Everything here can be said
otherwise in the file: data, not knowledge an adapter may lean on. What is not known for sure is left out: no window is
better than a wrong one, and no price is shown as unknown.

Anthropic and Gemini are called in their own formats.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from types import MappingProxyType
from typing import Final

from worker.domain.route import Need
from worker.settings import ModelConfig, PriceConfig, ProviderConfig

_TEXT: Final[frozenset[Need]] = frozenset({"completion", "schema", "tools"})
_IMAGES: Final[frozenset[Need]] = _TEXT | {"vision"}
_EMBEDDING: Final[frozenset[Need]] = frozenset({"embedding"})


def _price(input_: str, output: str, cached_input: str | None = None) -> PriceConfig:
    cached = None if cached_input is None else Decimal(cached_input)
    return PriceConfig(input=Decimal(input_), output=Decimal(output), cached_input=cached)


PRESETS: Final[Mapping[str, ProviderConfig]] = MappingProxyType(
    {
        "groq": ProviderConfig(
            label="Groq",
            base_url="https://api.groq.com/openai/v1",
            api_keys=("GROQ_API_KEY",),
            default_model="openai/gpt-oss-20b",
            models={
                "openai/gpt-oss-20b": ModelConfig(window=131_072, takes=_TEXT, price=_price("0.075", "0.30", "0.0375")),
                "openai/gpt-oss-120b": ModelConfig(window=131_072, takes=_TEXT, price=_price("0.15", "0.60", "0.075")),
            },
        ),
        "kimi": ProviderConfig(
            label="Kimi",
            base_url="https://api.moonshot.ai/v1",
            api_keys=("KIMI_API_KEY", "MOONSHOT_API_KEY"),
            default_model="kimi-k2.6",
            models={
                "kimi-k2.6": ModelConfig(window=262_144, takes=_IMAGES, price=_price("0.95", "4", "0.16")),
                "kimi-k3": ModelConfig(takes=_IMAGES, price=_price("3", "15", "0.3")),
            },
        ),
        "openai": ProviderConfig(
            label="OpenAI",
            base_url="https://api.openai.com/v1",
            api_keys=("OPENAI_API_KEY",),
            default_model="gpt-6-luna",
            models={
                "gpt-6-luna": ModelConfig(window=1_050_000, takes=_IMAGES, price=_price("0.10", "0.50", "0.01")),
                "gpt-5.6-luna": ModelConfig(window=1_050_000, takes=_IMAGES, price=_price("0.20", "1.20", "0.02")),
                "gpt-4o-mini": ModelConfig(window=128_000, takes=_IMAGES, price=_price("0.15", "0.60", "0.075")),
                "text-embedding-3-small": ModelConfig(takes=_EMBEDDING, price=_price("0.02", "0")),
            },
        ),
        "anthropic": ProviderConfig(
            label="Anthropic",
            format="anthropic",
            base_url="https://api.anthropic.com/v1",
            api_keys=("ANTHROPIC_API_KEY",),
            default_model="claude-haiku-4-5",
            takes=_IMAGES,  # it has no embeddings
            models={
                "claude-haiku-4-5": ModelConfig(window=200_000, price=_price("1", "5", "0.1")),
                "claude-sonnet-5": ModelConfig(price=_price("2", "10", "0.2")),
            },
        ),
        "gemini": ProviderConfig(
            label="Gemini",
            format="gemini",
            base_url="https://generativelanguage.googleapis.com/v1beta",
            api_keys=("GEMINI_API_KEY",),
            default_model="gemini-3.5-flash-lite",
            models={
                "gemini-3.5-flash-lite": ModelConfig(
                    window=1_048_576, takes=_IMAGES, price=_price("0.3", "2.5", "0.03")
                ),
                "gemini-3.5-flash": ModelConfig(takes=_IMAGES, price=_price("1.5", "9", "0.15")),
            },
        ),
        # What serves a model behind the router changes with every call, and with it the price and the window.
        "huggingface": ProviderConfig(
            label="Hugging Face",
            base_url="https://router.huggingface.co/v1",
            api_keys=("HUGGINGFACE_API_KEY",),
            default_model="openai/gpt-oss-20b:cheapest",
            models={"openai/gpt-oss-20b:cheapest": ModelConfig(takes=_TEXT)},
        ),
    }
)
