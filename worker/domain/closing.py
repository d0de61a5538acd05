"""May a panel stop asking? Only when the calls that are still open cannot change what comes out."""

from __future__ import annotations

import math
from collections.abc import Sequence

from worker.domain import pooling
from worker.domain.answer import Json
from worker.domain.consensus import STOPPING, WEIGHING, Ballot, Consensus, Member
from worker.domain.decision import agreeing, asked_bar, casts_of, decide, fields_of, half_bar, is_number
from worker.domain.numeral import tidy
from worker.domain.question import AnswerSpec
from worker.domain.tally import Bar, Cast, Standing, share, standings, weigh


def closed(spec: AnswerSpec, ballots: Sequence[Ballot], open_members: Sequence[Member], settings: Consensus) -> bool:
    """Whether the open calls can be ended: whatever they would say, `consensus` and the answer stay as they are.

    Only with `posterior` they might not, in as many cases as the caller has allowed. Agreement, confidence and
    dissent are of the votes that were heard. True when nothing is open.
    """
    if not open_members:
        return True
    if not settings.early_stop:
        return False
    casts = casts_of(spec, ballots, settings)
    if len(casts) + len(open_members) < settings.quorum:
        return True
    if _hopeless(spec, casts, open_members, settings):
        return True
    if len(casts) < settings.quorum:
        return False
    return _certain(spec, casts, open_members, settings) or _probable(spec, ballots, casts, settings)


def _rest(open_members: Sequence[Member], settings: Consensus) -> float:
    return math.fsum(member.weight if settings.method in WEIGHING else 1.0 for member in open_members)


def _hopeless(spec: AnswerSpec, casts: Sequence[Cast], open_members: Sequence[Member], settings: Consensus) -> bool:
    """Whether there will be no consensus, whatever comes."""
    ranked, rest = standings(casts), _rest(open_members, settings)
    match settings.method:
        case "majority" | "weighted":
            return half_bar(settings).never(ranked, rest)
        case "unanimous":
            return len(ranked) > 1
        case "quorum":
            return (ranked[0].count if ranked else 0) + len(open_members) < settings.quorum
        case "per_field":
            return any(half_bar(settings).never(each, rest) for each in fields_of(spec, casts).values())
        case _:
            return False


def _certain(spec: AnswerSpec, casts: Sequence[Cast], open_members: Sequence[Member], settings: Consensus) -> bool:
    """Whether there is a consensus now, and no vote to come can change it. There are enough votes for the quorum."""
    ranked, rest = standings(casts), _rest(open_members, settings)
    asked = asked_bar(settings)
    match settings.method:
        case "majority" | "weighted":
            return half_bar(settings).surely(ranked, rest)
        case "quorum":
            return ranked[0].count >= settings.quorum and Bar(settings.min_agreement or 0.0, ties_count=False).surely(
                ranked, rest
            )
        case "per_field":
            bar = half_bar(settings)
            # The open ones may name a field that nobody has named; all that was heard stands against it.
            fields = [*fields_of(spec, casts).values(), (Standing(tuple(casts), weigh(casts)),)]
            return all(bar.surely(each, rest) for each in fields)
        case "first_valid":
            if casts[0].place > min(member.place for member in open_members):
                return False
            return asked is None or asked.passed(_worst(spec, casts, casts[0].value, rest, settings), after_tie=False)
        case "median":
            answer = _fixed_median(casts, rest)
            if answer is None:
                return False
            return asked is None or asked.passed(_worst(spec, casts, answer, rest, settings), after_tie=False)
        case "judge":  # what the judge may not overturn, it need not be asked about
            if settings.judge_may_overturn or is_number(spec):
                return False
            return Bar(None, ties_count=False).surely(ranked, rest) and half_bar(settings).surely(ranked, rest)
        case _:
            return False


def _worst(spec: AnswerSpec, casts: Sequence[Cast], answer: Json, rest: float, settings: Consensus) -> float:
    behind = agreeing(spec, casts, answer, settings)
    return share(weigh(cast for cast in casts if cast.place in behind), weigh(casts) + rest)


def _fixed_median(casts: Sequence[Cast], rest: float) -> float | None:
    """The median, if it is the same with all that is out at either end."""
    pairs = [(float(cast.value), cast.weight) for cast in casts]
    low, high = (pooling.median([*pairs, (end, rest)]) for end in (-math.inf, math.inf))
    return tidy(low) if low == high and math.isfinite(low) else None


def _probable(spec: AnswerSpec, ballots: Sequence[Ballot], casts: Sequence[Cast], settings: Consensus) -> bool:
    """Whether the leader stays ahead with the probability that was asked for, and would do now."""
    if settings.posterior is None or settings.method not in STOPPING or not decide(spec, ballots, settings).consensus:
        return False
    votes = [one.weight * len(casts) / weigh(casts) for one in standings(casts)]
    return pooling.stays_ahead(votes[0], votes[1] if len(votes) > 1 else 0.0) >= settings.posterior
