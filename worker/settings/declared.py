"""What the declaration of a variable says, and the variables that are no field of Settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, get_args

# What runs behind an endpoint: an engine, or the default handler with one of its tasks.
Flavour = Literal["openai", "vllm", "sglang", "llamacpp", "tgi", "tei", "default", "text2text"]


@dataclass(frozen=True, slots=True)
class Variable:
    """What a field's declaration does not say by itself. `shown` stands for a default that depends on the machine."""

    name: str
    meaning: str
    unit: str = ""
    shown: str | None = None


# Variables of providers. A preset or the file says which provider a key belongs to; the others are laid over the
# `huggingface` provider, because deployments have them already.
KEY_VARIABLES: Final = (
    Variable("GROQ_API_KEY", "Key of Groq; with it the provider `groq` exists."),
    Variable("KIMI_API_KEY", "Key of Moonshot AI; with it the provider `kimi` exists."),
    Variable("MOONSHOT_API_KEY", "Other name of KIMI_API_KEY; a second key where both are set and differ."),
    Variable("OPENAI_API_KEY", "Key of OpenAI; with it the provider `openai` exists."),
    Variable("ANTHROPIC_API_KEY", "Key of Anthropic; with it the provider `anthropic` exists."),
    Variable("GEMINI_API_KEY", "Key of the Gemini API; with it the provider `gemini` exists."),
    Variable("HUGGINGFACE_API_KEY", "Token of Hugging Face; with it the provider `huggingface` exists."),
)
HUGGING_FACE_VARIABLES: Final = {
    "default_model": Variable("HUGGINGFACE_MODEL_ID", "Model that `huggingface` stands for."),
    "base_url": Variable("HUGGINGFACE_API_URL", "Address of Hugging Face, or of an endpoint of your own."),
    "label": Variable("HF_LLAVE_5_NOMBRE", "Name that people see for `huggingface`."),
}
# Of the command line alone: no process that serves reads it.
WEBHOOK_SECRET: Final = Variable(
    "COMPLETAR_WEBHOOK_SECRET", "Secret with which `webhooks listen` and `webhooks verify` check what arrives."
)
ENDPOINT_URL: Final = Variable(
    "HUGGINGFACE_ENDPOINT_URL", "Address of an Inference Endpoint of your own: `huggingface` stands for it then."
)
ENDPOINT_FLAVOUR: Final = Variable(
    "HUGGINGFACE_ENDPOINT_FLAVOUR", f"What runs behind HUGGINGFACE_ENDPOINT_URL: {', '.join(get_args(Flavour))}."
)
