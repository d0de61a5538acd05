"""What operators and platforms ask: does it live, can it work, whom can it call."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any, Final, Literal

from api.desk import Desk
from api.fields import Out
from api.operations import Answer, Call, Operations, Reply
from api.routes.pauses import PauseBody, pause_json
from worker.deps import HintsKind
from worker.domain.answer import Json
from worker.domain.pause import Pause
from worker.domain.route import Target
from worker.providers.catalog import ProviderSpec
from worker.store import pauses, workers

operation: Final = Operations("Operation")

TargetState = Literal["closed", "loading", "probing", "open"]
_WORST: Final = ("closed", "loading", "probing", "open")


class Health(Out):
    status: Literal["ok"]


class Ready(Out):
    """`hints`: how workers hear of new jobs. `broker: away` only makes jobs start up to a second later.
    `reason` is there where the database is away and nobody named one.
    """

    status: Literal["ready", "unready"]
    database: Literal["up", "read-only", "away"]
    migrations: Literal["current", "pending", "unknown"]
    hints: HintsKind
    broker: Literal["up", "away", "none"]
    reason: str | None = None


class TargetBody(Out):
    """`state` is that of the circuit breaker, the worst any worker sees; `wait_s` until it is tried again."""

    name: str
    model: str
    state: TargetState
    wait_s: float
    window: int | None
    takes: list[str]


class RestBody(Out):
    """A target that asked a worker to wait, with one key or all."""

    of: str
    kind: str
    reason: str
    wait_s: float


class LimitsBody(Out):
    """Of each account; null: not configured."""

    rpm: int | None
    tpm: int | None
    concurrency: int | None
    input_tpm: int | None
    output_tpm: int | None
    slow_s: float | None


class ProviderBody(Out):
    """`keys` are names of variables, in the order they are tried; no key is ever shown. `pauses` are of all workers."""

    name: str
    object: Literal["provider"]
    label: str
    format: str
    is_sandbox: bool
    default_model: str | None
    keys: list[str]
    limits: LimitsBody
    targets: list[TargetBody]
    resting: list[RestBody]
    pauses: list[PauseBody]


class ProviderList(Out):
    """`workers` are those alive: `state` is what they last said.

    `limits` are `shared` while every worker counts in Redis; `local` while one or more live on their share of them.
    """

    object: Literal["list"]
    workers: int
    limits: Literal["shared", "local"]
    data: list[ProviderBody]


class RouteBody(Out):
    name: str
    object: Literal["route"]
    targets: list[str]
    max_attempts: int
    attempt_timeout_s: float
    first_byte_timeout_s: float
    connect_timeout_s: float
    max_wait_s: float
    cold_start_s: float
    hedge_after_s: float | None


class RouteList(Out):
    object: Literal["list"]
    data: list[RouteBody]


@operation.add(
    "GET",
    "/healthz",
    "healthz",
    "Does the process live",
    scope=None,
    answers={200: Answer("It does.", Health)},
)
def healthz(_desk: Desk, _call: Call) -> Reply:
    """Asks nothing else."""
    return Reply({"status": "ok"})


@operation.add(
    "GET",
    "/readyz",
    "readyz",
    "Can it do its work",
    scope=None,
    answers={200: Answer("It can.", Ready), 503: Answer("It cannot; the parts say why.", Ready)},
)
def readyz(desk: Desk, _call: Call) -> Reply:
    """Database, migrations, broker; looked at once a second at most."""
    state = desk.readiness.state()
    body = {
        "status": "ready" if state.ready else "unready",
        "database": state.database,
        "migrations": state.migrations,
        "hints": state.hints,
        "broker": state.broker,
    }
    unnamed = desk.deps.settings.unnamed_database
    if state.database == "away" and unnamed is not None:
        body["reason"] = unnamed
    return Reply(body, 200 if state.ready else 503)


@operation.add(
    "GET",
    "/v1/providers",
    "providers.list",
    "List providers",
    scope="jobs:read",
    answers={200: Answer("In the order they are configured.", ProviderList)},
)
def list_providers(desk: Desk, _call: Call) -> Reply:
    """With the state of their targets as the workers see it."""
    with desk.deps.database.read() as conn:
        reports = workers.reports(conn, desk.deps.settings.lease_s)
        held = pauses.holding(conn)
    catalog = desk.deps.catalog
    used = [target for route in catalog.routes.values() for target in route.targets]
    data = [_provider(spec, used, reports, held) for spec in catalog.providers.values()]
    told = [report["limits"]["shared"] for report in reports.values() if "limits" in report]
    limits = "shared" if told and all(told) else "local"
    return Reply({"object": "list", "workers": len(reports), "limits": limits, "data": data})


@operation.add(
    "GET",
    "/v1/routes",
    "routes.list",
    "List routes",
    scope="jobs:read",
    answers={200: Answer("What `model` may name, besides targets.", RouteList)},
)
def list_routes(desk: Desk, _call: Call) -> Reply:
    """With their targets in the order they are tried, and the bounds of a job on them."""
    data = [
        {
            "name": route.name,
            "object": "route",
            "targets": [target.name for target in route.targets],
            "max_attempts": route.max_attempts,
            "attempt_timeout_s": route.attempt_timeout_s,
            "first_byte_timeout_s": route.first_byte_timeout_s,
            "connect_timeout_s": route.connect_timeout_s,
            "max_wait_s": route.max_wait_s,
            "cold_start_s": route.cold_start_s,
            "hedge_after_s": route.hedge_after_s,
        }
        for route in desk.deps.catalog.routes.values()
    ]
    return Reply({"object": "list", "data": data})


def _provider(
    spec: ProviderSpec, used: Iterable[Target], reports: Mapping[str, Mapping[str, Any]], held: Iterable[Pause]
) -> Json:
    targets = {t.name: t for t in (*spec.models.values(), *used) if t.provider == spec.name}
    resting = {
        (rest["of"], rest["reason"]): {name: rest[name] for name in ("of", "kind", "reason", "wait_s")}
        for report in reports.values()
        for rest in report.get("resting", ())
        if rest["of"] == spec.name or rest["of"].startswith(f"{spec.name}/")
    }
    return {
        "name": spec.name,
        "object": "provider",
        "label": spec.label,
        "format": spec.format,
        "is_sandbox": spec.is_sandbox,
        "default_model": spec.default_model,
        "keys": [key.name for key in spec.keys],
        "limits": asdict(spec.limits),
        "targets": [_target(target, reports.values()) for target in targets.values()],
        "resting": list(resting.values()),
        "pauses": [pause_json(one) for one in held if one.scope.provider == spec.name],
    }


def _target(target: Target, reports: Iterable[Mapping[str, Any]]) -> Json:
    seen = [report.get("targets", {}).get(target.name) for report in reports]
    worst = max((one for one in seen if one), key=lambda one: _WORST.index(one["state"]), default=None)
    return {
        "name": target.name,
        "model": target.model,
        "state": "closed" if worst is None else worst["state"],
        "wait_s": 0.0 if worst is None else worst["wait_s"],
        "window": target.window,
        "takes": sorted(target.takes),
    }
