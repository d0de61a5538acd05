"""Find out once, at a worker's start, what runs behind HUGGINGFACE_ENDPOINT_URL, where nobody declared it."""

from __future__ import annotations

import asyncio
from typing import Final

from worker import events
from worker.domain.answer import Failure
from worker.providers.probing import ASLEEP, PATHS, build_probe, read_probe
from worker.providers.transport import Transport
from worker.settings import Flavour, OwnEndpoint, Settings

_TIMEOUT_S: Final = 5.0
_KEY: Final = "HUGGINGFACE_API_KEY"


def discovered(settings: Settings) -> Settings:
    """The settings with the endpoint's flavour. Unchanged where it is declared, asleep or unknown; the log says which.

    A sleeping endpoint is woken by the question: HUGGINGFACE_ENDPOINT_FLAVOUR spares it.
    """
    endpoint = settings.endpoint
    if endpoint is None or endpoint.flavour is not None or endpoint.url.endswith(("/v1", "/generate")):
        return settings
    key = settings.keys.get(_KEY)
    flavour, why = asyncio.run(_probe(endpoint, key.get_secret_value() if key is not None else None))
    if flavour is None:
        events.emit("endpoint.unknown", level="warning", reason=why, asked_as="default handler")
        return settings
    events.emit("endpoint.discovered", flavour=flavour)
    return settings.model_copy(update={"endpoint": endpoint.model_copy(update={"flavour": flavour})})


async def _probe(endpoint: OwnEndpoint, key: str | None) -> tuple[Flavour | None, str]:
    transport = Transport()
    why = "it answers like none of the engines"
    try:
        for path in PATHS:
            reply = await transport.send(
                build_probe(endpoint.url, path, key),
                connect_s=_TIMEOUT_S,
                first_byte_s=_TIMEOUT_S,
                total_s=_TIMEOUT_S,
                max_bytes=1024 * 1024,
            )
            if isinstance(reply, Failure):
                return None, reply.message
            if reply.status in ASLEEP:
                return None, "it is starting; it is asked again at the next start, or declare its flavour"
            flavour = read_probe(path, reply.status, reply.body)
            if flavour is not None:
                return flavour, ""
    finally:
        await transport.aclose()
    return None, why
