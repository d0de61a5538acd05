"""The wire formats by name, as `[providers.NAME] format` gives it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from worker.providers.anthropic import AnthropicFormat
from worker.providers.format import Format
from worker.providers.gemini import GeminiFormat
from worker.providers.hf_inference import HFInferenceFormat
from worker.providers.hf_text_generation import HFTextGenerationFormat
from worker.providers.openai import OpenAIFormat
from worker.providers.openai_responses import OpenAIResponsesFormat
from worker.providers.tei import TEIFormat

_ALL: Final[tuple[Format, ...]] = (
    OpenAIFormat(),
    OpenAIResponsesFormat(),
    AnthropicFormat(),
    GeminiFormat(),
    OpenAIFormat(name="hf-openai", is_endpoint=True),
    HFTextGenerationFormat(),
    HFTextGenerationFormat(name="hf-text2text-generation", task="text2text-generation"),
    HFTextGenerationFormat(name="hf-handler", task=None),
    HFInferenceFormat(),
    TEIFormat(),
)
# Spoken to Inference Endpoints, which scale to zero.
SLEEPING: Final = frozenset({"hf-openai", "hf-text-generation", "hf-text2text-generation", "hf-handler"})
FORMATS: Final[Mapping[str, Format]] = MappingProxyType({one.name: one for one in _ALL})
