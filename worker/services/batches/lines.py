"""The lines of a batch's file, read as requests."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from pydantic import ValidationError

from worker.domain.batch import LineError
from worker.domain.failure import Lane
from worker.domain.panel import read_panel
from worker.domain.question import BadQuestion
from worker.providers.catalog import Catalog, UnknownModel
from worker.services.batches.endpoints import ENDPOINTS, BatchEndpoint
from worker.services.batches.raw import Raw
from worker.services.openai import reading
from worker.services.openai.faults import Fault, faults_of
from worker.services.pricing import most_nano
from worker.services.submit import JobRequest
from worker.settings import PanelConfig
from worker.store.text import dumps

CUSTOM_ID_MAX: Final = 512
_NO_PANELS: Final[Mapping[str, PanelConfig]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Line:
    """A good line. `custom_id` is JSON text; `encoding` of vectors, where it was asked for.

    unread  why it cannot be asked: it was good when its file was read, and this release does not take it any more
    """

    number: int
    custom_id: str
    request: JobRequest
    encoding: str | None
    unread: str | None = None


class BadLine(ValueError):
    def __init__(self, errors: list[LineError]) -> None:
        super().__init__(errors[0].message)
        self.errors = errors


class Names:
    """The custom_ids of a file, 96 bits of each: a million take 80 MB, and two that differ are never taken for one."""

    def __init__(self) -> None:
        self._marks: set[bytes] = set()

    def used(self, line: Line) -> LineError | None:
        """What is wrong with a line whose name an earlier one has."""
        mark = hashlib.blake2b(line.custom_id.encode(), digest_size=12).digest()
        if mark in self._marks:
            message = "This custom_id was used in an earlier line; each must be used once."
            return LineError("duplicate_custom_id", message, "custom_id", line.number)
        self._marks.add(mark)
        return None


def read(
    raw: Raw, url: str, resolve: Callable[[tuple[str, ...]], object], panels: Mapping[str, PanelConfig] = _NO_PANELS
) -> Line:
    """Raises BadLine. `resolve` raises UnknownModel; `panels` of the settings."""
    number, data = raw
    value = _object(number, data)
    custom_id = _custom_id(number, value)
    endpoint = ENDPOINTS[url]
    errors = [*_envelope(number, value, url)]
    body = value.get("body")
    if not isinstance(body, dict):
        raise BadLine(
            [*errors, _missing(number, "body") if body is None else _bad(number, "body", "must be an object")]
        )
    if body.get("stream"):
        errors.append(_bad(number, "body.stream", "cannot be true: the lines of a batch are not streamed"))
    request = None
    try:
        asked = endpoint.adapter.validate_python(body, strict=True)
        request = endpoint.job(asked, panels)
        resolve(request.models)
    except ValidationError as exc:
        errors += _of_body(exc, endpoint, body, number)
    except BadQuestion as exc:
        errors.append(_faulty(number, Fault(f"input.{exc.field}", exc.says, exc.remedy)))
    except UnknownModel as exc:
        errors.append(_unknown(number, exc))
    if errors or request is None:
        raise BadLine(errors)
    return Line(number, custom_id, request, getattr(asked, "encoding_format", None))


def hold_nano(catalog: Catalog, line: Line, size: int) -> int:
    """What this line may cost, wherever its call goes, or each of a panel's; `size` of the line in bytes.

    Raises Unpriced.
    """
    asked = asked_of(line.request)
    return sum(most_nano(catalog, catalog.resolve(models).targets, line.request, size) for models in asked)


def asked_of(request: JobRequest) -> list[tuple[str, ...]]:
    """Who is asked, in order: once, or for every seat of a panel and its judge."""
    if request.kind != "prediction":
        return [request.models]
    panel = read_panel(request.input)
    judge = [] if panel.consensus.judge is None else [(panel.consensus.judge,)]
    return [*(place.models for place in panel.places), *judge]


def custom_id_of(raw: Raw) -> str:
    """Of a line that was found good, as JSON text; `null` where it no longer reads."""
    number, data = raw
    try:
        return _custom_id(number, _object(number, data))
    except BadLine:
        return "null"


def unread(raw: Raw, why: BadLine) -> Line:
    """A line that was found good before, and that `read` no longer takes: it asks nothing, and fails on its own."""
    message = f"This line was taken when its file was read, and cannot be asked any more. {why}"
    return Line(raw[0], custom_id_of(raw), JobRequest("completion", ("default",), {}, Lane.BATCH), None, message)


def _object(number: int, data: bytes | None) -> dict[str, Any]:
    if data is None:
        raise BadLine([LineError("invalid_request", "This line is too long.", None, number)])
    try:
        value = reading.value_of(data.decode("utf-8"), number)
    except UnicodeDecodeError as exc:
        raise BadLine([_not_json(number, f"It is not valid UTF-8 at byte {exc.start}.")]) from None
    except reading.NotJson as exc:
        raise BadLine([_not_json(number, f"It {exc.fault.message}.")]) from None
    except reading.NotTaken as exc:
        raise BadLine([LineError("invalid_request", str(exc.fault), None, number)]) from None
    if not isinstance(value, dict):
        raise BadLine([LineError("invalid_request", "This line is not a JSON object.", None, number)])
    return value


def _custom_id(number: int, value: dict[str, Any]) -> str:
    given = value.get("custom_id")
    if given is None:
        raise BadLine([_missing(number, "custom_id")])
    if not isinstance(given, str) or not 0 < len(given) <= CUSTOM_ID_MAX:
        raise BadLine([_bad(number, "custom_id", f"must be a string of 1 to {CUSTOM_ID_MAX} characters")])
    return dumps(given)


def _envelope(number: int, value: dict[str, Any], url: str) -> Iterator[LineError]:
    method = value.get("method")
    if method is None:
        yield _missing(number, "method")
    elif method != "POST":
        yield _bad(number, "method", "must be POST")
    given = value.get("url")
    if given is None:
        yield _missing(number, "url")
    elif given != url:
        message = f"The URL of this line is not the endpoint of the batch, {url}."
        yield LineError("url_mismatch", message, "url", number)


def _of_body(exc: ValidationError, endpoint: BatchEndpoint, body: Any, number: int) -> Iterator[LineError]:
    for fault in faults_of(exc, endpoint.model, body, number):
        if fault.message == "is missing":
            yield _missing(number, f"body.{fault.field}")
        else:
            yield _faulty(number, fault)


def _faulty(number: int, fault: Fault) -> LineError:
    param = "body" if fault.field == "body" else f"body.{fault.field}"
    return LineError("invalid_request", f"{param} {fault.message}. {fault.remedy}", param, number)


def _unknown(number: int, exc: UnknownModel) -> LineError:
    meant = f" Did you mean {exc.suggestion}?" if exc.suggestion is not None else ""
    message = f"The model {exc.name!r} is no route and no target.{meant} GET /v1/models lists them."
    return LineError("model_not_found", message, "body.model", number)


def _missing(number: int, param: str) -> LineError:
    name = param.removeprefix("body.") if param != "body" else param
    return LineError("missing_required_parameter", f"Missing required parameter: '{name}'.", param, number)


def _bad(number: int, param: str, message: str) -> LineError:
    return LineError("invalid_request", f"{param} {message}.", param, number)


def _not_json(number: int, more: str) -> LineError:
    return LineError("invalid_json_line", f"This line is not parseable as valid JSON. {more}", None, number)
