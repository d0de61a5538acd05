"""What a call to a provider came to: an Answer or a Failure. Both are values; nothing is raised."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from worker.domain.failure import FailureKind
from worker.domain.money import NO_USAGE, Usage

Json = Any
Kind = Literal["completion", "embedding"]  # of a call
JobKind = Literal["completion", "embedding", "prediction"]
MESSAGE_CUT: Final = 500


@dataclass(frozen=True, slots=True)
class Call:
    """One call of one target, before it has a wire form.

    input          the caller's fields, named as OpenAI's chat (or embeddings) names them; only what the caller set
    output_schema  JSON Schema the answer must fit, or None
    """

    kind: Kind
    base_url: str
    model: str
    input: Mapping[str, Json]
    output_schema: Mapping[str, Json] | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """A good answer.

    finish_reason  stop | length | tool_calls | content_filter | refusal | error, or None where the API reports none
    message        the assistant turn in OpenAI's shape, as it can be sent back in a later request
    json           the parsed value when a schema was asked for
    model          as the provider names what served
    """

    usage: Usage = NO_USAGE
    text: str | None = None
    finish_reason: str | None = None
    raw_finish: str | None = None
    tool_calls: Sequence[Json] = ()
    message: Mapping[str, Json] | None = None
    json: Json = None
    embeddings: Sequence[Sequence[float]] | None = None
    model: str | None = None
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """A failed call.

    message    for people, at most MESSAGE_CUT characters, never a key or a prompt
    wait_s     what the provider asked us to wait, in seconds; None: it named none
    wait_from  where that was read: a header's name, or `body`
    unsent     nothing of the request had left: it cost nothing
    final      the provider says that the same call must not be made again
    unfit      this model has no such thing as was asked, and another may have it
    of_model   the quota that is spent is this model's, not the account's
    """

    kind: FailureKind
    message: str
    code: str | None = None
    http_status: int | None = None
    wait_s: float | None = None
    wait_from: str | None = None
    usage: Usage = NO_USAGE
    model: str | None = None
    request_id: str | None = None
    unsent: bool = False
    final: bool = False
    unfit: bool = False
    of_model: bool = False


Outcome = Answer | Failure
