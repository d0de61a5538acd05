"""Compare the models that are configured with those the providers have today."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final, Literal

from worker.domain.answer import Failure
from worker.providers.catalog import Catalog
from worker.providers.listing import Listed, build_listing, read_listing
from worker.providers.spec import ProviderSpec
from worker.providers.transport import Reply, Transport

_TIMEOUT_S: Final = 15.0
Verdict = Literal["there", "ending", "gone", "unknown"]


@dataclass(frozen=True, slots=True)
class Found:
    """One configured model. `unknown`: its provider could not be asked, `note` says why."""

    provider: str
    model: str
    verdict: Verdict
    note: str | None = None


def check(catalog: Catalog) -> list[Found]:
    """Ask every configured provider once. Makes no completion and costs nothing."""
    return asyncio.run(_check(catalog))


async def _check(catalog: Catalog) -> list[Found]:
    transport = Transport()
    try:
        answers = await asyncio.gather(*(_ask(catalog, spec, transport) for spec in catalog.providers.values()))
    finally:
        await transport.aclose()
    return [found for answer in answers for found in answer]


async def _ask(catalog: Catalog, spec: ProviderSpec, transport: Transport) -> list[Found]:
    wanted = _configured(catalog, spec)
    if spec.is_sandbox:
        return [Found(spec.name, model, "there", "built in") for model in wanted]
    key = catalog.secret(spec.name, spec.keys[0].name) if spec.keys else None
    request = build_listing(spec.format, spec.base_url, key)
    if request is None:
        return [Found(spec.name, model, "unknown", f"format {spec.format} lists no models") for model in wanted]
    reply = await transport.send(request, connect_s=_TIMEOUT_S, first_byte_s=_TIMEOUT_S, total_s=_TIMEOUT_S)
    listed = read_listing(reply.body) if isinstance(reply, Reply) and reply.status == 200 else None
    if listed is None:
        why = reply.message if isinstance(reply, Failure) else f"it answered {reply.status}"
        return [Found(spec.name, model, "unknown", why) for model in wanted]
    there = {one.id: one for one in listed}
    return [_verdict(spec, model, there) for model in wanted]


def _configured(catalog: Catalog, spec: ProviderSpec) -> list[str]:
    """Models of this provider that a route or a default names, each once, in order."""
    named = [
        target.model for route in catalog.routes.values() for target in route.targets if target.provider == spec.name
    ]
    if spec.default_model is not None:
        named.append(spec.default_model)
    return list(dict.fromkeys(named))


def _verdict(spec: ProviderSpec, model: str, there: dict[str, Listed]) -> Found:
    # The Hugging Face router takes `org/name:policy` for a model it lists as `org/name`.
    one = there.get(model) or there.get(model.partition(":")[0])
    if one is None:
        return Found(spec.name, model, "gone", "the provider does not list it")
    if one.ends is not None:
        return Found(spec.name, model, "ending", f"it goes away on {one.ends}")
    return Found(spec.name, model, "there")
