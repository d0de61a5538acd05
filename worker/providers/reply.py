"""From bytes to a parsed reply, or to the failure it tells of: the same for every format."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from worker.domain.failure import FailureKind
from worker.providers.classify import BY_STATUS
from worker.providers.error_body import read_error_body
from worker.providers.event_stream import BrokenStreamError, is_event_stream
from worker.providers.facts import Facts
from worker.providers.failures import failure_inside, read_failure
from worker.providers.json_text import read_json


@dataclass(frozen=True, slots=True)
class Shape:
    """What a format's replies look like.

    facts        who served, under which id, for how many tokens, from the status, the headers and the parsed reply
    fold         an event stream as the reply it would have been in one piece; raises BrokenStreamError, ValueError
    tells_error  whether a parsed reply with a good status is an error all the same
    """

    facts: Callable[[int, Mapping[str, str], Any], Facts]
    fold: Callable[[bytes], Any]
    tells_error: Callable[[Any], bool]


def parsed(
    shape: Shape,
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    now: datetime,
    by_status: Mapping[int, FailureKind] = BY_STATUS,
) -> Any:
    """The value of a good reply, a Failure for any other. Never raises."""
    if not 200 <= status < 300:
        return read_failure(status, headers, body, now, by_status)
    try:
        streamed = is_event_stream(headers.get("content-type", ""), body)
        reply = shape.fold(body) if streamed else read_json(body)
    except BrokenStreamError as broken:
        facts = shape.facts(status, headers, broken.partial)
        if broken.error is not None:
            return failure_inside(facts, broken.error, now)
        return facts.failure(FailureKind.SERVER_ERROR, str(broken))
    except ValueError:
        told = read_error_body(body).message or "empty"
        return shape.facts(status, headers, None).failure(FailureKind.SERVER_ERROR, f"a broken body: {told}")
    if shape.tells_error(reply):
        return failure_inside(shape.facts(status, headers, reply), reply, now)
    return reply
