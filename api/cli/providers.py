"""`completar providers`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import click

from api.cli.command import Group, as_json
from api.cli.configured import configured
from api.cli.fault import Exit
from api.cli.ids import checked
from api.cli.screen import Screen
from api.cli.server import server
from worker.providers.sandbox import MODELS
from worker.settings import SANDBOX


@click.group(cls=Group, invoke_without_command=True)
@as_json("One JSON document.")
@click.pass_context
def providers(ctx: click.Context, as_json: bool) -> None:
    """The providers that are configured, their keys by name, and what the sandbox's models do.

    For example:
      completar providers
      completar providers check
      completar providers pauses
      completar run "Hello" --model sandbox/slow-2s
    """
    if ctx.invoked_subcommand is None:
        _list(ctx.ensure_object(Screen), as_json=as_json)


@providers.command()
@as_json("One JSON document.")
@click.pass_context
def check(ctx: click.Context, as_json: bool) -> None:
    """Ask each provider for its models, and say which configured names are gone. Costs nothing.

    Exit code 4 where a configured model is gone.

    For example:
      completar providers check
    """
    from worker.services.inventory import check as compare  # noqa: PLC0415 - the HTTP library, for this alone

    screen = ctx.ensure_object(Screen)
    _, catalog = configured()
    found = compare(catalog)
    if as_json:
        screen.document({"models": [asdict(one) for one in found]})
    else:
        rows = ((f"{one.provider}/{one.model}", one.verdict, one.note or "") for one in found)
        screen.table(("model", "state", "note"), rows)
    for warning in catalog.warnings:
        screen.warn(f"warning: {warning}")
    if any(one.verdict == "gone" for one in found):
        ctx.exit(Exit.CONFIG)


@providers.command()
@click.argument("name", metavar="PROVIDER", required=False)
@as_json("One JSON document.")
@click.pass_obj
def pauses(screen: Screen, name: str | None, as_json: bool) -> None:
    """What no worker asks just now: why, and when it is looked at again.

    For example:
      completar providers pauses
      completar providers pauses groq
    """
    with server(screen) as at:
        found = at.client.get("/v1/providers").json()["data"]
    _shown(screen, [one for each in found if name in {None, each["name"]} for one in each["pauses"]], as_json=as_json)


@providers.command()
@click.argument("name", metavar="PROVIDER")
@click.option("--key", metavar="VARIABLE", help="Only this key of it.")
@click.option("--reason", help="Shown to those whose jobs wait.")
@as_json("One JSON document.")
@click.pass_obj
def pause(screen: Screen, name: str, key: str | None, reason: str | None, as_json: bool) -> None:
    """Ask a provider nothing more, from no worker, until it is resumed. Jobs that need it wait. The API key must be one
    with the scope `admin`.

    For example:
      completar providers pause groq --reason "invoice in dispute"
      completar providers pause groq --key GROQ_API_KEY_2
    """
    _told(screen, f"/v1/providers/{_checked(name)}/pause", {"key": key, "reason": reason}, as_json=as_json)


@providers.command()
@click.argument("name", metavar="PROVIDER")
@click.option("--key", metavar="VARIABLE", help="Only this key of it.")
@as_json("One JSON document.")
@click.pass_obj
def resume(screen: Screen, name: str, key: str | None, as_json: bool) -> None:
    """Let a provider go on, whoever paused it: an exhausted quota, a refused key, or you.

    For example:
      completar providers resume groq
    """
    _told(screen, f"/v1/providers/{_checked(name)}/resume", {"key": key}, as_json=as_json)


@providers.command(name="open")
@click.argument("target", metavar="TARGET")
@click.option("--reason", help="Shown to those whose jobs wait.")
@as_json("One JSON document.")
@click.pass_obj
def open_(screen: Screen, target: str, reason: str | None, as_json: bool) -> None:
    """Open the circuit breaker of one target by hand: it is not called until `close`.

    For example:
      completar providers open groq/openai/gpt-oss-20b
    """
    _told(screen, "/v1/targets/open", {"target": target, "reason": reason}, as_json=as_json)


@providers.command()
@click.argument("target", metavar="TARGET")
@as_json("One JSON document.")
@click.pass_obj
def close(screen: Screen, target: str, as_json: bool) -> None:
    """Close the circuit breaker of one target, opened by hand or by failures: it is called again at once.

    For example:
      completar providers close groq/openai/gpt-oss-20b
    """
    _told(screen, "/v1/targets/close", {"target": target}, as_json=as_json)


def _told(screen: Screen, path: str, given: Mapping[str, str | None], *, as_json: bool) -> None:
    with server(screen) as at:
        answer = at.client.post(path, {name: value for name, value in given.items() if value is not None})
    _shown(screen, answer.json()["data"], as_json=as_json)


def _shown(screen: Screen, held: Sequence[Mapping[str, Any]], *, as_json: bool) -> None:
    if as_json:
        screen.document({"pauses": held})
        return
    columns = ("what", "kind", "since", "next look", "reason")
    screen.table(columns, ((one["of"], one["kind"], one["since"], one["until"], one["reason"]) for one in held))
    if not held:
        screen.say("Nothing is paused.")


def _checked(name: str) -> str:
    return checked(name, "name of a provider", "providers")


def _list(screen: Screen, *, as_json: bool) -> None:
    _, catalog = configured()
    if as_json:
        screen.document({"providers": catalog.describe()["providers"], "sandbox_models": dict(MODELS)})
        return
    screen.table(
        ("provider", "label", "keys", "default model", "address"),
        (
            (
                spec.name,
                spec.label,
                ", ".join(key.name for key in spec.keys) or "(takes none)",
                spec.default_model,
                "(built in)" if spec.is_sandbox else spec.base_url,
            )
            for spec in catalog.providers.values()
        ),
    )
    if all(spec.is_sandbox for spec in catalog.providers.values()):
        screen.say(
            "\nNo provider has a key, so the sandbox answers: no real model. `.env.example` names the variables."
        )
    turned_on = "" if SANDBOX in catalog.providers else " (COMPLETAR_SANDBOX=on turns it on)"
    screen.say(f"\nModels of the sandbox{turned_on}:")
    screen.table(("model", "what it does"), ((f"{SANDBOX}/{name}", does) for name, does in MODELS.items()))
