"""`completar webhooks`: who is told what, how it went, and a receiver to try it with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import click
import httpx

from api.cli.command import Group, as_json
from api.cli.consent import confirm
from api.cli.database import database
from api.cli.fault import CliFault, Exit
from api.cli.ids import checked
from api.cli.local import settings
from api.cli.program import PROGRAM
from api.cli.screen import Screen, seconds
from api.cli.server import server
from api.cli.webhook_receiver import listen, verify
from worker import clock
from worker.domain.delivery import DEFAULT_EVENTS, EVENT_TYPES, DeliveryState
from worker.store import webhook_endpoints as stored
from worker.webhooks.vault import Unreadable, Vault

_TOLD: Final = tuple(name for name in EVENT_TYPES if name != "webhook_endpoint.test")
_HOUR_S: Final = 3600.0


@click.group(cls=Group)
def webhooks() -> None:
    """Tell programs of yours what becomes of jobs, signed and until they have heard it."""


webhooks.add_command(listen)
webhooks.add_command(verify)


@webhooks.command(name="list")
@click.option("--after", metavar="ID", help="Those before this one: the last id of the page you have.")
@click.option("--limit", type=click.IntRange(1, 100), default=20, show_default=True)
@as_json()
@click.pass_obj
def list_(screen: Screen, after: str | None, limit: int, as_json: bool) -> None:
    """The project's endpoints, newest first.

    For example:
      completar webhooks list
    """
    with server(screen) as at:
        response = at.client.get("/v1/webhook_endpoints", {"after": after, "limit": limit})
    if as_json:
        screen.data(response.text)
        return
    page = response.json()
    screen.table(
        ("id", "state", "url", "name", "secret ends in", "events"),
        ((e["id"], _state(e), e["url"], e["name"], e["secret_hint"], " ".join(e["event_types"])) for e in page["data"]),
    )
    if page["has_more"]:
        screen.say(f"There are more: --after {page['last_id']}")


@webhooks.command()
@click.argument("url")
@click.option("--name", help="To tell endpoints apart.")
@click.option("--event", "events", multiple=True, type=click.Choice(_TOLD), help="Only these; every end if not said.")
@click.option("--full", is_flag=True, help="Send answers along, where they are short.")
@click.option("--max-rps", type=click.FloatRange(0.1, 1000), help="Deliveries a second; 50 if not said.")
@click.option("--max-concurrency", type=click.IntRange(1, 100), help="Deliveries at once; 20 if not said.")
@click.option("--timeout", "timeout_s", type=click.FloatRange(1, 30), help="Seconds for a whole try; 15 if not said.")
@click.option("--header", "-H", "headers", multiple=True, metavar="'NAME: VALUE'", help="Sent with every try.")
@as_json()
@click.pass_obj
def create(
    screen: Screen, /, url: str, events: tuple[str, ...], headers: tuple[str, ...], as_json: bool, **asked: Any
) -> None:
    """Make an endpoint. Its secret is shown once.

    For example:
      completar webhooks create https://example.com/hooks --name shop
      completar webhooks create https://example.com/hooks --event job.failed -H 'Authorization: Bearer ...'
    """
    body = _fields(asked) | {"url": url, "event_types": list(events or DEFAULT_EVENTS), "headers": _pairs(headers)}
    with server(screen) as at:
        response = at.client.post("/v1/webhook_endpoints", body)
    _secret_shown(screen, response, f"Endpoint {response.json()['id']}; its secret", as_json=as_json)


@webhooks.command()
@click.argument("endpoint_id")
@click.option("--url", help="Another address.")
@click.option("--name", help="To tell endpoints apart.")
@click.option("--event", "events", multiple=True, type=click.Choice(_TOLD), help="Only these from now on.")
@click.option("--full/--thin", "full", default=None, help="Whether answers are sent along.")
@click.option("--max-rps", type=click.FloatRange(0.1, 1000), help="Deliveries a second.")
@click.option("--max-concurrency", type=click.IntRange(1, 100), help="Deliveries at once.")
@click.option("--timeout", "timeout_s", type=click.FloatRange(1, 30), help="Seconds for a whole try.")
@click.option("--header", "-H", "headers", multiple=True, metavar="'NAME: VALUE'", help="These and no others.")
@click.option("--disable/--enable", "disabled", default=None, help="Whether anything is sent.")
@as_json()
@click.pass_obj
def update(
    screen: Screen, /, endpoint_id: str, events: tuple[str, ...], headers: tuple[str, ...], as_json: bool, **asked: Any
) -> None:
    """Change an endpoint; what is not said stays.

    For example:
      completar webhooks update we_01... --enable
    """
    body = _fields(asked)
    if events:
        body["event_types"] = list(events)
    if headers:
        body["headers"] = _pairs(headers)
    with server(screen) as at:
        response = at.client.post(f"/v1/webhook_endpoints/{_checked(endpoint_id)}", body)
    _shown(screen, response, as_json=as_json)


@webhooks.command()
@click.argument("endpoint_id")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def delete(screen: Screen, endpoint_id: str, yes: bool) -> None:
    """Delete an endpoint. What was waiting for it is not sent any more.

    For example:
      completar webhooks delete we_01... --yes
    """
    confirm(f"Nothing more will be sent to {endpoint_id}. Delete it?", yes=yes)
    with server(screen) as at:
        at.client.delete(f"/v1/webhook_endpoints/{_checked(endpoint_id)}")
    screen.say(f"{endpoint_id} is deleted.")


@webhooks.command()
@click.argument("endpoint_id")
@click.option(
    "--grace-hours",
    type=click.FloatRange(0, 168),
    default=24,
    show_default=True,
    help="So long the old secret signs too.",
)
@as_json()
@click.pass_obj
def rotate(screen: Screen, endpoint_id: str, grace_hours: float, as_json: bool) -> None:
    """Give an endpoint a new secret, shown once. Meanwhile both sign.

    For example:
      completar webhooks rotate we_01... --grace-hours 48
    """
    with server(screen) as at:
        path = f"/v1/webhook_endpoints/{_checked(endpoint_id)}/rotate_secret"
        response = at.client.post(path, {"grace_s": grace_hours * _HOUR_S})
    _secret_shown(screen, response, f"Endpoint {endpoint_id}; its secret", as_json=as_json)


@webhooks.command()
@click.option("--rotate", "wanted", is_flag=True, help="Make a new one, and show it.")
@click.option(
    "--grace-hours",
    type=click.FloatRange(0, 168),
    default=24,
    show_default=True,
    help="So long the old secret signs too.",
)
@as_json()
@click.pass_obj
def secret(screen: Screen, wanted: bool, grace_hours: float, as_json: bool) -> None:
    """The project's own secret: it signs what jobs that name a webhook send. A new one is shown once.

    For example:
      completar webhooks secret
      completar webhooks secret --rotate
    """
    with server(screen) as at:
        if wanted:
            response = at.client.post("/v1/webhook_secret/rotate", {"grace_s": grace_hours * _HOUR_S})
            _secret_shown(screen, response, "The project's webhook secret", as_json=as_json)
            return
        response = at.client.get("/v1/webhook_secret")
    if as_json:
        screen.data(response.text)
        return
    found = response.json()
    screen.data(found["secret_hint"] or "")
    screen.say("There is one; `--rotate` makes and shows another." if found["exists"] else "`--rotate` makes one.")


@webhooks.command()
@click.argument("endpoint_id")
@as_json()
@click.pass_obj
def test(screen: Screen, endpoint_id: str, as_json: bool) -> Exit:
    """Send a test event now. Exit code 1 when the receiver did not take it.

    For example:
      completar webhooks test we_01...
    """
    with server(screen) as at:
        response = at.client.post(f"/v1/webhook_endpoints/{_checked(endpoint_id)}/test")
    _told(screen, response, as_json=as_json)
    return Exit.OK if response.json()["state"] == DeliveryState.DELIVERED else Exit.FAILED


@webhooks.command()
@click.argument("delivery_id", required=False)
@click.option("--endpoint", "endpoint_id", metavar="ID", help="Only to this one.")
@click.option("--job", "job_id", metavar="ID", help="Only of this job.")
@click.option("--state", type=click.Choice([state.value for state in DeliveryState]), help="Only these.")
@click.option("--created-after", metavar="TIME", help="RFC 3339, e.g. 2026-11-22T08:00:00Z.")
@click.option("--after", metavar="ID", help="Those before this one: the last id of the page you have.")
@click.option("--limit", type=click.IntRange(1, 100), default=20, show_default=True)
@as_json()
@click.pass_obj
def deliveries(screen: Screen, /, delivery_id: str | None, limit: int, as_json: bool, **wanted: Any) -> None:
    """What was sent, newest first; or one delivery with every try.

    For example:
      completar webhooks deliveries --state exhausted
      completar webhooks deliveries whd_01...
    """
    with server(screen) as at:
        if delivery_id is not None:
            _told(screen, at.client.get(f"/v1/webhook_deliveries/{_checked(delivery_id)}"), as_json=as_json)
            return
        response = at.client.get("/v1/webhook_deliveries", {**wanted, "limit": limit})
    if as_json:
        screen.data(response.text)
        return
    page = response.json()
    screen.table(
        ("id", "state", "event", "of", "to", "tries", "status", "error", "created", "next try"),
        (
            (
                *(d["id"], d["state"], d["event_type"], d["object_id"], d["endpoint_id"], d["attempts"]),
                *(d["http_status"], d["error_class"], d["created_at"], d["next_attempt_at"]),
            )
            for d in page["data"]
        ),
    )
    if page["has_more"]:
        screen.say(f"There are more: --after {page['last_id']}")


@webhooks.command()
@click.argument("delivery_ids", metavar="DELIVERY_ID...", nargs=-1, required=True)
@click.pass_obj
def resend(screen: Screen, delivery_ids: tuple[str, ...]) -> None:
    """Send deliveries once more, with the ids and bodies they had.

    For example:
      completar webhooks resend whd_01...
    """
    with server(screen) as at:
        for delivery_id in delivery_ids:
            response = at.client.post(f"/v1/webhook_deliveries/{_checked(delivery_id)}/resend")
            screen.data(f"{delivery_id}\t{response.json()['state']}")


@webhooks.command()
@click.argument("endpoint_id")
@click.option("--since", metavar="TIME", help="RFC 3339; 24 hours ago if not said.")
@click.option("--until", metavar="TIME", help="RFC 3339; now if not said.")
@click.pass_obj
def recover(screen: Screen, endpoint_id: str, since: str | None, until: str | None) -> None:
    """Send again what failed, waits for its next try, or was skipped while the endpoint was disabled.

    For example:
      completar webhooks recover we_01... --since 2026-11-20T00:00:00Z
    """
    body = {"since": since or (clock.now() - timedelta(days=1)).astimezone(UTC).isoformat(timespec="seconds")}
    if until is not None:
        body["until"] = until
    with server(screen) as at:
        response = at.client.post(f"/v1/webhook_endpoints/{_checked(endpoint_id)}/recover", body)
    recovered = response.json()["recovered"]
    screen.data(str(recovered))
    if recovered == 0:
        screen.say("Nothing to send again.")
        return
    screen.say(f"They are due now; `{PROGRAM} webhooks deliveries` shows how they fare.")


@webhooks.command()
@click.pass_obj
def reseal(screen: Screen) -> Exit:
    """Encrypt all stored secrets anew, with the first key of COMPLETAR_SECRET_KEY.

    Put the new key in front of the old one, with a comma between, and restart; run this; then take the old key away.

    For example:
      completar webhooks reseal
    """
    told = settings()
    if not told.secret_keys:
        raise CliFault(
            "COMPLETAR_SECRET_KEY is not set.", "Set it as the server has it: new key, old key.", Exit.CONFIG
        )
    vault, done, left = Vault(told.secret_keys), 0, 0
    with database(told) as opened:
        with opened.read() as conn:
            found = stored.sealed(conn)
        for table, row_id, texts in found:
            try:
                fresh = {name: vault.reseal(text) for name, text in texts.items()}
            except Unreadable:
                left += 1
                screen.warn(f"completar: {row_id} was encrypted with a key that is not in COMPLETAR_SECRET_KEY.")
                continue
            with opened.write() as conn:
                done += stored.reseal(conn, table, row_id, fresh, texts)
    screen.say(f"Encrypted anew: {done}. Not readable: {left}.")
    if done + left < len(found):
        screen.say("Some changed meanwhile: run it once more.")
    return Exit.FAILED if done < len(found) else Exit.OK


def _fields(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Options that were given, as the API names them."""
    body = {name: value for name, value in asked.items() if value is not None and name != "full"}
    if asked.get("full") is not None:
        body["payload"] = "full" if asked["full"] else "thin"
    return body


