"""`completar providers`."""

from __future__ import annotations

from dataclasses import asdict

import click

from api.cli.command import Group, as_json
from api.cli.configured import configured
from api.cli.fault import Exit
from api.cli.screen import Screen
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
