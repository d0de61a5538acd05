"""Pauses: what all processes leave alone because a provider or a person said so, until a probe or a person ends it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import lru_cache
from types import MappingProxyType
from typing import Final, Literal

from worker.domain.answer import Failure
from worker.domain.failure import FailureKind
from worker.domain.retry import LONGEST_WAIT_S
from worker.domain.route import Key, Target

Covers = Literal["provider", "target", "account", "key", "grant"]
LONGEST_PROBE_S: Final = 900.0
ID_LENGTH: Final = 10
MOST_SCOPES: Final = 16  # that a parked job can name


class PauseKind(StrEnum):
    QUOTA = "quota"
    AUTH = "auth"
    PERMISSION = "permission"
    OPERATOR = "operator"


# To the first probe; a refused key is not mended within a minute.
FIRST_PROBE_S: Final[Mapping[PauseKind, float]] = MappingProxyType(
    {PauseKind.QUOTA: 60.0, PauseKind.AUTH: 300.0, PauseKind.PERMISSION: 300.0}
)
# As what a closed door counts in the walk over a route; a door that a person closed is waited for.
AS_FAILURE: Final[Mapping[PauseKind, FailureKind]] = MappingProxyType(
    {
        PauseKind.QUOTA: FailureKind.QUOTA,
        PauseKind.AUTH: FailureKind.AUTH,
        PauseKind.PERMISSION: FailureKind.PERMISSION,
        PauseKind.OPERATOR: FailureKind.OVERLOADED,
    }
)


@dataclass(frozen=True, slots=True)
class Scope:
    """What a pause holds.

    provider  all of it               target   one model; `name` is the target's
    account   every key billed to it; `name` is the account's
    key       one key; `name` is the variable's            grant  one key for one target, `name` and `key`
    tag       of the key's secret; empty: whatever the secret is (a person's pause)
    """

    covers: Covers
    provider: str
    name: str = ""
    key: str = ""
    tag: str = ""

    @property
    def id(self) -> str:
        """Short, and the same in every process."""
        return _id(self)

    def __str__(self) -> str:
        match self.covers:
            case "provider":
                return f"provider {self.provider}"
            case "grant":
                return f"key {self.key} for {self.name}"
            case "target":
                return self.name
            case _:
                return f"{self.covers} {self.name} of {self.provider}"


@lru_cache(4096)
def _id(scope: Scope) -> str:
    told = json.dumps([scope.covers, scope.provider, scope.name, scope.key, scope.tag]).encode()
    return hashlib.blake2b(told, digest_size=ID_LENGTH // 2).hexdigest()


@dataclass(frozen=True, slots=True)
class Pause:
    """A pause as it is on record; times are the database's, aware UTC.

    until_at  of the next probe; None: it ends by command alone
    probes    how many calls have been let through to look
    who       the API key of the person who began or ended it; None: it came and went by itself
    closed_at when it ended; None: it has not
    wait_s    to the next probe, as of the reading; infinite where there is none
    over_s    since it ended, as of the reading
    """

    scope: Scope
    kind: PauseKind
    reason: str
    since_at: datetime
    until_at: datetime | None
    probes: int
    who: str | None
    closed_at: datetime | None
    wait_s: float
    over_s: float | None


@dataclass(frozen=True, slots=True)
class Cause:
    """A failure that pauses something. floor_s: the wait the provider named; None: it named none."""

    scope: Scope
    kind: PauseKind
    reason: str
    floor_s: float | None = None

    @property
    def wait_s(self) -> float:
        return max(self.floor_s or 0.0, FIRST_PROBE_S[self.kind])


def cause_of(target: Target, key: Key | None, failure: Failure) -> Cause | None:
    """What is paused for every process after this failure; None: nothing."""
    floor = None if failure.wait_s is None else min(failure.wait_s, LONGEST_WAIT_S)
    said = failure.message
    match failure.kind:
        case FailureKind.QUOTA if key is None:  # there is no account to speak of: only this target rests
            scope = Scope("target", target.provider, target.name)
            return Cause(scope, PauseKind.QUOTA, f"{target.name} has no quota left: {said}", floor)
        case FailureKind.QUOTA if key is not None and failure.of_model:
            scope = Scope("grant", target.provider, target.name, key.name, key.tag)
            return Cause(scope, PauseKind.QUOTA, f"key {key.name} has no quota left for {target.name}: {said}", floor)
        case FailureKind.QUOTA if key is not None:
            scope = Scope("account", target.provider, key.account)
            return Cause(scope, PauseKind.QUOTA, f"account {key.account} has no quota left: {said}", floor)
        case FailureKind.AUTH if key is not None:
            scope = Scope("key", target.provider, key.name, tag=key.tag)
            return Cause(scope, PauseKind.AUTH, f"key {key.name} was refused: {said}", floor)
        case FailureKind.PERMISSION if key is not None:
            scope = Scope("grant", target.provider, target.name, key.name, key.tag)
            return Cause(scope, PauseKind.PERMISSION, f"key {key.name} may not use {target.name}: {said}", floor)
        case _:
            return None


def scopes_over(target: Target, key: Key | None) -> tuple[Scope, ...]:
    """Every scope whose pause closes this target with this key, the widest first."""
    wide = (Scope("provider", target.provider), Scope("target", target.provider, target.name))
    if key is None:
        return wide
    return (
        *wide,
        Scope("account", target.provider, key.account),
        Scope("key", target.provider, key.name),
        Scope("key", target.provider, key.name, tag=key.tag),
        Scope("grant", target.provider, target.name, key.name, key.tag),
    )


def is_replaced(scope: Scope, tags: Mapping[tuple[str, str], str]) -> bool:
    """Whether the key of a pause has another secret now; `tags` are of the keys there are, by provider and name."""
    now = tags.get((scope.provider, scope.name if scope.covers == "key" else scope.key))
    return bool(scope.tag) and now is not None and now != scope.tag


def probe_after_s(kind: PauseKind, probes: int) -> float:
    """From one probe to the next, when `probes` have been made."""
    return min(LONGEST_PROBE_S, FIRST_PROBE_S[kind] * 2.0 ** min(probes, 16))


def mark_of(scopes: Iterable[Scope]) -> str:
    """What a parked job remembers of the pauses it waits for, the one to be probed first in front."""
    return "".join(scope.id for scope in scopes)


def ids_in(mark: str) -> Sequence[str]:
    return [mark[at : at + ID_LENGTH] for at in range(0, len(mark), ID_LENGTH)]
