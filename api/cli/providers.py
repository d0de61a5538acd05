"""`completar providers`."""

from __future__ import annotations

import click

from api.cli.command import Command, as_json
from api.cli.configured import configured
from api.cli.screen import Screen
from worker.providers.sandbox import MODELS
from worker.settings import SANDBOX


@click.command(cls=Command)
@as_json("One JSON document.")
@click.pass_obj
def providers(screen: Screen, as_json: bool) -> None:
    """The providers that are configured, their keys by name, and what the sandbox's models do.

    For example:
      completar providers
      completar run "Hello" --model sandbox/slow-2s
    """
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
