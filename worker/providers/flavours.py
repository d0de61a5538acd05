"""What may run behind HUGGINGFACE_ENDPOINT_URL, and how each is spoken to.

An endpoint's address does not tell: chat engines answer under `/v1`, TEI and the default handler at the top.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from worker.domain.route import ALL_NEEDS, Need
from worker.providers.openai import ONLY_MODEL
from worker.settings import Flavour, OwnEndpoint, ProviderConfig

HUGGING_FACE: Final = "huggingface"
_CHAT: Final = "/v1"
_TGI: Final = "/generate"


class Manner(NamedTuple):
    """path: where its calls begin; takes: what it can be asked for."""

    format: str
    path: str
    takes: frozenset[Need]


_ENGINE: Final = Manner("hf-openai", _CHAT, ALL_NEEDS)
_TEXT: Final[frozenset[Need]] = frozenset({"completion"})

FLAVOURS: Final[Mapping[Flavour | None, Manner]] = MappingProxyType(
    {
        "openai": _ENGINE,
        "vllm": _ENGINE,
        "sglang": _ENGINE,
        "llamacpp": _ENGINE,
        "tgi": _ENGINE,
        # Ranks and labels are tasks of a completion.
        "tei": Manner("tei", "", frozenset({"embedding", "completion"})),
        "default": Manner("hf-text-generation", "", _TEXT),
        "text2text": Manner("hf-text2text-generation", "", _TEXT),
        None: Manner("hf-handler", "", _TEXT),
    }
)


def manner_of(endpoint: OwnEndpoint) -> tuple[Manner, str]:
    """How it is spoken to, and its base URL. An address of a route of its own says more than no flavour."""
    if endpoint.url.endswith(_TGI) and endpoint.flavour in (None, "tgi"):
        return Manner("hf-text-generation", "", _TEXT | {"schema"}), endpoint.url
    flavour: Flavour | None = endpoint.flavour
    if flavour is None and endpoint.url.endswith(_CHAT):
        flavour = "openai"
    manner = FLAVOURS[flavour]
    return manner, endpoint.url.removesuffix(_CHAT) + manner.path


def at_endpoint(
    preset: ProviderConfig, own: ProviderConfig | None, endpoint: OwnEndpoint
) -> tuple[ProviderConfig, ProviderConfig]:
    """Hugging Face's preset and what was said of it, for an endpoint: the router's models are not there."""
    manner, url = manner_of(endpoint)
    preset = preset.model_copy(update={"models": {}, "default_model": ONLY_MODEL, "takes": manner.takes})
    said = ProviderConfig() if own is None else own
    return preset, said.model_copy(update={"base_url": url, "format": manner.format})
