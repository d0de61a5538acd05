"""Where a job may go: targets in order, with what each can take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Literal

from worker.domain.answer import Json, Kind
from worker.domain.failure import FailureKind, Override
from worker.domain.money import Price, estimate_tokens
from worker.domain.retry import Backoff

Need = Literal["completion", "embedding", "schema", "tools", "vision"]
ALL_NEEDS: Final[frozenset[Need]] = frozenset({"completion", "embedding", "schema", "tools", "vision"})


@dataclass(frozen=True, slots=True)
class Key:
    """One credential of a provider's pool. `name` is the variable's name, which people may see; no secret.

    account  keys of one billing account share it: a quota error on one is not tried on the others
    tag      tells two secrets of one name apart, and tells nothing of either: a key that was replaced is another key
    """

    name: str
    account: str
    tag: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Target:
    """One model at one provider.

    keys    the pool, in order; empty: the provider takes no key
    takes   what it can be asked for
    window  context window in tokens, None where not known
    """

    provider: str
    model: str
    label: str
    keys: tuple[Key, ...] = ()
    takes: frozenset[Need] = ALL_NEEDS
    window: int | None = None
    price: Price | None = None
    name: str = field(init=False, compare=False)  # asked for a dozen times in each call

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", f"{self.provider}/{self.model}")


@dataclass(frozen=True, slots=True)
class Route:
    """Targets in order and the bounds of one job on them; all `_s` are seconds.

    max_attempts       calls in all, over every target and key
    attempt_timeout_s  one call, first byte to last
    max_wait_s         an interactive job waits this long for a busy target, not longer
    cold_start_s       how long a sleeping endpoint is waited for
    hedge_after_s      an interactive job's call that is open by then is joined by one of another target, once for a
                       job; None: never
    on                 kinds whose `fail` becomes `next`, or the other way
    """

    name: str
    targets: tuple[Target, ...]
    max_attempts: int = 6
    attempt_timeout_s: float = 60.0
    connect_timeout_s: float = 10.0
    first_byte_timeout_s: float = 60.0
    max_wait_s: float = 10.0
    cold_start_s: float = 300.0
    hedge_after_s: float | None = None
    backoff: Backoff = field(default_factory=Backoff)
    on: Mapping[FailureKind, Override] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class Needs:
    """What a request asks of its target."""

    of: frozenset[Need]
    tokens: int  # estimated input plus the asked ceiling


def needs_of(kind: Kind, request: Mapping[str, Json], *, schema: bool, size: int) -> Needs:
    """Read from the portable request; `size` is its length in characters."""
    of: set[Need] = {kind}
    if schema or isinstance(request.get("response_format"), dict):
        of.add("schema")
    if request.get("tools"):
        of.add("tools")
    if size > 12 and _has_image(request.get("messages")):
        of.add("vision")
    ceiling = output_ceiling(request)
    return Needs(frozenset(of), estimate_tokens(size) + (ceiling if ceiling is not None else 0))


def output_ceiling(request: Mapping[str, Json]) -> int | None:
    """The most tokens the caller lets an answer have; None: no bound was set."""
    ceiling = request.get("max_completion_tokens", request.get("max_tokens"))
    return ceiling if isinstance(ceiling, int) else None


_IMAGES: Final = ("image_url", "input_image", "image")  # no set: what is asked for may be no text, nor hashable


def _has_image(messages: Json) -> bool:
    if not isinstance(messages, list):
        return False
    return any(
        isinstance(part, dict) and part.get("type") in _IMAGES
        for message in messages
        if isinstance(message, dict) and isinstance(message.get("content"), list)
        for part in message["content"]
    )


def unfit(target: Target, needs: Needs) -> str | None:
    """Why a target cannot take the request, in one sentence; None when it can."""
    missing = needs.of - target.takes
    if missing:
        return f"{target.name} does not take {', '.join(sorted(missing))}"
    if target.window is not None and needs.tokens > target.window:
        return f"{target.name} has a window of {target.window} tokens and the request needs about {needs.tokens}"
    return None
