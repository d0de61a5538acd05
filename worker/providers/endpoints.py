"""The management API of Hugging Face's Inference Endpoints: requests as values, and what their replies mean. No I/O.

The data plane of an endpoint is spoken to in the wire format of its engine; what is here makes one, looks at it, wakes
it and puts it away.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from types import MappingProxyType
from typing import Any, Final, Literal
from urllib.parse import quote

import httpx

from worker.domain.answer import Failure, Json
from worker.domain.failure import FailureKind
from worker.providers.facts import Facts, name_of, request_id
from worker.providers.hf_output import no_stream, tells_error
from worker.providers.json_request import bearer, json_request
from worker.providers.redaction import one_line
from worker.providers.reply import Shape, parsed

API: Final = "https://api.endpoints.huggingface.cloud/v2"

Security = Literal["public", "authenticated", "private"]

# engine -> how the API calls its image
ENGINES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "default": "huggingface",
        "vllm": "vLLM",
        "sglang": "sGLang",
        "llamacpp": "llamacpp",
        "tgi": "tgi",
        "tei": "tei",
        "custom": "custom",
    }
)
_ENGINE_OF: Final = {image: engine for engine, image in ENGINES.items()}

# What a request would come to in each state; None: it is served. After a failed update the old revision serves on.
STATES: Final[Mapping[str, FailureKind | None]] = MappingProxyType(
    {
        "pending": FailureKind.LOADING,
        "initializing": FailureKind.LOADING,
        "scaledToZero": FailureKind.LOADING,
        "running": None,
        "updating": None,
        "updateFailed": None,
        "paused": FailureKind.GONE,
        "failed": FailureKind.GONE,
    }
)
_QUOTA: Final = re.compile(r"\bquotas?\b.{0,40}(?:exceed|reach)|exceed.{0,40}\bquotas?\b", re.IGNORECASE)
_RUNNING_ALREADY: Final = re.compile(r"already running", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An endpoint as the API tells of it.

    kind                     what a request to it would come to; None: it is served
    url                      only while it is deployed
    scale_to_zero_min        minutes without requests after which it sleeps; None: it does not
    """

    name: str
    state: str
    kind: FailureKind | None
    message: str | None = None
    url: str | None = None
    repository: str | None = None
    task: str | None = None
    engine: str | None = None
    security: str | None = None
    vendor: str | None = None
    region: str | None = None
    accelerator: str | None = None
    instance_type: str | None = None
    instance_size: str | None = None
    min_replicas: int | None = None
    max_replicas: int | None = None
    ready_replicas: int | None = None
    scale_to_zero_min: int | None = None


@dataclass(frozen=True, slots=True)
class NewEndpoint:
    """An endpoint to be made.

    engine             a name of ENGINES
    image              what its engine is told: `url`, `port`, `modelPath` ...; a custom one needs its `url`
    scale_to_zero_min  minutes without requests after which it sleeps; None: never
    secrets            name -> value, which the API does not show again
    """

    name: str
    repository: str
    vendor: str
    region: str
    accelerator: str
    instance_type: str
    instance_size: str
    engine: str = "default"
    task: str | None = None
    revision: str | None = None
    framework: str = "pytorch"
    security: Security = "authenticated"
    min_replicas: int = 0
    max_replicas: int = 1
    scale_to_zero_min: int | None = 15
    image: Mapping[str, Json] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict)

    def body(self) -> dict[str, Json]:
        scaling: dict[str, Json] = {"minReplica": self.min_replicas, "maxReplica": self.max_replicas}
        if self.scale_to_zero_min is not None:
            scaling["scaleToZeroTimeout"] = self.scale_to_zero_min
        model: dict[str, Json] = {"repository": self.repository, "framework": self.framework}
        told = (
            ("revision", self.revision),
            ("task", self.task),
            ("env", dict(self.env)),
            ("secrets", dict(self.secrets)),
        )
        model |= {name: value for name, value in told if value}
        return {
            "name": self.name,
            "type": self.security,
            "provider": {"vendor": self.vendor, "region": self.region},
            "compute": {
                "accelerator": self.accelerator,
                "instanceType": self.instance_type,
                "instanceSize": self.instance_size,
                "scaling": scaling,
            },
            "model": {**model, "image": {ENGINES[self.engine]: dict(self.image)}},
        }


@dataclass(frozen=True, slots=True)
class Hardware:
    """An instance the namespace can be given; `status`: available, low_availability, not_available, deprecated ..."""

    vendor: str
    region: str
    accelerator: str
    instance_type: str
    instance_size: str
    status: str | None = None
    price_per_hour: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Management:
    """The requests of one namespace (a user or an organization). Names become part of a path and are quoted."""

    namespace: str
    key: str
    api: str = API

    def list(self) -> httpx.Request:
        return self._request("GET", "endpoint")

    def create(self, new: NewEndpoint) -> httpx.Request:
        return self._request("POST", "endpoint", body=new.body())

    def get(self, name: str) -> httpx.Request:
        return self._request("GET", "endpoint", name)

    def update(self, name: str, changes: Mapping[str, Json]) -> httpx.Request:
        """`changes`: the parts of NewEndpoint.body() that become different."""
        return self._request("PUT", "endpoint", name, body=changes)

    def resume(self, name: str) -> httpx.Request:
        return self._request("POST", "endpoint", name, "resume")

    def pause(self, name: str) -> httpx.Request:
        return self._request("POST", "endpoint", name, "pause")

    def scale_to_zero(self, name: str) -> httpx.Request:
        return self._request("POST", "endpoint", name, "scale-to-zero")

    def delete(self, name: str) -> httpx.Request:
        return self._request("DELETE", "endpoint", name)

    def hardware(self) -> httpx.Request:
        return self._request("GET", "provider")

    def _request(
        self, method: str, resource: str, *names: str, body: Mapping[str, Json] | None = None
    ) -> httpx.Request:
        path = "/".join(quote(part, safe="") for part in (resource, self.namespace, *names))
        return json_request(method, f"{self.api.rstrip('/')}/{path}", bearer(self.key), body)


