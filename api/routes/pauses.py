"""Pauses of providers, and doors that people close and open by hand. They are of the whole installation: for admins."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Final, Literal

import flask
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from api import body
from api.desk import Desk
from api.fields import Strict
from api.job import Instant
from api.operations import Answer, Body, Call, Operations, Reply, validated
from api.problems import NOT_FOUND, Problem
from worker import events
from worker.domain.answer import Json
from worker.domain.pause import Pause, PauseKind, Scope
from worker.domain.route import Target
from worker.providers.catalog import ProviderSpec
from worker.providers.spec import target_named
from worker.services.native.answers import instant
from worker.settings import closest
from worker.store import pauses as stored
from worker.store.database import Connection

pausing: Final = Operations("Operation")

_Reason = Annotated[str, Field(max_length=200, description="Shown to everybody whose jobs wait for it.")]
_BY_HAND: Final = "paused by an operator"


class PauseRequest(Strict):
    """Nothing: the whole provider. `key` is the name of a variable, as `keys` of the provider lists it."""

    key: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    reason: _Reason | None = None


class ResumeRequest(Strict):
    """Nothing: whatever of the provider is paused, except targets that were closed one by one."""

    key: Annotated[str, Field(min_length=1, max_length=200)] | None = None


class TargetRequest(Strict):
    """`target` is `provider/model`."""

    target: Annotated[str, Field(min_length=1, max_length=300)]
    reason: _Reason | None = None


class PauseBody(BaseModel):
    """`until` is the next probe, made by one worker with one job; null: it ends by command alone.

    `covers` says which of the names count: those of the account, the key, the target, or of key and target (`grant`).
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    object: Literal["pause"]
    of: str
    covers: Literal["provider", "target", "account", "key", "grant"]
    account: str | None
    key: str | None
    target: str | None
    kind: PauseKind
    reason: str
    since: Instant
    until: Instant | None
    probes: int


class PauseList(BaseModel):
    """What of the provider is paused now, the oldest first."""

    model_config = ConfigDict(extra="forbid", strict=True)

    object: Literal["list"]
    data: list[PauseBody]


def _may_be_empty(model: Any) -> Body:
    """A body that may be left out."""
    adapter = TypeAdapter(model)

    def read(_desk: Desk, request: flask.Request) -> tuple[Any, Json]:
        if not request.content_length and not request.headers.get("Transfer-Encoding"):
            return model(), {}
        given = body.parsed(body.read(request))
        return validated(adapter, model, given), given

    return Body(model, read=read)


# Each answers with what holds after it.
_by_hand: Final = partial(
    pausing.add,
    "POST",
    scope="admin",
    answers={200: Answer("What is paused of the provider now.", PauseList)},
    problems=(NOT_FOUND,),
)


@_by_hand(
    "/v1/providers/<provider>/pause", "providers.pause", "Pause a provider or a key", body=_may_be_empty(PauseRequest)
)
def pause(desk: Desk, call: Call) -> Reply:
    """No worker asks it from about a second later until it is resumed; calls that are out may end. Jobs that have no
    other target wait, and use up no attempt.
    """
    spec = _provider(desk, call.path["provider"])
    given: PauseRequest = call.body
    scope = Scope("provider", spec.name) if given.key is None else Scope("key", spec.name, _key(spec, given.key))
    held = _moved(desk, spec.name, lambda conn: stored.begin_by(conn, scope, _why(given.reason), call.key_id))
    events.emit("pause.begun", of=str(scope), by=call.key_id)
    return held


@_by_hand(
    "/v1/providers/<provider>/resume",
    "providers.resume",
    "Let a provider or a key go on",
    body=_may_be_empty(ResumeRequest),
)
def resume(desk: Desk, call: Call) -> Reply:
    """Ends pauses, whoever began them. Jobs that wait go on within about two seconds."""
    spec = _provider(desk, call.path["provider"])
    given: ResumeRequest = call.body
    key = None if given.key is None else _key(spec, given.key)
    held = _moved(desk, spec.name, lambda conn: stored.end_all_by(conn, spec.name, call.key_id, key=key))
    events.emit("pause.ended", of=spec.name if key is None else f"key {key} of {spec.name}", by=call.key_id)
    return held


@_by_hand("/v1/targets/open", "targets.open", "Open a target's circuit breaker", body=Body(TargetRequest))
def open_(desk: Desk, call: Call) -> Reply:
    """No worker calls the target until its breaker is closed by `/v1/targets/close`."""
    target = _target(desk, call.body.target)
    scope, why = _door(target), _why(call.body.reason)
    held = _moved(desk, target.provider, lambda conn: stored.begin_by(conn, scope, why, call.key_id))
    events.emit("breaker.forced", target=target.name, to="open", by=call.key_id)
    return held


@_by_hand("/v1/targets/close", "targets.close", "Close a target's circuit breaker", body=Body(TargetRequest))
def close(desk: Desk, call: Call) -> Reply:
    """Every worker calls the target again as if nothing had failed, whether it was opened by hand or by failures."""
    target = _target(desk, call.body.target)
    held = _moved(desk, target.provider, lambda conn: stored.end_by(conn, _door(target), call.key_id))
    events.emit("breaker.forced", target=target.name, to="close", by=call.key_id)
    return held


def pause_json(one: Pause) -> dict[str, Json]:
    scope = one.scope
    return {
        "object": "pause",
        "of": str(scope),
        "covers": scope.covers,
        "account": scope.name if scope.covers == "account" else None,
        "key": scope.name if scope.covers == "key" else scope.key or None,
        "target": scope.name if scope.covers in {"target", "grant"} else None,
        "kind": one.kind.value,
        "reason": one.reason,
        "since": instant(one.since_at),
        "until": instant(one.until_at),
        "probes": one.probes,
    }


def _moved(desk: Desk, provider: str, move: Callable[[Connection], object]) -> Reply:
    """What is paused of the provider after a move, which is made in the same transaction."""
    with desk.deps.database.write() as conn:
        move(conn)
        held = stored.holding(conn, provider)
    return Reply({"object": "list", "data": [pause_json(one) for one in held]})


def _why(reason: str | None) -> str:
    return " ".join((reason or "").split()) or _BY_HAND


def _door(target: Target) -> Scope:
    return Scope("target", target.provider, target.name)


def _provider(desk: Desk, name: str) -> ProviderSpec:
    providers = desk.deps.catalog.providers
    spec = providers.get(name)
    if spec is None:
        raise _unknown(f"There is no provider {name[:100]!r}.", closest(name[:100], providers), providers)
    return spec


def _key(spec: ProviderSpec, name: str) -> str:
    names = [key.name for key in spec.keys]
    if name not in names:
        raise _unknown(f"{spec.name} has no key {name!r}.", closest(name, names), names)
    return name


def _target(desk: Desk, name: str) -> Target:
    providers = desk.deps.catalog.providers
    target = target_named(name, providers)
    if target is None:
        near = closest(name.partition("/")[0], providers)
        raise _unknown(f"{name!r} is no target: write provider/model.", near, providers)
    return target


def _unknown(said: str, near: str | None, known: Any) -> Problem:
    remedy = f"Did you mean {near}?" if near is not None else f"Known here: {', '.join(known) or 'none'}."
    return Problem(NOT_FOUND, f"{said} {remedy}")
