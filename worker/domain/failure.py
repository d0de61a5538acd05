"""Every way a call can fail, and what follows each: one closed list, one table.

The names are stored, shown to users and used as metric labels; they never change.
`completar plan ROUTE` prints what follows from the table, and a test replays it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Final, Literal


class FailureKind(StrEnum):
    """What went wrong, in the words a user can act on."""

    RATE_LIMIT = "rate_limit"
    QUOTA = "quota"
    AUTH = "auth"
    PERMISSION = "permission"
    MODEL_NOT_FOUND = "model_not_found"
    GONE = "gone"
    CONTEXT_LENGTH = "context_length"
    CONTENT_FILTER = "content_filter"
    REFUSAL = "refusal"
    BAD_REQUEST = "bad_request"
    CONNECTION = "connection"
    TIMEOUT = "timeout"
    OVERLOADED = "overloaded"
    LOADING = "loading"
    SERVER_ERROR = "server_error"
    CONFLICT = "conflict"
    EMPTY_OUTPUT = "empty_output"
    BAD_OUTPUT = "bad_output"
    TRUNCATED = "truncated"
    SCHEMA_MISMATCH = "schema_mismatch"
    BUDGET = "budget"
    DEADLINE = "deadline"
    CANCELLED = "cancelled"
    # Ours, not a provider's: no target may be asked; a worker died with the call open; workers die of it; a fault of
    # our own.
    NO_TARGET = "no_target"
    INTERRUPTED = "interrupted"
    POISON = "poison"
    INTERNAL = "internal"


class Lane(StrEnum):
    """Two kinds of hurry: somebody waits, or nobody does."""

    INTERACTIVE = "interactive"
    BATCH = "batch"


class Pause(StrEnum):
    """What is waited for before the same target is asked again."""

    NONE = "none"
    BACKOFF = "backoff"  # or the provider's own wait, where it named one
    HINT = "hint"  # the provider's own wait, or a back-off where it named none
    COLD_START = "cold_start"  # a sleeping endpoint: its own budget, `cold_start_s`


class Aside(StrEnum):
    """How much is set aside when a target is left."""

    TARGET = "target"
    KEY = "key"  # this key only; the target stays while its pool has another
    ACCOUNT = "account"  # every target billed to the same account
    NARROWER = "narrower"  # every target whose context window is not known to be larger


class Then(StrEnum):
    NEXT = "next"  # the next target of the route
    FAIL = "fail"  # the job has failed: nobody would answer better
    END = "end"  # the job ended by our own decision (deadline, cancel, budget)


Breaker = Literal["counts", "ignores"]


@dataclass(frozen=True, slots=True)
class Rule:
    """What follows one kind of failure on one lane.

    retries   further calls of the same target within one pass over the route
    pause     what is waited for before them
    spread    before that pause, the keys of the provider's other accounts are asked at once: theirs are other limits
    in_place  a wait that the provider names is honoured on this target only up to the route's `max_wait_s`, else the
              next target is asked;
              False: the job waits for this target however long it takes (batch lane)
    free      the call uses up no attempt of the job's `max_attempts`
    then      after the retries
    aside     what is left behind when going to the next target
    lasting   what is left behind stays so for the whole job, not only for this pass
    breaker   whether the failure counts against the target's circuit breaker
    """

    retries: int = 0
    pause: Pause = Pause.NONE
    spread: bool = False
    in_place: bool = True
    free: bool = False
    then: Then = Then.NEXT
    aside: Aside = Aside.TARGET
    lasting: bool = False
    breaker: Breaker = "ignores"


_K = FailureKind

INTERACTIVE: Final[Mapping[FailureKind, Rule]] = MappingProxyType(
    {
        _K.RATE_LIMIT: Rule(retries=2, pause=Pause.HINT, spread=True),
        _K.QUOTA: Rule(aside=Aside.ACCOUNT, free=True),
        _K.AUTH: Rule(aside=Aside.KEY, free=True, lasting=True),
        _K.PERMISSION: Rule(aside=Aside.KEY, free=True, lasting=True),
        _K.MODEL_NOT_FOUND: Rule(lasting=True),
        _K.GONE: Rule(lasting=True),
        _K.CONTEXT_LENGTH: Rule(aside=Aside.NARROWER, lasting=True),
        _K.CONTENT_FILTER: Rule(then=Then.FAIL, lasting=True),
        _K.REFUSAL: Rule(then=Then.FAIL, lasting=True),
        _K.BAD_REQUEST: Rule(then=Then.FAIL, lasting=True),
        _K.CONNECTION: Rule(retries=1, pause=Pause.BACKOFF, breaker="counts"),
        # A target that said nothing once is not asked twice: each such wait costs the caller a minute.
        _K.TIMEOUT: Rule(lasting=True, breaker="counts"),
        _K.OVERLOADED: Rule(retries=2, pause=Pause.BACKOFF, breaker="counts"),
        _K.LOADING: Rule(pause=Pause.COLD_START, free=True),
        _K.SERVER_ERROR: Rule(retries=1, pause=Pause.BACKOFF, breaker="counts"),
        _K.CONFLICT: Rule(retries=1, pause=Pause.BACKOFF, breaker="counts"),
        _K.EMPTY_OUTPUT: Rule(lasting=True, breaker="counts"),
        _K.BAD_OUTPUT: Rule(lasting=True, breaker="counts"),
        _K.TRUNCATED: Rule(lasting=True, breaker="counts"),
        _K.SCHEMA_MISMATCH: Rule(retries=1, lasting=True),
        _K.BUDGET: Rule(then=Then.END, lasting=True),
        _K.DEADLINE: Rule(then=Then.END),
        _K.CANCELLED: Rule(then=Then.END),
        _K.NO_TARGET: Rule(then=Then.FAIL, lasting=True),
        # A worker died with the call open: asked again; `STARTS_MAX` bounds it, not `max_attempts`.
        _K.INTERRUPTED: Rule(retries=100, free=True),
        _K.POISON: Rule(then=Then.FAIL),
        _K.INTERNAL: Rule(then=Then.FAIL),
    }
)

# Nobody waits for a batch line: it waits for its target rather than spend another's money, and for somebody to mend a
# refused key rather than fail with all the others.
BATCH: Final[Mapping[FailureKind, Rule]] = MappingProxyType(
    {
        **INTERACTIVE,
        _K.AUTH: Rule(aside=Aside.KEY, free=True),
        _K.RATE_LIMIT: Rule(retries=1_000_000, pause=Pause.HINT, spread=True, in_place=False, free=True),
        _K.LOADING: Rule(retries=1_000_000, pause=Pause.COLD_START, in_place=False, free=True),
    }
)

RULES: Final[Mapping[Lane, Mapping[FailureKind, Rule]]] = MappingProxyType(
    {Lane.INTERACTIVE: INTERACTIVE, Lane.BATCH: BATCH}
)

Override = Literal["next", "fail"]


def rule_for(kind: FailureKind, lane: Lane, overrides: Mapping[FailureKind, Override] | None = None) -> Rule:
    """The rule for a failure; a route may turn `fail` into `next` and the other way (`[routes.NAME.on]`)."""
    rule = RULES[lane][kind]
    word = overrides.get(kind) if overrides else None
    if word is None:
        return rule
    if word == "fail":
        return replace(rule, retries=0, spread=False, then=Then.FAIL)
    return replace(rule, then=Then.NEXT)


# Ends that are no provider's and no caller's doing: such a job is a dead letter, kept for somebody to look at.
DEAD_LETTERS: Final = frozenset({_K.POISON, _K.INTERNAL})

# Kinds a client may try again by hand with hope (`error.retryable`).
RETRYABLE: Final = frozenset(
    {
        _K.RATE_LIMIT,
        _K.QUOTA,
        _K.CONNECTION,
        _K.TIMEOUT,
        _K.OVERLOADED,
        _K.LOADING,
        _K.SERVER_ERROR,
        _K.CONFLICT,
        _K.EMPTY_OUTPUT,
        _K.BAD_OUTPUT,
        _K.TRUNCATED,
        _K.SCHEMA_MISMATCH,
        _K.INTERRUPTED,
        _K.DEADLINE,
    }
)
