"""`completar endpoints`: Inference Endpoints of Hugging Face, through its management API."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, TypeVar

import click
import httpx

from api.cli.command import Group, as_json
from api.cli.consent import confirm
from api.cli.fault import CliFault, Exit
from api.cli.local import settings
from api.cli.screen import Screen, money
from worker import clock
from worker.domain.answer import Failure
from worker.domain.failure import FailureKind
from worker.providers import endpoints as wire
from worker.providers.endpoint_prices import AS_OF, price_per_hour
from worker.providers.endpoints import Endpoint, Hardware, Management, NewEndpoint

KEY: Final = "HUGGINGFACE_API_KEY"
_WAIT_S: Final = 60.0
_ACCELERATORS: Final = {"intel": "cpu", "amd": "cpu", "nvidia": "gpu", "inf": "neuron", "tpu": "tpu"}
_MEANS: Final = {
    None: "serves",
    FailureKind.LOADING: "starts, or wakes on a request",
    FailureKind.GONE: "serves nothing until it is resumed or mended",
}
_CODES: Final = {
    FailureKind.AUTH: Exit.CONFIG,
    FailureKind.PERMISSION: Exit.CONFIG,
    FailureKind.QUOTA: Exit.CONFIG,
    FailureKind.BAD_REQUEST: Exit.USAGE,
}

Read = TypeVar("Read")
Callback = TypeVar("Callback", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Desk:
    """Where requests of one command go."""

    screen: Screen
    management: Management

    def ask(
        self,
        request: httpx.Request,
        read: Callable[[int, Mapping[str, str], bytes, datetime], Read | Failure],
    ) -> Read:
        """Raises CliFault for every failure."""
        found = self.tried(request, read)
        if isinstance(found, Failure):
            remedy = (
                f"{KEY} must hold a token that may manage endpoints." if _CODES.get(found.kind) == Exit.CONFIG else None
            )
            raise CliFault(f"Hugging Face says: {found.message}", remedy, _CODES.get(found.kind, Exit.FAILED))
        return found

    def tried(
        self,
        request: httpx.Request,
        read: Callable[[int, Mapping[str, str], bytes, datetime], Read | Failure],
    ) -> Read | Failure:
        try:
            with httpx.Client(timeout=httpx.Timeout(_WAIT_S, connect=10.0)) as client:
                reply = client.send(request)
        except httpx.TransportError as away:
            said = f"{request.url.host} does not answer ({type(away).__name__})."
            raise CliFault(said, "Look at the network, then try again.", Exit.UNREACHABLE) from None
        self.screen.detail(f"{request.method} {request.url.path} -> {reply.status_code}")
        return read(reply.status_code, dict(reply.headers), reply.content, clock.now())


class Name(click.ParamType[str]):
    """Becomes a part of an address, where dots alone would mean another one."""

    name = "NAME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not isinstance(value, str) or not value.strip("."):
            self.fail(f"{value!r} is no name.", param, ctx)
        return value


def asking(command: Callback) -> Callback:
    """The options of every command that asks Hugging Face."""
    command = click.option("--api-url", default=wire.API, hidden=True)(command)
    owner = "The user or organization that owns the endpoints."
    return click.option("--namespace", required=True, type=Name(), help=owner)(command)


def desk_of(screen: Screen, namespace: str, api_url: str) -> Desk:
    key = settings().keys.get(KEY)
    if key is None:
        raise CliFault(f"{KEY} is not set.", "Make a token at huggingface.co/settings/tokens.", Exit.CONFIG)
    return Desk(screen, Management(namespace, key.get_secret_value(), api_url))


@click.group(cls=Group)
def endpoints() -> None:
    """Inference Endpoints of Hugging Face: machines of your own, paid by the minute."""


@endpoints.command(name="list")
@asking
@as_json("One JSON document.")
@click.pass_obj
def list_(screen: Screen, namespace: str, api_url: str, as_json: bool) -> None:
    """Every endpoint, with its state and what it costs while it runs.

    For example:
      completar endpoints list --namespace my-org
    """
    desk = desk_of(screen, namespace, api_url)
    found = desk.ask(desk.management.list(), wire.read_endpoints)
    if as_json:
        screen.document([_document(one) for one in found])
        return
    screen.table(
        ("name", "state", "model", "engine", "instance", "per hour", "address"),
        ((one.name, one.state, one.repository, one.engine, _instance(one), _price(one), one.url) for one in found),
    )


@endpoints.command()
@click.argument("name", type=Name())
@asking
@as_json("One JSON document.")
@click.pass_obj
def status(screen: Screen, name: str, namespace: str, api_url: str, as_json: bool) -> None:
    """One endpoint: its state, and what a request to it would come to.

    For example:
      completar endpoints status my-endpoint --namespace my-org
    """
    desk = desk_of(screen, namespace, api_url)
    _show(screen, desk.ask(desk.management.get(name), wire.read_endpoint), as_json=as_json)


@endpoints.command()
@click.argument("name", type=Name())
@click.option("--model", required=True, help="The repository it serves: org/name.")
@click.option("--vendor", default="aws", show_default=True, help="aws, azure or gcp.")
@click.option("--region", default="us-east-1", show_default=True)
@click.option("--instance", default="intel-spr", show_default=True, help="The type of machine, such as nvidia-l4.")
@click.option("--size", default="x1", show_default=True, help="How many of its units.")
@click.option("--accelerator", help="cpu, gpu, neuron or tpu; told by the instance where not said.")
@click.option("--engine", type=click.Choice(list(wire.ENGINES)), default="default", show_default=True)
@click.option(
    "--task", help="text-generation, text2text-generation, sentence-embeddings ...; the model's own where not said."
)
@click.option("--revision", help="Commit or branch of the model.")
@click.option("--min-replicas", type=click.IntRange(0), default=0, show_default=True, help="Above 0 it never sleeps.")
@click.option("--max-replicas", type=click.IntRange(1), default=1, show_default=True)
@click.option(
    "--scale-to-zero",
    "sleep_min",
    type=click.IntRange(1),
    default=15,
    show_default=True,
    help="Minutes without a request after which it sleeps.",
)
@click.option(
    "--security",
    type=click.Choice(["authenticated", "private", "public"]),
    default="authenticated",
    show_default=True,
    help="Who may call it: anybody with a token, only you, anybody.",
)
@click.option("--image", multiple=True, metavar="NAME=VALUE", help="What the engine is told, such as url or port.")
@click.option("--env", multiple=True, metavar="NAME=VALUE", help="A variable of the container.")
@click.option("--secret", multiple=True, metavar="NAME", help="A secret of the container: this variable's value here.")
@click.option("--dry-run", is_flag=True, help="Show the request and the price, and send nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@asking
@as_json("One JSON document.")
@click.pass_obj
def create(
    screen: Screen, /, name: str, *, dry_run: bool, yes: bool, namespace: str, api_url: str, as_json: bool, **asked: Any
) -> None:
    """Make an endpoint, after its price was shown. It costs money from the moment it starts.

    For example:
      completar endpoints create flan --namespace my-org --model google/flan-t5-base --dry-run
      completar endpoints create chat --namespace my-org --model org/model --engine vllm --instance nvidia-l4 --yes
    """
    new = _new(name, **asked)
    if dry_run:
        _say_price(screen, new, price_per_hour(new.vendor, new.instance_type, new.instance_size), f"as of {AS_OF}")
        screen.document(replace(new, secrets=dict.fromkeys(new.secrets, "***")).body())
        screen.say("Nothing was sent.")
        return
    desk = desk_of(screen, namespace, api_url)
    _say_price(screen, new, *_asked_price(desk, new))
    confirm(f"Create {name}?", yes=yes)
    _show(screen, desk.ask(desk.management.create(new), wire.read_endpoint), as_json=as_json)


@endpoints.command()
@click.argument("name", type=Name())
@asking
@click.pass_obj
def resume(screen: Screen, name: str, namespace: str, api_url: str) -> None:
    """Start a paused endpoint. It costs money again from now on.

    For example:
      completar endpoints resume my-endpoint --namespace my-org
    """
    desk = desk_of(screen, namespace, api_url)
    found = desk.ask(desk.management.resume(name), wire.read_resumed)
    if found is None:
        screen.say(f"{name} is running already.")
    else:
        screen.say(f"{name}: {found.state}; {money(_dollars(found))} an hour for each replica.")


@endpoints.command()
@click.argument("name", type=Name())
@asking
@click.pass_obj
def pause(screen: Screen, name: str, namespace: str, api_url: str) -> None:
    """Stop an endpoint until it is resumed: it costs nothing, counts against no quota, and no request wakes it.

    For example:
      completar endpoints pause my-endpoint --namespace my-org
    """
    desk = desk_of(screen, namespace, api_url)
    screen.say(f"{name}: {desk.ask(desk.management.pause(name), wire.read_endpoint).state}.")


@endpoints.command(name="scale-to-zero")
@click.argument("name", type=Name())
@asking
@click.pass_obj
def scale_to_zero(screen: Screen, name: str, namespace: str, api_url: str) -> None:
    """Send an endpoint to sleep now: it costs nothing, and the next request wakes it.

    For example:
      completar endpoints scale-to-zero my-endpoint --namespace my-org
    """
    desk = desk_of(screen, namespace, api_url)
    screen.say(f"{name}: {desk.ask(desk.management.scale_to_zero(name), wire.read_endpoint).state}.")


@endpoints.command()
@click.argument("name", type=Name())
@click.option("--yes", is_flag=True, help="Do not ask.")
@asking
@click.pass_obj
def delete(screen: Screen, name: str, yes: bool, namespace: str, api_url: str) -> None:
    """Delete an endpoint, for good. Its address will not come back.

    For example:
      completar endpoints delete my-endpoint --namespace my-org --yes
    """
    desk = desk_of(screen, namespace, api_url)
    confirm(f"Whoever calls {name} will be refused. Delete it?", yes=yes)
    desk.ask(desk.management.delete(name), wire.read_deleted)
    screen.say(f"{name} is deleted.")


def _new(
    name: str, *, image: tuple[str, ...], env: tuple[str, ...], secret: tuple[str, ...], **asked: Any
) -> NewEndpoint:
    """Raises click.UsageError, CliFault."""
    low, high, instance = asked["min_replicas"], asked["max_replicas"], asked["instance"]
    if low > high:
        raise click.UsageError(f"--min-replicas {low} is more than --max-replicas {high}.")
    told: dict[str, Any] = {
        key: int(value) if value.isdecimal() else value for key, value in _pairs("--image", image).items()
    }
    if asked["engine"] == "custom" and "url" not in told:
        raise click.UsageError("A custom engine needs its image: --image url=...")
    accelerator = asked["accelerator"] or _ACCELERATORS.get(instance.partition("-")[0].rstrip("0123456789"))
    if accelerator is None:
        raise click.UsageError(f"--accelerator is needed: {instance} does not tell what it is.")
    missing = [one for one in secret if one not in os.environ]
    if missing:
        raise CliFault(f"{missing[0]} is not set, and --secret names it.", "Set it for this command.", Exit.CONFIG)
    return NewEndpoint(
        name=name,
        repository=asked["model"],
        vendor=asked["vendor"],
        region=asked["region"],
        accelerator=accelerator,
        instance_type=instance,
        instance_size=asked["size"],
        engine=asked["engine"],
        task=asked["task"],
        revision=asked["revision"],
        security=asked["security"],
        min_replicas=low,
        max_replicas=high,
        scale_to_zero_min=asked["sleep_min"] if low == 0 else None,
        image=told,
        env=_pairs("--env", env),
        secrets={one: os.environ[one] for one in secret},
    )


def _pairs(option: str, given: tuple[str, ...]) -> dict[str, str]:
    pairs = {}
    for one in given:
        name, found, value = one.partition("=")
        if not found or not name:
            raise click.UsageError(f"{option} takes NAME=VALUE.")
        pairs[name] = value
    return pairs


def _asked_price(desk: Desk, new: NewEndpoint) -> tuple[Decimal | None, str]:
    """The price this account would pay, and whose word that is. Raises CliFault for what cannot be had at all."""
    hardware = desk.tried(desk.management.hardware(), wire.read_hardware)
    if isinstance(hardware, Failure):
        return price_per_hour(new.vendor, new.instance_type, new.instance_size), f"as of {AS_OF}"
    there = [one for one in hardware if (one.vendor, one.region) == (new.vendor, new.region)]
    wanted = [one for one in there if (one.instance_type, one.instance_size) == (new.instance_type, new.instance_size)]
    if not wanted:
        offered = ", ".join(sorted(map(_size, there))) or "nothing"
        told = f"{new.vendor} {new.region} has no {new.instance_type} {new.instance_size} for you."
        raise CliFault(told, f"It has: {offered}.", Exit.USAGE)
    return wanted[0].price_per_hour, "as Hugging Face tells it now"


def _say_price(screen: Screen, new: NewEndpoint, price: Decimal | None, source: str) -> None:
    """What it costs, before anything is made."""
    screen.say(f"{new.name}: {new.repository} on {new.vendor} {new.region}, {new.instance_type} {new.instance_size}")
    if price is None:
        screen.say("Price per hour and replica: unknown.")
    else:
        most = money(float(price * new.max_replicas))
        screen.say(f"Price: {money(float(price))} an hour for each replica ({source}); at most {most} an hour.")
    if new.scale_to_zero_min is None:
        screen.say(f"It never sleeps: {new.min_replicas} of it always run, and cost.")
    else:
        screen.say(f"After {new.scale_to_zero_min} minutes without a request it sleeps, and costs nothing.")


def _show(screen: Screen, found: Endpoint, *, as_json: bool) -> None:
    if as_json:
        screen.document(_document(found))
        return
    screen.table(
        ("what", "value"),
        (
            ("name", found.name),
            ("state", f"{found.state}: {_MEANS[found.kind]}"),
            ("message", found.message),
            ("address", found.url),
            ("model", found.repository),
            ("task", found.task),
            ("engine", found.engine),
            ("security", found.security),
            ("instance", _instance(found)),
            ("replicas", f"{found.ready_replicas} ready, {found.min_replicas} to {found.max_replicas}"),
            ("sleeps after", None if found.scale_to_zero_min is None else f"{found.scale_to_zero_min} minutes"),
            ("per hour", _price(found)),
        ),
    )


def _document(found: Endpoint) -> dict[str, Any]:
    return {**asdict(found), "price_per_hour": _dollars(found)}


def _dollars(found: Endpoint) -> float | None:
    price = price_per_hour(found.vendor or "", found.instance_type or "", found.instance_size or "")
    return None if price is None else float(price)


def _price(found: Endpoint) -> str:
    return money(_dollars(found))


def _instance(found: Endpoint) -> str:
    parts = (found.vendor, found.region, found.instance_type, found.instance_size)
    return " ".join(part for part in parts if part)


def _size(one: Hardware) -> str:
    return f"{one.instance_type} {one.instance_size}"