def read_endpoint(status: int, headers: Mapping[str, str], body: bytes, now: datetime) -> Endpoint | Failure:
    """What get, create, update, pause and scale-to-zero answer."""
    value = _parsed(status, headers, body, now)
    if isinstance(value, Failure):
        return value
    found = _endpoint(value)
    return found if found is not None else _none(status, headers, "an endpoint")


def read_resumed(status: int, headers: Mapping[str, str], body: bytes, now: datetime) -> Endpoint | Failure | None:
    """None: it was running already, which is what was wanted."""
    found = read_endpoint(status, headers, body, now)
    running = isinstance(found, Failure) and status == 400 and _RUNNING_ALREADY.search(found.message)
    return None if running else found


def read_endpoints(status: int, headers: Mapping[str, str], body: bytes, now: datetime) -> list[Endpoint] | Failure:
    value = _parsed(status, headers, body, now)
    if isinstance(value, Failure):
        return value
    items = value.get("items") if isinstance(value, dict) else None
    if not isinstance(items, list):
        return _none(status, headers, "a list of endpoints")
    return [found for item in items if (found := _endpoint(item)) is not None]


def read_deleted(status: int, headers: Mapping[str, str], body: bytes, now: datetime) -> Failure | None:
    if 200 <= status < 300:
        return None
    found = _parsed(status, headers, body, now)
    assert isinstance(found, Failure)
    return found


def read_hardware(status: int, headers: Mapping[str, str], body: bytes, now: datetime) -> list[Hardware] | Failure:
    """Every instance, also those that cannot be had just now."""
    value = _parsed(status, headers, body, now)
    if isinstance(value, Failure):
        return value
    vendors = _dicts(value, "vendors")
    if not vendors:
        return _none(status, headers, "a list of hardware")
    return [
        Hardware(
            vendor=str(vendor.get("name")),
            region=str(region.get("name")),
            accelerator=str(compute.get("accelerator")),
            instance_type=str(compute.get("instanceType")),
            instance_size=str(compute.get("instanceSize")),
            status=name_of(compute.get("status")),
            price_per_hour=_price(compute.get("pricePerHour")),
        )
        for vendor in vendors
        for region in _dicts(vendor, "regions")
        for compute in _dicts(region, "computes")
    ]


def _parsed(status: int, headers: Mapping[str, str], body: bytes, now: datetime) -> Any:
    value = parsed(_SHAPE, status, headers, body, now)
    if isinstance(value, Failure) and _QUOTA.search(value.message) and status < 500:
        return replace(value, kind=FailureKind.QUOTA)
    return value


def _facts(status: int, headers: Mapping[str, str], reply: Any) -> Facts:  # noqa: ARG001 - a reply tells nothing of itself
    return Facts(status, request_id=request_id(headers))


_SHAPE: Final = Shape(_facts, no_stream, tells_error)


def _none(status: int, headers: Mapping[str, str], what: str) -> Failure:
    return _facts(status, headers, None).failure(FailureKind.BAD_OUTPUT, f"the reply is not {what}")


def _endpoint(value: Any) -> Endpoint | None:
    status, compute, model, provider = (_dict(value, part) for part in ("status", "compute", "model", "provider"))
    name, state = name_of(value.get("name")) if isinstance(value, dict) else None, name_of(status.get("state"))
    if name is None or state is None:
        return None
    scaling, message = _dict(compute, "scaling"), status.get("message")
    image = next(iter(_dict(model, "image")), None)
    return Endpoint(
        name=name,
        state=state,
        kind=STATES.get(state, FailureKind.LOADING),  # a state of tomorrow is looked at again
        message=one_line(message) if isinstance(message, str) and message else None,
        url=name_of(status.get("url")),
        repository=name_of(model.get("repository")),
        task=name_of(model.get("task")),
        engine=_ENGINE_OF.get(image, name_of(image)) if isinstance(image, str) else None,
        security=name_of(value.get("type")),
        vendor=name_of(provider.get("vendor")),
        region=name_of(provider.get("region")),
        accelerator=name_of(compute.get("accelerator")),
        instance_type=name_of(compute.get("instanceType")),
        instance_size=name_of(compute.get("instanceSize")),
        min_replicas=_count(scaling.get("minReplica")),
        max_replicas=_count(scaling.get("maxReplica")),
        ready_replicas=_count(status.get("readyReplica")),
        scale_to_zero_min=_count(scaling.get("scaleToZeroTimeout")),
    )


def _dict(value: Any, name: str) -> dict[str, Any]:
    inner = value.get(name) if isinstance(value, dict) else None
    return inner if isinstance(inner, dict) else {}


def _dicts(value: Any, name: str) -> Sequence[dict[str, Any]]:
    inner = value.get(name) if isinstance(value, dict) else None
    return [item for item in inner if isinstance(item, dict)] if isinstance(inner, list) else []


def _count(value: Any) -> int | None:
    return value if type(value) is int and value >= 0 else None


def _price(value: Any) -> Decimal | None:
    return Decimal(str(value)) if type(value) in (int, float) and 0 <= value < 1e6 else None
