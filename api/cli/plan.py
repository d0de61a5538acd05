"""`completar plan ROUTE`: the policy table as what would happen."""

from __future__ import annotations

from dataclasses import asdict

import click

from api.cli.command import Command, as_json
from api.cli.configured import configured
from api.cli.fault import CliFault, Exit
from api.cli.program import PROGRAM
from api.cli.screen import Screen, seconds
from worker.domain import plan as plans
from worker.domain.failure import FailureKind, Lane
from worker.domain.plan import PlanStep
from worker.providers.catalog import UnknownModel

_ENDS = {"fail": "the job fails", "expire": "the job expires", "end": "the job ends"}


@click.command(cls=Command)
@click.argument("route", nargs=-1)
@click.option("--lane", type=click.Choice([lane.value for lane in Lane]), help="One lane only; both where not said.")
@click.option("--kind", type=click.Choice([kind.value for kind in FailureKind]), help="One kind of failure only.")
@click.option("--wait", "hint_s", type=click.FloatRange(0), help="Seconds each failure asks us to wait.")
@as_json("One JSON document.")
@click.pass_obj
def plan(
    screen: Screen, route: tuple[str, ...], lane: str | None, kind: str | None, hint_s: float | None, as_json: bool
) -> None:
    """What would follow if every call of a job failed in one way.

    ROUTE is a route, a target, or targets in order; `default` where it is not named.

    For example:
      completar plan
      completar plan default --lane batch --kind rate_limit --wait 20
      completar plan groq/openai/gpt-oss-20b kimi/kimi-k2.6
    """
    _, catalog = configured()
    try:
        found = catalog.resolve(route or ("default",))
    except UnknownModel as unknown:
        remedy = f"`{PROGRAM} routes` and `{PROGRAM} providers` list what there is."
        raise CliFault(f"{unknown}.", remedy, Exit.USAGE) from None
    lanes = list(Lane) if lane is None else [Lane(lane)]
    kinds = list(FailureKind) if kind is None else [FailureKind(kind)]
    made = {
        one: {each: plans.plan(found, each, one, hint_s=hint_s) for each in lanes}  # per kind, per lane
        for one in kinds
    }
    if as_json:
        screen.document(
            {
                "route": found.name,
                "max_attempts": found.max_attempts,
                "hedge_after_s": found.hedge_after_s if plans.joined(found) is not None else None,
                "plans": [
                    {"kind": one, "lane": each, "steps": [asdict(step) for step in steps]}
                    for one, by_lane in made.items()
                    for each, steps in by_lane.items()
                ],
            }
        )
        return
    screen.say(f"{found.name}: at most {found.max_attempts} calls; waits are upper bounds.")
    both = plans.joined(found)
    if both is not None and found.hedge_after_s is not None:
        first, second = (target.name for target in both)
        screen.say(
            f"An interactive call of {first} that is open after {seconds(found.hedge_after_s)} is joined by one of"
            f" {second}:\nthe first good answer wins. Once for a job; both count."
        )
    screen.say("")
    screen.table(
        ("failure", "lane", "what follows"), (row for one, by_lane in made.items() for row in _rows(one, by_lane))
    )


def _rows(kind: FailureKind, by_lane: dict[Lane, list[PlanStep]]) -> list[tuple[str, str, str]]:
    """One row where both lanes do the same."""
    said = {lane: told(steps) for lane, steps in by_lane.items()}
    if len(said) > 1 and len(set(said.values())) == 1:
        return [(kind, "both", next(iter(said.values())))]
    return [(kind, lane, words) for lane, words in said.items()]


def told(steps: list[PlanStep]) -> str:
    """`groq/a -> (0.5 s) groq/a -> kimi/b -> the job fails`."""
    many_keys = len({step.key for step in steps if step.key}) > len({step.target for step in steps if step.key})
    return " -> ".join(_word(step, many_keys=many_keys) for step in steps)


def _word(step: PlanStep, *, many_keys: bool) -> str:
    if step.do in _ENDS:
        return _ENDS[step.do]
    wait = f"({seconds(step.wait_s)}) " if step.wait_s else ""
    more = " -> and so on" if step.skipped else ""
    if step.do == "wait":
        return f"queued for {seconds(step.wait_s)}{more}"
    key = f" [{step.key}]" if many_keys and step.key else ""
    return f"{wait}{step.target}{key}{', asked to mend it' if step.do == 'repair' else ''}{more}"
