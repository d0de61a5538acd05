"""The management API of Inference Endpoints: every witnessed reply, whole requests, and any bytes."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.support.payloads import body_of, case_id, load
from tests.support.scripted_provider import ScriptedProvider, reply
from worker.domain.answer import Failure
from worker.domain.failure import RETRYABLE, FailureKind
from worker.providers.endpoint_prices import AS_OF, PRICES, price_per_hour
from worker.providers.endpoints import (
    API,
    ENGINES,
    STATES,
    Endpoint,
    Hardware,
    Management,
    NewEndpoint,
    read_deleted,
    read_endpoint,
    read_endpoints,
    read_hardware,
    read_resumed,
)
from worker.providers.format import USER_AGENT
from worker.providers.transport import Reply, Transport

K = FailureKind
NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
ANA = Management("ana", "hf_x")
NEW = NewEndpoint(
    name="flan",
    repository="google/flan-t5-base",
    vendor="aws",
    region="us-east-1",
    accelerator="cpu",
    instance_type="intel-spr",
    instance_size="x1",
)
CASES = load("hf_endpoints_api")
STATE_CASES = [case for case in CASES if "state" in case["expected"]]
FAULT_CASES = [case for case in CASES if "state" not in case["expected"]]


def body(state: str = "running", **status: Any) -> Any:
    template: dict[str, Any] = next(case["body"] for case in CASES if case["case"] == "get_updating")
    return {**template, "status": {**template["status"], "state": state, **status}}


def encoded(value: Any) -> bytes:
    return value if isinstance(value, bytes) else json.dumps(value).encode()


# Replies


def test_no_case_drops_out() -> None:
    assert (len(STATE_CASES), len(FAULT_CASES)) == (6, 4)


def check(case: dict[str, Any], found: Endpoint | Failure) -> None:
    expected = case["expected"]
    if "state" in expected:
        assert isinstance(found, Endpoint), found
        assert (found.state, found.url) == (expected["state"], expected["url"])
        kind = found.kind
    else:
        assert isinstance(found, Failure), found
        assert (found.http_status, found.wait_s) == (case["status"], expected["retry_after_s"])
        kind = found.kind
    assert (kind or "ok") == expected["class"]
    assert (kind in RETRYABLE - {K.QUOTA}) == expected["retryable"]


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_a_reply_is_read(case: dict[str, Any]) -> None:
    check(case, read_endpoint(case["status"], case["headers"], body_of(case), NOW))


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_a_reply_arrives(case: dict[str, Any]) -> None:
    async def main() -> Reply | Failure:
        transport = Transport()
        try:
            request = Management("ana", "hf_x", provider.url).get("mi-endpoint")
            return await transport.send(request, connect_s=5.0, first_byte_s=5.0, total_s=10.0)
        finally:
            await transport.aclose()

    with ScriptedProvider() as provider:
        provider.queue(reply(case["status"], body=body_of(case), headers=case["headers"]))
        arrived = asyncio.run(main())
        assert isinstance(arrived, Reply), arrived
        check(case, read_endpoint(arrived.status, arrived.headers, arrived.body, NOW))
        assert provider.requests[0].path == "/endpoint/ana/mi-endpoint"


def test_everything_a_case_tells() -> None:
    case = next(case for case in CASES if case["case"] == "get_updating")
    assert read_endpoint(200, {}, body_of(case), NOW) == Endpoint(
        name="mi-endpoint",
        state="updating",
        kind=None,
        message="Endpoint is updating",
        url="https://exm0exmexmexmexm.us-east-1.aws.endpoints.huggingface.cloud",
        repository="org/model",
        task="text-generation",
        engine="default",
        security="authenticated",
        vendor="aws",
        region="us-east-1",
        accelerator="cpu",
        instance_type="intel-spr",
        instance_size="x1",
        min_replicas=0,
        max_replicas=1,
        ready_replicas=1,
        scale_to_zero_min=15,
    )


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        ("running", None),
        ("scaledToZero", K.LOADING),
        ("pending", K.LOADING),
        ("initializing", K.LOADING),
        ("updating", None),
        ("updateFailed", None),
        ("paused", K.GONE),
        ("failed", K.GONE),
        ("somethingNew", K.LOADING),
    ],
)
def test_what_a_state_means(state: str, kind: FailureKind | None) -> None:
    found = read_endpoint(200, {}, encoded(body(state)), NOW)
    assert isinstance(found, Endpoint)
    assert (found.state, found.kind) == (state, kind)
    assert state in STATES or state == "somethingNew"


def test_running_already_is_what_was_wanted() -> None:
    case = next(case for case in CASES if case["case"] == "resume_already_running")
    assert read_resumed(case["status"], case["headers"], body_of(case), NOW) is None
    resumed = read_resumed(200, {}, encoded(body("initializing")), NOW)
    assert isinstance(resumed, Endpoint)
    for status, told in ((400, "Bad Request: no such thing"), (409, "already running"), (404, "Endpoint not found")):
        assert isinstance(read_resumed(status, {}, encoded({"error": told}), NOW), Failure)


def test_a_list() -> None:
    found = read_endpoints(200, {}, encoded({"items": [body("paused"), body(), {"name": "x"}, None]}), NOW)
    assert isinstance(found, list)
    assert [one.state for one in found] == ["paused", "running"]
    assert read_endpoints(200, {}, b'{"items": []}', NOW) == []
    for other in (b"[]", b"{}", b"null"):
        failed = read_endpoints(200, {}, other, NOW)
        assert isinstance(failed, Failure)
        assert failed.kind is K.BAD_OUTPUT


def test_deleted_is_deleted_whatever_is_said_with_it() -> None:
    for status, said in ((200, b""), (202, b""), (204, b""), (200, b"null")):
        assert read_deleted(status, {}, said, NOW) is None
    failed = read_deleted(404, {}, b'{"error": "Endpoint not found"}', NOW)
    assert failed is not None
    assert failed.kind is K.MODEL_NOT_FOUND


HARDWARE = {
    "vendors": [
        {
            "name": "aws",
            "status": "available",
            "regions": [
                {
                    "name": "us-east-1",
                    "computes": [
                        {
                            "id": "aws-us-east-1-intel-spr-x1",
                            "accelerator": "cpu",
                            "instanceType": "intel-spr",
                            "instanceSize": "x1",
                            "status": "available",
                            "pricePerHour": 0.033,
                        },
                        {"accelerator": "gpu", "instanceType": "nvidia-l4", "instanceSize": "x1", "pricePerHour": None},
                    ],
                }
            ],
        },
        {"name": "gcp", "regions": []},
    ]
}


def test_hardware() -> None:
    assert read_hardware(200, {}, encoded(HARDWARE), NOW) == [
        Hardware("aws", "us-east-1", "cpu", "intel-spr", "x1", "available", Decimal("0.033")),
        Hardware("aws", "us-east-1", "gpu", "nvidia-l4", "x1"),
    ]
    assert isinstance(read_hardware(200, {}, b"{}", NOW), Failure)


@pytest.mark.parametrize(
    ("status", "said", "kind"),
    [
        (400, "Quota exceeded: cpu intel-spr x1", K.QUOTA),
        (403, "You have reached your quota of instances: quota reached", K.QUOTA),
        (429, "exceeded the quota of this namespace", K.QUOTA),
        (400, "Bad Request: invalid instance size", K.BAD_REQUEST),
        (402, "Payment required", K.QUOTA),
        (403, "Forbidden", K.PERMISSION),
        (409, "Endpoint already exists", K.CONFLICT),
        (422, "missing field `region`", K.BAD_REQUEST),
        (500, "quota exceeded while failing", K.SERVER_ERROR),
        (503, "Service Unavailable", K.OVERLOADED),
    ],
)
def test_a_failure(status: int, said: str, kind: FailureKind) -> None:
    found = read_endpoint(status, {"x-request-id": "r1"}, encoded({"error": said}), NOW)
    assert isinstance(found, Failure)
    assert (found.kind, found.http_status, found.request_id) == (kind, status, "r1")


# Requests, whole

HEADERS = [
    (b"Accept", b"application/json"),
    (b"Accept-Encoding", b"identity"),
    (b"User-Agent", USER_AGENT.encode()),
    (b"Authorization", b"Bearer hf_x"),
]


@pytest.mark.parametrize(
    ("request_", "method", "path"),
    [
        (ANA.list(), "GET", "/endpoint/ana"),
        (ANA.get("flan"), "GET", "/endpoint/ana/flan"),
        (ANA.resume("flan"), "POST", "/endpoint/ana/flan/resume"),
        (ANA.pause("flan"), "POST", "/endpoint/ana/flan/pause"),
        (ANA.scale_to_zero("flan"), "POST", "/endpoint/ana/flan/scale-to-zero"),
        (ANA.delete("flan"), "DELETE", "/endpoint/ana/flan"),
        (ANA.hardware(), "GET", "/provider/ana"),
        (ANA.get("../other/x?y"), "GET", "/endpoint/ana/..%2Fother%2Fx%3Fy"),
        (Management("a/b", "hf_x", API + "/").list(), "GET", "/endpoint/a%2Fb"),
    ],
)
def test_a_request_without_a_body(request_: Any, method: str, path: str) -> None:
    assert (request_.method, str(request_.url)) == (method, API + path)
    assert request_.read() == b""
    length = [(b"Content-Length", b"0")] if method == "POST" else []
    assert sorted(request_.headers.raw) == sorted([(b"Host", b"api.endpoints.huggingface.cloud"), *HEADERS, *length])


def test_a_request_to_create() -> None:
    request = ANA.create(NEW)
    assert (request.method, str(request.url)) == ("POST", API + "/endpoint/ana")
    assert json.loads(request.read()) == {
        "name": "flan",
        "type": "authenticated",
        "provider": {"vendor": "aws", "region": "us-east-1"},
        "compute": {
            "accelerator": "cpu",
            "instanceType": "intel-spr",
            "instanceSize": "x1",
            "scaling": {"minReplica": 0, "maxReplica": 1, "scaleToZeroTimeout": 15},
        },
        "model": {"repository": "google/flan-t5-base", "framework": "pytorch", "image": {"huggingface": {}}},
    }
    assert request.headers["content-type"] == "application/json"


def test_a_request_to_create_with_all_there_is() -> None:
    new = replace(
        NEW,
        engine="vllm",
        task="text-generation",
        revision="abc",
        security="private",
        min_replicas=1,
        max_replicas=3,
        scale_to_zero_min=None,
        image={"url": "vllm/vllm-openai:v1", "port": 8000},
        env={"A": "b"},
        secrets={"TOKEN": "s"},
    )
    made = json.loads(ANA.create(new).read())
    assert made["type"] == "private"
    assert made["compute"]["scaling"] == {"minReplica": 1, "maxReplica": 3}
    assert made["model"] == {
        "repository": "google/flan-t5-base",
        "framework": "pytorch",
        "revision": "abc",
        "task": "text-generation",
        "env": {"A": "b"},
        "secrets": {"TOKEN": "s"},
        "image": {"vLLM": {"url": "vllm/vllm-openai:v1", "port": 8000}},
    }


def test_a_request_to_update() -> None:
    request = ANA.update("flan", {"compute": {"scaling": {"minReplica": 0}}})
    assert (request.method, str(request.url)) == ("PUT", API + "/endpoint/ana/flan")
    assert request.read() == b'{"compute":{"scaling":{"minReplica":0}}}'


@pytest.mark.parametrize("engine", ENGINES)
def test_an_engine_is_read_as_it_is_written(engine: str) -> None:
    image = NEW.body() | {"model": replace(NEW, engine=engine).body()["model"], "status": {"state": "running"}}
    found = read_endpoint(200, {}, encoded(image), NOW)
    assert isinstance(found, Endpoint)
    assert found.engine == engine


# Prices


def test_prices_are_dated_and_what_is_not_known_is_none() -> None:
    assert date(2026, 11, 22) == AS_OF
    assert price_per_hour("aws", "intel-spr", "x1") == Decimal("0.033")
    assert price_per_hour("azure", "intel-xeon", "x1") == Decimal("0.06")
    assert price_per_hour("gcp", "nvidia-h200", "x1") is None
    assert price_per_hour("aws", "nvidia-l4", "x64") is None
    assert all(price > 0 for price in PRICES.values())


# Whatever comes

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "name",
                    "status",
                    "state",
                    "url",
                    "model",
                    "image",
                    "compute",
                    "scaling",
                    "items",
                    "vendors",
                    "regions",
                    "computes",
                    "pricePerHour",
                    "error",
                    "minReplica",
                    "message",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=15,
)


@given(
    st.sampled_from([read_endpoint, read_endpoints, read_resumed, read_deleted, read_hardware]),
    st.sampled_from([200, 204, 302, 400, 401, 404, 409, 429, 500, 503]),
    _JSON.map(encoded) | st.binary(max_size=40),
)
@example(read_endpoint, 200, encoded(body(message="x" * 10_000)))
def test_whatever_comes_is_read(read: Any, status: int, said: bytes) -> None:
    found = read(status, {}, said, NOW)
    assert isinstance(found, Endpoint | Failure | list | None)
    assert isinstance(found, Failure) or 200 <= status < 300 or (found is None and status == 400)
    if isinstance(found, Endpoint):
        assert len(found.message or "") <= 500
