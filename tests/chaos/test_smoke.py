"""The fault campaign in small (`python3 run.py chaos`), a test for each scenario."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.chaos import campaign, report
from tests.chaos.campaign import SCENARIOS, Outcome, Scenario
from tests.support.parts import PartMissing
from tests.support.postgres import programs
from tests.support.redis import program

pytestmark = [pytest.mark.postgres, pytest.mark.redis, pytest.mark.slow]
SEED = 1
# Strict: whoever keeps such a promise hears of it here.
_NOT_YET: dict[str, str] = {}


@pytest.fixture(scope="session")
def outcomes(request: pytest.FixtureRequest) -> dict[str, Outcome]:
    """Of the scenarios whose tests were chosen. They mostly wait, so several go at once."""
    if sys.platform != "linux":
        pytest.skip("processes are frozen and killed in Linux's ways")
    try:
        programs()
        program()
    except PartMissing as missing:
        pytest.skip(str(missing))
    chosen = [
        str(item.callspec.id)
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.module.__name__ == __name__ and hasattr(item, "callspec")
    ]
    ran = campaign.run(chosen, "smoke", SEED, at_once=3, told=lambda _: None)
    print(report.table(report.document(ran, "smoke", SEED, sum(outcome.seconds for outcome in ran))))
    return {outcome.scenario.name: outcome for outcome in ran}


def _cases() -> Iterator[Any]:
    for scenario in sorted(SCENARIOS, key=lambda one: one.number):
        why = _NOT_YET.get(scenario.name)
        marks = [pytest.mark.xfail(strict=True, reason=why)] if why is not None else []
        yield pytest.param(scenario, id=scenario.name, marks=marks)


@pytest.mark.parametrize("scenario", list(_cases()))
def test_the_promises_hold(scenario: Scenario, outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes[scenario.name]
    assert not outcome.fault, outcome.fault
    broken = [f"{promise['said']}: {promise['found']}" for promise in outcome.promises if not promise["kept"]]
    assert not broken, "\n".join([*broken, str(dict(outcome.figures))])