def _pairs(given: tuple[str, ...]) -> dict[str, str]:
    pairs = {}
    for one in given:
        name, colon, value = one.partition(":")
        if not colon:
            raise click.UsageError("--header takes 'NAME: VALUE'.")
        pairs[name.strip()] = value.strip()
    return pairs


def _checked(some_id: str) -> str:
    return checked(some_id, "id", "webhooks list", "webhooks deliveries")


def _state(endpoint: Mapping[str, Any]) -> str:
    if endpoint["disabled"]:
        return f"disabled: {endpoint['disabled_reason']}"
    return f"failing since {endpoint['failing_since']}" if endpoint["failing_since"] else "active"


def _secret_shown(screen: Screen, response: httpx.Response, what: str, *, as_json: bool) -> None:
    if as_json:
        screen.data(response.text)
        return
    screen.say(f"{what}, shown only now:")
    screen.data(response.json()["secret"])


def _shown(screen: Screen, response: httpx.Response, *, as_json: bool) -> None:
    if as_json:
        screen.data(response.text)
        return
    for name, value in response.json().items():
        if name != "object" and value is not None:
            said = " ".join(value) if isinstance(value, list) else json.dumps(value) if value is False else value
            screen.data(f"{name + ':':16} {said}")


def _told(screen: Screen, response: httpx.Response, *, as_json: bool) -> None:
    """A delivery with its tries."""
    if as_json:
        screen.data(response.text)
        return
    found = response.json()
    screen.say(f"{found['id']}: {found['event_type']} of {found['object_id']}, {found['state']}")
    screen.table(
        ("try", "trigger", "started", "took", "address", "status", "error", "reason", "next try"),
        (
            (
                *(t["number"], t["trigger"], datetime.fromisoformat(t["started_at"]), seconds(t["total_s"])),
                *(t["address"], t["http_status"], t["error_class"], t["reason"], t["next_attempt_at"]),
            )
            for t in found["tries"]
        ),
    )
