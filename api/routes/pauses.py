"""Pauses of providers, and doors that people close and open by hand. They are of the whole installation: for admins."""

from __future__ import annotations

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


_HELD: Final = {200: Answer("What is paused of the provider now.", PauseList)}


@pausing.add(
    "POST",
    "/v1/providers/<provider>/pause",
    "providers.pause",
    "Pause a provider or a key",
    scope="admin",
    body=_may_be_empty(PauseRequest),
    answers=_HELD,
    problems=(NOT_FOUND,),
)
def pause(desk: Desk, call: Call) -> Reply:
    """No worker asks it from about a second later until it is resumed; calls that are out may end. Jobs that have no
    other target wait, and use up no attempt.
    """
    spec = _provider(desk, call.path["provider"])
    given: PauseRequest = call.body
    scope = Scope("provider", spec.name) if given.key is None else Scope("key", spec.name, _key(spec, given.key))
    with desk.deps.database.write() as conn:
        stored.begin_by(conn, scope, _one_line(given.reason) or _BY_HAND, call.key_id)
        held = stored.holding(conn, spec.name)
    events.emit("pause.begun", of=str(scope), by=call.key_id)
    return _list(held)


@pausing.add(
    "POST",
    "/v1/providers/<provider>/resume",
    "providers.resume",
    "Let a provider or a key go on",
    scope="admin",
    body=_may_be_empty(ResumeRequest),
    answers=_HELD,
    problems=(NOT_FOUND,),
)
def resume(desk: Desk, call: Call) -> Reply:
    """Ends pauses, whoever began them. Jobs that wait go on within about two seconds."""
    spec = _provider(desk, call.path["provider"])
    given: ResumeRequest = call.body
    key = None if given.key is None else _key(spec, given.key)
    with desk.deps.database.write() as conn:
        stored.end_all_by(conn, spec.name, call.key_id, key=key)
        held = stored.holding(conn, spec.name)
    events.emit("pause.ended", of=spec.name if key is None else f"key {key} of {spec.name}", by=call.key_id)
    return _list(held)


@pausing.add(
    "POST",
    "/v1/targets/open",
    "targets.open",
    "Open a target's circuit breaker",
    scope="admin",
    body=Body(TargetRequest),
    answers=_HELD,
    problems=(NOT_FOUND,),
)
def open_(desk: Desk, call: Call) -> Reply:
    """No worker calls the target until its breaker is closed by `/v1/targets/close`."""
    target = _target(desk, call.body.target)
    with desk.deps.database.write() as conn:
        stored.begin_by(conn, _door(target), _one_line(call.body.reason) or _BY_HAND, call.key_id)
        held = stored.holding(conn, target.provider)
    events.emit("breaker.forced", target=target.name, to="open", by=call.key_id)
    return _list(held)


@pausing.add(
    "POST",
    "/v1/targets/close",
    "targets.close",
    "Close a target's circuit breaker",
    scope="admin",
    body=Body(TargetRequest),
    answers=_HELD,
    problems=(NOT_FOUND,),
)
def close(desk: Desk, call: Call) -> Reply:
    """Every worker calls the target again as if nothing had failed, whether it was opened by hand or by failures."""
    target = _target(desk, call.body.target)
    with desk.deps.database.write() as conn:
        stored.end_by(conn, _door(target), call.key_id)
        held = stored.holding(conn, target.provider)
    events.emit("breaker.forced", target=target.name, to="close", by=call.key_id)
    return _list(held)


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


def _list(held: list[Pause]) -> Reply:
    return Reply({"object": "list", "data": [pause_json(one) for one in held]})


def _one_line(reason: str | None) -> str:
    return " ".join((reason or "").split())


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
