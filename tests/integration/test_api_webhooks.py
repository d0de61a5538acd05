"""Webhooks over HTTP on both databases: endpoints, secrets, tests, deliveries, and jobs that name whom they tell."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import standardwebhooks

from api.routes.webhook_deliveries import DeliveryList, DeliveryWithAttempts
from api.webhook_endpoint import EndpointBody, EndpointWithSecret
from tests.support import scripted_provider as script
from tests.support.scripted_provider import Received, ScriptedProvider
from tests.support.wait import wait_until
from tests.support.web import Web, web
from worker.services import trial
from worker.services import webhook_endpoints as service
from worker.store.moment import later
from worker.store.tables import lease
from worker.webhooks import guard as guards

Json = Any
KEY = {"COMPLETAR_SECRET_KEY": "k" * 32}
HERE = {"COMPLETAR_PRIVATE_NETWORKS": "127.0.0.0/8"}
GOOD = "https://hooks.example.com/in"
HI = {"input": {"prompt": "hi"}}


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    with ScriptedProvider() as started:
        started.always(script.chat("fine"))
        yield started


@pytest.fixture
def receiver() -> Iterator[ScriptedProvider]:
    with ScriptedProvider() as started:
        started.always(script.reply(204))
        yield started


@pytest.fixture(autouse=True)
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """What names stand for; nobody asks the network."""
    known: dict[str, list[str]] = {"hooks.example.com": ["1.1.1.1"]}

    def ask(_self: object, host: str, _port: int) -> Future[Sequence[str]]:
        found: Future[Sequence[str]] = Future()
        try:
            found.set_result(known[host.removesuffix(".")])
        except KeyError:
            found.set_exception(OSError("no such name"))
        return found

    monkeypatch.setattr(guards.Lookups, "ask", ask)
    return known


@pytest.fixture
def site(database_url: str, tmp_path: Path, provider: ScriptedProvider) -> Iterator[Web]:
    """The public internet only."""
    with web(database_url, tmp_path, provider, COMPLETAR_POLL_S="0.2", **KEY) as made:
        yield made


@pytest.fixture
def local(database_url: str, tmp_path: Path, provider: ScriptedProvider) -> Iterator[Web]:
    """This machine may be called."""
    with web(database_url, tmp_path, provider, COMPLETAR_POLL_S="0.2", **KEY, **HERE) as made:
        yield made


def make(site: Web, url: str = GOOD, **more: Json) -> Json:
    answer = site.post("/v1/webhook_endpoints", {"url": url, **more})
    assert answer.status_code == 201, answer.json
    return answer.json


def verified(request: Received, secret: str) -> Json:
    return standardwebhooks.Webhook(secret).verify(request.body, dict(request.headers))


def faults(answer: Any) -> list[tuple[str, str]]:
    assert answer.status_code == 422, answer.json
    return [(one["field"], one["message"]) for one in answer.json["errors"]]


# -- endpoints --------------------------------------------------------------------------------------------------------


def test_an_endpoint_is_made_shown_changed_and_deleted(site: Web) -> None:
    made = make(site, name="shop", event_types=["job.failed", "job.failed"], headers={"Authorization": "Bearer x y"})
    EndpointWithSecret.model_validate_json(json.dumps(made))
    assert made["secret"].startswith("whsec_")
    assert made["secret_hint"] == "..." + made["secret"].rstrip("=")[-4:]
    assert (made["event_types"], made["headers"], made["of"]) == (["job.failed"], ["Authorization"], "project")
    path = f"/v1/webhook_endpoints/{made['id']}"
    seen = site.get(path)
    EndpointBody.model_validate_json(seen.get_data())
    assert "secret" not in seen.json
    assert "Bearer" not in seen.get_data(as_text=True)
    changed = site.post(path, {"name": None, "max_rps": 2, "disabled": True, "headers": {}}).json
    assert (changed["name"], changed["max_rps"], changed["headers"]) == (None, 2.0, [])
    assert (changed["disabled"], changed["disabled_reason"]) == (True, "disabled on request")
    assert changed["event_types"] == ["job.failed"], "what is left out stays"
    assert site.post(path, {"disabled": False}).json["disabled"] is False
    assert [one["id"] for one in site.get("/v1/webhook_endpoints").json["data"]] == [made["id"]]
    assert site.client.delete(path, headers=site.auth).json["deleted"] is True
    assert site.get(path).status_code == 404
    assert site.client.delete(path, headers=site.auth).status_code == 404
    assert site.get("/v1/webhook_endpoints").json["data"] == []


def test_pages_of_endpoints(site: Web) -> None:
    ids = [make(site, GOOD)["id"] for _ in range(3)][::-1]
    page = site.get("/v1/webhook_endpoints?limit=2").json
    assert ([one["id"] for one in page["data"]], page["has_more"]) == (ids[:2], True)
    rest = site.get(f"/v1/webhook_endpoints?after={page['last_id']}").json
    assert ([one["id"] for one in rest["data"]], rest["has_more"]) == (ids[2:], False)


def test_the_same_key_makes_one_endpoint_and_shows_its_secret_again(site: Web) -> None:
    key = {"Idempotency-Key": "once"}
    first = site.post("/v1/webhook_endpoints", {"url": GOOD}, key)
    again = site.post("/v1/webhook_endpoints", {"url": GOOD}, key)
    assert again.json == first.json
    assert again.headers["Idempotent-Replayed"] == "true"
    assert site.post("/v1/webhook_endpoints", {"url": GOOD + "2"}, key).status_code == 422
    path = f"/v1/webhook_endpoints/{first.json['id']}"
    rotated = [site.post(f"{path}/rotate_secret", {}, {"Idempotency-Key": "r"}).json["secret"] for _ in range(2)]
    assert rotated[0] == rotated[1] != first.json["secret"]
    site.client.delete(path, headers=site.auth)
    assert site.post("/v1/webhook_endpoints", {"url": GOOD}, key).status_code == 409


def test_there_is_an_end_to_how_many_endpoints_a_project_has(site: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "MOST", 1)
    make(site)
    answer = site.post("/v1/webhook_endpoints", {"url": GOOD})
    assert answer.status_code == 409
    assert "delete one" in answer.json["detail"]


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ({"Host": "evil"}, "may not set host"),
        ({"content-length": "1"}, "may not set content-length"),
        ({"Webhook-Id": "x"}, "may not set webhook-id"),
        ({"svix-id": "x"}, "may not set svix-id"),
        ({"X-Forwarded-For": "1.1.1.1"}, "may not set x-forwarded-for"),
        ({"Connection": "close"}, "may not set connection"),
        ({"bad name": "x"}, "has a name that is no header's"),
        ({"x": "a\r\nhost: evil"}, "has a value for x that cannot be sent"),
        ({"x": "ü"}, "has a value for x that cannot be sent"),
        ({"x": " "}, "has a value for x that cannot be sent"),
        ({"X-A": "1", "x-a": "2"}, "sets x-a twice"),
    ],
)
def test_headers_that_may_not_be_set(site: Web, headers: dict[str, str], said: str) -> None:
    assert faults(site.post("/v1/webhook_endpoints", {"url": GOOD, "headers": headers})) == [("headers", said)]


def test_nothing_of_another_project_is_there(site: Web) -> None:
    made = make(site)
    _, other = site.new_key(project="other")
    auth = {"Authorization": f"Bearer {other}"}
    path = f"/v1/webhook_endpoints/{made['id']}"
    since = {"since": "2020-01-01T00:00:00Z"}
    for method, where, body in [
        ("GET", path, None),
        ("POST", path, {"name": "mine"}),
        ("DELETE", path, None),
        ("POST", f"{path}/rotate_secret", {}),
        ("POST", f"{path}/test", None),
        ("POST", f"{path}/recover", since),
    ]:
        assert site.client.open(where, method=method, json=body, headers=auth).status_code == 404, where
    assert site.client.get("/v1/webhook_endpoints", headers=auth).json["data"] == []
    assert site.get(path).json["name"] is None


def test_without_a_key_to_encrypt_with_the_answer_names_the_variable(sqlite_url: str, tmp_path: Path) -> None:
    with web(sqlite_url, tmp_path) as site:
        for path, body in [
            ("/v1/webhook_endpoints", {"url": GOOD}),
            ("/v1/webhook_secret/rotate", {}),
            ("/v1/jobs", {**HI, "webhook": {"url": GOOD}}),
            ("/v1/jobs/bulk", {"jobs": [{**HI, "webhook": {"url": GOOD}}]}),
        ]:
            answer = site.post(path, body)
            assert answer.status_code == 501
            assert "COMPLETAR_SECRET_KEY" in answer.json["detail"]
        assert site.get("/v1/jobs").json["data"] == []
        assert site.post("/v1/jobs", HI).status_code == 202


# -- the guard --------------------------------------------------------------------------------------------------------

# A few of each kind; tests/unit/addresses.toml has them all, and the judge is the same.
FORBIDDEN = (
    "https://127.0.0.1/",
    "https://2130706433/",
    "https://0x7f.1/",
    "https://[::ffff:169.254.169.254]/",
    "https://169.254.169.254/latest/meta-data",
    "https://localhost./",
    "https://redis.railway.internal:6379/",
    "https://metadata.google.internal/",
    "http://hooks.example.com/",
    "https://hooks.example.com:22/",
    "https://user:secret@hooks.example.com/",
    "https://hooks.example.com\\@127.0.0.1/",
    "https://rebind.example.com/",
    "https://half.example.com/",
    "ftp://hooks.example.com/",
)


@pytest.mark.parametrize("url", FORBIDDEN)
def test_every_entry_point_judges_alike_and_nobody_is_contacted(
    site: Web, names: dict[str, list[str]], url: str
) -> None:
    names |= {"rebind.example.com": ["127.0.0.1"], "half.example.com": ["1.1.1.1", "10.0.0.1"]}
    endpoint = f"/v1/webhook_endpoints/{make(site)['id']}"
    job = {**HI, "webhook": {"url": url}}
    seen = {
        tuple(faults(site.post(path, body)))
        for path, body in [("/v1/webhook_endpoints", {"url": url}), (endpoint, {"url": url})]
    }
    ((of_endpoint,),) = seen
    assert of_endpoint[0] == "url"
    assert faults(site.post("/v1/jobs", job)) == [("webhook.url", of_endpoint[1])]
    bulk = site.post("/v1/jobs/bulk", {"jobs": [HI, job]})
    assert faults(bulk) == [("webhook.url", of_endpoint[1])]
    assert bulk.json["errors"][0]["line"] == 2
    assert "secret" not in bulk.get_data(as_text=True)
    assert site.get("/v1/jobs").json["data"] == [], "and nothing was stored"


def test_a_name_that_nobody_knows_yet_is_taken(site: Web) -> None:
    assert make(site, "https://soon.example.com/")["url"] == "https://soon.example.com/"


@pytest.mark.parametrize("port", ["closed", "open", "filtered"])
def test_a_port_that_must_not_be_looked_at_looks_the_same_whatever_is_there(
    database_url: str, tmp_path: Path, local: Web, receiver: ScriptedProvider, port: str
) -> None:
    """The address was stored while it was allowed: now it is refused in the same words, and without a packet."""
    made = make(local, receiver.url)
    if port == "closed":
        receiver.stop()
    if port == "filtered":
        receiver.always(script.hang())
    other = tmp_path / "other"
    other.mkdir()
    with web(database_url, other, **KEY) as site:
        begun = time.monotonic()
        tried = site.post(f"/v1/webhook_endpoints/{made['id']}/test").json
        assert time.monotonic() - begun < 2.0
    assert (tried["state"], tried["error_class"], tried["http_status"]) == ("refused", "ssrf_blocked", None)
    (attempt,) = tried["tries"]
    assert attempt["reason"] == "the URL must begin with https://"
    assert (attempt["address"], attempt["answer"], attempt["connect_s"]) == (None, None, None)
    assert receiver.connections == 0


# -- tests, deliveries ------------------------------------------------------------------------------------------------


def test_a_test_is_sent_at_once_with_the_headers_and_answers_how_it_went(
    local: Web, receiver: ScriptedProvider
) -> None:
    receiver.queue(script.reply(500, body="not yet"))
    made = make(local, receiver.url + "/in", headers={"Authorization": "Basic abc"})
    answer = local.post(f"/v1/webhook_endpoints/{made['id']}/test")
    assert answer.status_code == 200
    DeliveryWithAttempts.model_validate_json(answer.get_data())
    tried = answer.json
    assert (tried["state"], tried["http_status"], tried["next_attempt_at"]) == ("exhausted", 500, None)
    assert tried["tries"][0]["answer"] == "not yet"
    assert tried["tries"][0]["trigger"] == "test"
    assert tried["tries"][0]["signed_with"] == [made["secret_hint"]]
    (request,) = receiver.requests
    assert request.headers["authorization"] == "Basic abc"
    assert verified(request, made["secret"]) == tried["event"]
    assert local.get(f"/v1/webhook_endpoints/{made['id']}").json["failing_since"] is None
    soon = local.post(f"/v1/webhook_endpoints/{made['id']}/test")
    assert soon.status_code == 429
    assert int(soon.headers["Retry-After"]) >= 1
    assert len(receiver.requests) == 1
    assert trial.EVERY_S >= 1
    with local.deps.database.write() as conn:
        conn.execute(lease.update().values(until=later(-1)))
    assert local.post(f"/v1/webhook_endpoints/{made['id']}/test").json["state"] == "delivered"


def test_the_secret_of_a_rotation_signs_beside_the_old_one_and_soon_alone(
    local: Web, receiver: ScriptedProvider
) -> None:
    made = make(local, receiver.url)
    path = f"/v1/webhook_endpoints/{made['id']}"
    new = local.post(f"{path}/rotate_secret", {"grace_s": 60}).json["secret"]
    assert local.post(f"{path}/test").json["state"] == "delivered"
    (both,) = receiver.requests
    verified(both, new)
    verified(both, made["secret"])
    alone = local.post(f"{path}/rotate_secret", {"grace_s": 0}).json["secret"]
    with local.deps.database.write() as conn:
        conn.execute(lease.update().values(until=later(-1)))
    local.post(f"{path}/test")
    verified(receiver.requests[1], alone)
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        verified(receiver.requests[1], new)


def test_what_failed_or_was_skipped_is_found_and_sent_again(local: Web, receiver: ScriptedProvider) -> None:
    receiver.queue(script.reply(410))
    made = make(local, receiver.url)
    path = f"/v1/webhook_endpoints/{made['id']}"
    with local.working():
        first = local.post("/v1/jobs", HI, {"Prefer": "wait=20"}).json
        wait_until(lambda: local.get(path).json["disabled"], "the endpoint to be disabled")
        second = local.post("/v1/jobs", HI, {"Prefer": "wait=20"}).json
        wait_until(lambda: _states(local, job_id=second["id"]) == ["skipped"], "the skipped delivery")
        assert _states(local, job_id=first["id"]) == ["exhausted"]
        listed = local.get(f"/v1/webhook_deliveries?endpoint_id={made['id']}")
        DeliveryList.model_validate_json(listed.get_data())
        skipped, exhausted = listed.json["data"]
        assert local.post(f"/v1/webhook_deliveries/{skipped['id']}/resend").status_code == 409
        since = {"since": "2020-01-01T00:00:00Z"}
        refused = local.post(f"{path}/recover", since)
        assert refused.status_code == 409
        assert "Enable it first" in refused.json["detail"]
        local.post(path, {"disabled": False})
        assert local.post(f"{path}/recover", {**since, "until": "2020-01-02T00:00:00+01:00"}).json["recovered"] == 0
        assert local.post(f"{path}/recover", since).json["recovered"] == 2
        wait_until(lambda: _states(local, endpoint_id=made["id"]) == ["delivered"] * 2, "both to be delivered")
        assert local.post(f"/v1/webhook_deliveries/{exhausted['id']}/resend").status_code == 202
        requests = receiver.wait_for(4)
    ids = [request.headers["webhook-id"] for request in requests]
    assert (ids.count(exhausted["event_id"]), ids.count(skipped["event_id"])) == (3, 1)
    assert len({request.body for request in requests}) == 2
    seen = local.get(f"/v1/webhook_deliveries/{exhausted['id']}").json
    assert [one["trigger"] for one in seen["tries"]][:2] == ["auto", "recover"]


def test_an_unknown_delivery(site: Web) -> None:
    for path in ("/v1/webhook_deliveries/whd_1", "/v1/webhook_deliveries/whd_" + "0" * 26):
        assert site.get(path).status_code == 404
        assert site.post(f"{path}/resend").status_code == 404


def _states(site: Web, **query: str) -> list[str]:
    asked = "&".join(f"{name}={value}" for name, value in query.items())
    return [one["state"] for one in site.get(f"/v1/webhook_deliveries?{asked}").json["data"]]


# -- jobs that name whom they tell ------------------------------------------------------------------------------------


def test_a_job_tells_whom_it_names_signed_with_the_projects_secret(local: Web, receiver: ScriptedProvider) -> None:
    assert local.get("/v1/webhook_secret").json == {"object": "webhook_secret", "secret_hint": None, "exists": False}
    secret = local.post("/v1/webhook_secret/rotate", {}).json["secret"]
    every = ["job.queued", "job.in_progress", "job.completed"]
    with local.working():
        job = local.post("/v1/jobs", {**HI, "webhook": {"url": receiver.url, "events": every}}).json
        requests = receiver.wait_for(3)
        wait_until(lambda: _states(local, job_id=job["id"]) == ["delivered"] * 3, "three deliveries")
    told = sorted((verified(request, secret)["data"]["version"], request.json["type"]) for request in requests)
    assert [kind for _, kind in told] == every, "whoever gets them in another order can tell by the version"
    assert {request.json["data"]["id"] for request in requests} == {job["id"]}
    (endpoint,) = {one["endpoint_id"] for one in local.get("/v1/webhook_deliveries").json["data"]}
    seen = local.get(f"/v1/webhook_endpoints/{endpoint}").json
    assert (seen["of"], seen["secret_hint"]) == ("job", None)
    path = f"/v1/webhook_endpoints/{endpoint}"
    assert local.client.delete(path, headers=local.auth).status_code == 409
    assert local.post(path, {"name": "x"}).status_code == 409
    assert local.post(path, {"disabled": True}).json["disabled"] is True
    assert local.post(path, {"disabled": False}).json["disabled"] is False


def test_jobs_of_a_bulk_share_the_row_of_one_address(local: Web, receiver: ScriptedProvider) -> None:
    hook = {"url": receiver.url, "payload": "full"}
    with local.working():
        made = local.post("/v1/jobs/bulk", {"jobs": [{**HI, "webhook": hook}, HI, {**HI, "webhook": hook}]}).json
        requests = receiver.wait_for(2)
        wait_until(lambda: sorted(_states(local)) == ["delivered"] * 2, "two deliveries")
    ids = [job["id"] for job in made["data"]]
    assert {request.json["data"]["id"] for request in requests} == {ids[0], ids[2]}
    assert all(request.json["data"]["output"]["text"] == "fine" for request in requests)
    assert len({one["endpoint_id"] for one in local.get("/v1/webhook_deliveries").json["data"]}) == 1


def test_a_job_that_is_run_again_tells_whom_the_first_one_told(
    local: Web, receiver: ScriptedProvider, provider: ScriptedProvider
) -> None:
    job = local.post("/v1/jobs", {**HI, "webhook": {"url": receiver.url}}).json
    local.post(f"/v1/jobs/{job['id']}/cancel")
    with local.working():
        again = local.post(f"/v1/jobs/{job['id']}/retry").json
        requests = receiver.wait_for(2)
    assert {(r.json["type"], r.json["data"]["id"]) for r in requests} == {
        ("job.cancelled", job["id"]),
        ("job.completed", again["id"]),
    }


@pytest.mark.parametrize(
    ("webhook", "field"),
    [
        ({}, "webhook.url"),
        ({"url": GOOD, "events": []}, "webhook.events"),
        ({"url": GOOD, "events": ["batch.completed"]}, "webhook.events[0]"),
        ({"url": GOOD, "payload": "fat"}, "webhook.payload"),
        ({"url": GOOD, "secret": "x"}, "webhook.secret"),
        ("https://hooks.example.com", "webhook"),
    ],
)
def test_a_webhook_that_is_none(site: Web, webhook: Json, field: str) -> None:
    assert faults(site.post("/v1/jobs", {**HI, "webhook": webhook}))[0][0] == field


def test_the_same_idempotency_key_tells_once(local: Web, receiver: ScriptedProvider) -> None:
    body = {**HI, "webhook": {"url": receiver.url}}
    key = {"Idempotency-Key": "once"}
    first, second = local.post("/v1/jobs", body, key), local.post("/v1/jobs", body, key)
    assert first.json["id"] == second.json["id"]
    with local.working():
        local.post("/v1/jobs", {**body, "metadata": {"last": "1"}})
        wait_until(lambda: _states(local) == ["delivered"] * 2, "two deliveries")
    assert len(receiver.requests) == 2


# -- images by URL ----------------------------------------------------------------------------------------------------


def _with_picture(url: str) -> Json:
    return {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]}


@pytest.mark.parametrize(
    "url",
    ["http://169.254.169.254/latest/", "https://2130706433/x.png", "http://postgres.railway.internal/a", "http://a@b/"],
)
def test_an_image_that_lies_inside_is_never_handed_to_a_provider(site: Web, url: str) -> None:
    where = "messages[0].content[0].image_url"
    assert faults(site.post("/v1/jobs", {"input": _with_picture(url)}))[0][0] == where
    assert faults(site.post("/v1/jobs/bulk", {"jobs": [{"input": _with_picture(url)}]}))[0][0] == where
    chat = site.post("/v1/chat/completions", {"model": "default", **_with_picture(url)})
    assert (chat.status_code, chat.json["error"]["param"]) == (400, where)
    assert site.get("/v1/jobs").json["data"] == []


@pytest.mark.parametrize(
    "url", ["http://hooks.example.com:8080/cat.png", "data:image/png;base64,AA", "gs://bucket/cat"]
)
def test_other_images_are_the_providers_business(site: Web, url: str) -> None:
    assert site.post("/v1/jobs", {"input": _with_picture(url)}).status_code == 202
