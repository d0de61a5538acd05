"""What can go wrong, as one table: our errors and their status, in the words of each face of the API.

native     RFC 9457 `application/problem+json`
openai     `{"error": {message, type, param, code}}`, all four keys, the statuses OpenAI's clients know
completar  as native, `detail` in Spanish and English
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Literal

from werkzeug.exceptions import HTTPException, MethodNotAllowed

from worker import events
from worker.domain.answer import Json
from worker.domain.failure import FailureKind
from worker.domain.question import BadQuestion
from worker.providers.catalog import NoProvider, UnknownModel
from worker.services.idempotency import KeyReused
from worker.services.openai.failures import WIRE
from worker.services.openai.faults import Fault as Fault  # noqa: PLC0414 - part of what is told here
from worker.services.outcomes import NoResult
from worker.services.pictures import ForbiddenPicture
from worker.services.retry import NotRetriable
from worker.services.schema import BadSchema
from worker.services.trial import EVERY_S, TooSoon
from worker.services.webhook_endpoints import Forgotten
from worker.store.database import Unavailable
from worker.store.intake import QueueFull
from worker.webhooks.vault import NoKey

Face = Literal["native", "openai", "completar"]
PROBLEM_TYPE: Final = "application/problem+json"
_OURS_S: Final = 1  # how soon to come again after a fault of ours


@dataclass(frozen=True, slots=True)
class Sort:
    """`slug` names it for good, `es` is the title in Spanish, `openai` is (status, type, code) on that face."""

    slug: str
    status: int
    title: str
    es: str
    openai: tuple[int, str, str | None]


_INVALID: Final = "invalid_request_error"
_SERVER: Final = "server_error"

NOT_JSON: Final = Sort("not-json", 400, "The body is not JSON", "El cuerpo no es JSON", (400, _INVALID, "invalid_json"))
BAD_REQUEST: Final = Sort(
    "bad-request", 400, "The request cannot be read", "La petición no se puede leer", (400, _INVALID, None)
)
NO_KEY: Final = Sort("unauthorized", 401, "No valid key", "Falta una llave válida", (401, _INVALID, "invalid_api_key"))
NO_SCOPE: Final = Sort(
    "forbidden", 403, "The key may not do this", "La llave no permite esto", (403, "permission_error", "missing_scope")
)
NOT_FOUND: Final = Sort("not-found", 404, "There is nothing here", "Aquí no hay nada", (404, _INVALID, None))
NOT_ALLOWED: Final = Sort(
    "method-not-allowed", 405, "Not with this method", "No con este método", (405, _INVALID, None)
)
CONFLICT: Final = Sort("conflict", 409, "Not in this state", "No en este estado", (409, _INVALID, None))
GONE: Final = Sort("gone", 410, "It is no longer kept", "Ya no se conserva", (410, _INVALID, None))
TOO_LARGE: Final = Sort(
    "too-large", 413, "The body is too large", "El cuerpo es demasiado grande", (413, _INVALID, "request_too_large")
)
BAD_TYPE: Final = Sort(
    "unsupported-media-type", 415, "Not this kind of body", "No este tipo de cuerpo", (415, _INVALID, None)
)
INVALID: Final = Sort(
    "invalid-request", 422, "The request is not valid", "La petición no es válida", (400, _INVALID, None)
)
UNKNOWN_MODEL: Final = Sort(
    "unknown-model", 422, "There is no such model", "No existe ese modelo", (404, _INVALID, "model_not_found")
)
KEY_REUSED: Final = Sort(
    "idempotency-key-reused",
    422,
    "The Idempotency-Key belongs to another request",
    "La Idempotency-Key es de otra petición",
    (409, _INVALID, "idempotency_key_reused"),
)
QUEUE_FULL: Final = Sort(
    "queue-full", 429, "The project's queue is full", "La cola del proyecto está llena", (429, "requests", "queue_full")
)
NO_SECRET_KEY: Final = Sort(
    "webhooks-not-set-up",
    501,
    "COMPLETAR_SECRET_KEY is not set",
    "Falta COMPLETAR_SECRET_KEY",
    (501, _SERVER, "webhooks_not_set_up"),
)
NO_PROVIDER: Final = Sort(
    "no-provider",
    503,
    "No provider has a key",
    "Ningún proveedor tiene llave",
    (503, _SERVER, "no_provider"),
)
TOO_SOON: Final = Sort(
    "too-soon", 429, "Another test was just sent", "Se acaba de enviar otra prueba", (429, "requests", "too_soon")
)
NO_STREAM: Final = Sort(
    "no-streaming", 400, "Answers are not streamed", "No hay streaming", (400, _INVALID, "streaming_not_supported")
)
INTERNAL: Final = Sort("internal", 500, "A fault of ours", "Un fallo nuestro", (500, _SERVER, None))
UNAVAILABLE: Final = Sort(
    "unavailable", 503, "The database is away", "La base de datos no responde", (503, _SERVER, "unavailable")
)
BUSY: Final = Sort("busy", 503, "Too many are waiting", "Hay demasiados esperando", (503, _SERVER, "too_many_waiting"))
NOT_YET: Final = Sort(
    "not-yet", 504, "The job is not done yet", "El trabajo no ha terminado", (504, _SERVER, "job_not_done")
)

_K: Final = FailureKind
# What a job failed of, told to a caller who waited for its answer.
JOB_LIMITED: Final = Sort(
    "job-rate-limited",
    429,
    "A provider asks to wait, and no other answered",
    "Un proveedor pide esperar y ningún otro respondió",
    WIRE[_K.RATE_LIMIT],
)
JOB_QUOTA: Final = Sort(
    "job-quota",
    429,
    "The quota is used up",
    "La cuota está agotada",
    WIRE[_K.QUOTA],
)
JOB_CONTEXT: Final = Sort(
    "job-context-length",
    400,
    "Too long for the model",
    "Demasiado largo para el modelo",
    WIRE[_K.CONTEXT_LENGTH],
)
JOB_FILTERED: Final = Sort(
    "job-content-filter",
    400,
    "The provider's filter stopped it",
    "El filtro del proveedor lo detuvo",
    WIRE[_K.CONTENT_FILTER],
)
JOB_REFUSED: Final = Sort("job-refused", 400, "The model refused", "El modelo se negó", WIRE[_K.REFUSAL])
JOB_BAD_REQUEST: Final = Sort(
    "job-bad-request",
    400,
    "The provider found the request faulty",
    "El proveedor encontró un error en la petición",
    WIRE[_K.BAD_REQUEST],
)
JOB_NO_TARGET: Final = Sort(
    "job-no-target",
    400,
    "No target takes this request",
    "Ningún destino acepta esta petición",
    WIRE[_K.NO_TARGET],
)
JOB_NO_MODEL: Final = Sort(
    "job-unknown-model",
    404,
    "The provider has no such model",
    "El proveedor no tiene ese modelo",
    WIRE[_K.MODEL_NOT_FOUND],
)
JOB_CANCELLED: Final = Sort(
    "job-cancelled", 409, "The job was cancelled", "El trabajo fue cancelado", WIRE[_K.CANCELLED]
)
JOB_FAILED: Final = Sort(
    "job-failed", 502, "No provider gave an answer", "Ningún proveedor respondió", WIRE[_K.SERVER_ERROR]
)
JOB_OVERLOADED: Final = Sort(
    "job-overloaded",
    503,
    "A provider is overloaded, and no other answered",
    "Un proveedor está saturado y ningún otro respondió",
    WIRE[_K.OVERLOADED],
)
JOB_TIMEOUT: Final = Sort(
    "job-timeout",
    504,
    "No provider answered in time",
    "Ningún proveedor respondió a tiempo",
    WIRE[_K.TIMEOUT],
)

FAILED: Final[Mapping[FailureKind, Sort]] = MappingProxyType(
    {
        _K.RATE_LIMIT: JOB_LIMITED,
        _K.QUOTA: JOB_QUOTA,
        _K.AUTH: JOB_FAILED,
        _K.PERMISSION: JOB_FAILED,
        _K.MODEL_NOT_FOUND: JOB_NO_MODEL,
        _K.GONE: JOB_NO_MODEL,
        _K.CONTEXT_LENGTH: JOB_CONTEXT,
        _K.CONTENT_FILTER: JOB_FILTERED,
        _K.REFUSAL: JOB_REFUSED,
        _K.BAD_REQUEST: JOB_BAD_REQUEST,
        _K.CONNECTION: JOB_FAILED,
        _K.TIMEOUT: JOB_TIMEOUT,
        _K.OVERLOADED: JOB_OVERLOADED,
        _K.LOADING: JOB_OVERLOADED,
        _K.SERVER_ERROR: JOB_FAILED,
        _K.CONFLICT: JOB_FAILED,
        _K.EMPTY_OUTPUT: JOB_FAILED,
        _K.BAD_OUTPUT: JOB_FAILED,
        _K.TRUNCATED: JOB_FAILED,
        _K.SCHEMA_MISMATCH: JOB_FAILED,
        _K.BUDGET: JOB_QUOTA,
        _K.DEADLINE: JOB_TIMEOUT,
        _K.CANCELLED: JOB_CANCELLED,
        _K.NO_TARGET: JOB_NO_TARGET,
        _K.INTERRUPTED: JOB_FAILED,
        _K.POISON: JOB_FAILED,
        _K.INTERNAL: INTERNAL,
    }
)
# Every sort there is, for the documentation.
SORTS: Final = (
    *(NOT_JSON, BAD_REQUEST, NO_STREAM, NO_KEY, NO_SCOPE, NOT_FOUND, NOT_ALLOWED, CONFLICT, GONE, TOO_LARGE, BAD_TYPE),
    *(
        INVALID,
        UNKNOWN_MODEL,
        KEY_REUSED,
        QUEUE_FULL,
        NO_SECRET_KEY,
        NO_PROVIDER,
        TOO_SOON,
        INTERNAL,
        UNAVAILABLE,
        BUSY,
        NOT_YET,
    ),
    *(sort for sort in dict.fromkeys(FAILED.values()) if sort is not INTERNAL),
)


class Problem(Exception):
    """A request that cannot be answered as asked. `members` are further members of the native body; `param` is what
    OpenAI's clients are told it is about, where no fault says so.
    """

    def __init__(
        self,
        sort: Sort,
        detail: str,
        *,
        faults: Sequence[Fault] = (),
        headers: Mapping[str, str] | None = None,
        members: Mapping[str, Json] | None = None,
        param: str | None = None,
    ) -> None:
        super().__init__(detail)
        self.sort = sort
        self.detail = detail
        self.faults = tuple(faults)
        self.headers = dict(headers or {})
        self.members = dict(members or {})
        self.param = param


def invalid(*faults: Fault, sort: Sort = INVALID) -> Problem:
    """The request is well formed, and asks for what cannot be."""
    few = "; ".join(f"{fault.field} {fault.message}" for fault in faults[:3])
    more = f" (and {len(faults) - 3} more)" if len(faults) > 3 else ""
    return Problem(sort, few + more, faults=faults)


def unknown_model(exc: UnknownModel, field: str) -> Fault:
    remedy = "See the names at /v1/routes and /v1/providers."
    if exc.suggestion is not None:
        remedy = f"Did you mean {exc.suggestion}? {remedy}"
    return Fault(
        field, f"names {exc.name!r}, which is no route and no target" + (f": {exc.why}" if exc.why else ""), remedy
    )


def of(exc: BaseException, request_id: str) -> Problem:
    """Any exception as a problem. One that nobody foresaw is logged, and its caller is told no more than its id."""
    match exc:
        case Problem():
            return exc
        case NoProvider():
            detail = f"Nothing was stored: {exc}."
            return Problem(NO_PROVIDER, detail, headers={"x-should-retry": "false"})
        case UnknownModel():
            return invalid(unknown_model(exc, "model"), sort=UNKNOWN_MODEL)
        case KeyReused():
            remedy = "Use a new key for a new request; the same key repeats the same request for 24 hours."
            fault = Fault("Idempotency-Key", "was used with another request", remedy)
            # OpenAI's clients repeat a 409 by themselves unless they are told that it cannot heal.
            return Problem(KEY_REUSED, str(fault), faults=(fault,), headers={"x-should-retry": "false"})
        case QueueFull():
            detail = f"{exc.full.why[0].upper()}{exc.full.why[1:]} (lane {exc.lane.value}). Nothing was stored."
            members: dict[str, Json] = {"lane": exc.lane.value, "retry_after_s": exc.full.after_s}
            headers = {"Retry-After": str(exc.full.after_s)}
            return Problem(QUEUE_FULL, detail, headers=headers, members=members)
        case ForbiddenPicture():
            remedy = "Use an address on the public internet, or send the image as data:."
            return invalid(Fault(exc.field, exc.why, remedy, None if exc.n is None else exc.n + 1))
        case NoKey():
            detail = (
                "Webhooks need COMPLETAR_SECRET_KEY, which encrypts their secrets: set it, the same for web and worker,"
                " to a random text of 32 characters or more."
            )
            return Problem(NO_SECRET_KEY, detail, headers={"x-should-retry": "false"})
        case TooSoon():
            seconds = math.ceil(EVERY_S)
            detail = f"A project may send one test every {seconds} seconds."
            return Problem(TOO_SOON, detail, headers={"Retry-After": str(seconds)})
        case Forgotten():
            return Problem(CONFLICT, "What this Idempotency-Key made was deleted since. Use a new key.")
        case BadSchema():
            return invalid(Fault("output_schema", str(exc).removeprefix("output_schema "), "Send a JSON Schema."))
        case BadQuestion():
            return invalid(Fault(exc.field, exc.says, exc.remedy))
        case NoResult() | NotRetriable():
            return Problem(CONFLICT, str(exc), headers={"x-should-retry": "false"})
        case Unavailable():
            events.emit("request.unavailable", level="warning", request_id=request_id, reason=str(exc))
            detail = "The database cannot be reached just now; nothing was stored. Try again."
            return Problem(UNAVAILABLE, detail, headers={"Retry-After": str(_OURS_S)})
        case HTTPException():
            return _of_http(exc)
        case _:
            events.emit("request.failed", level="error", request_id=request_id, **events.fault(exc))
            return Problem(INTERNAL, f"It was noted under {request_id}.")


def _of_http(exc: HTTPException) -> Problem:
    match exc.code:
        case 404:
            return Problem(NOT_FOUND, "There is no such address. GET /docs lists them all.")
        case 405:
            methods = exc.valid_methods if isinstance(exc, MethodNotAllowed) else None
            allowed = ", ".join(sorted(methods or ()))
            return Problem(NOT_ALLOWED, f"This address takes {allowed}.", headers={"Allow": allowed})
        case 413:
            return Problem(
                TOO_LARGE, "The body is larger than this server takes. COMPLETAR_MAX_BODY_BYTES is the limit."
            )
        case 415:
            return Problem(BAD_TYPE, "Send application/json.")
        case code if code is not None and code < 500:
            return Problem(BAD_REQUEST, exc.name)
        case _:
            return Problem(INTERNAL, "The request could not be handled.")


def rendered(problem: Problem, face: Face, request_id: str) -> tuple[int, str, Json]:
    """Status, content type and body."""
    sort = problem.sort
    if face == "openai":
        status, kind, code = sort.openai
        param = problem.faults[0].field if problem.faults else problem.param
        message = " ".join(str(fault) for fault in problem.faults[:5]) or problem.detail
        return status, "application/json", {"error": {"message": message, "type": kind, "param": param, "code": code}}
    detail = problem.detail if face == "native" else f"{sort.es}. / {sort.title}. {problem.detail}"
    body: dict[str, Any] = {
        "type": f"/docs#{sort.slug}",
        "title": sort.title,
        "status": sort.status,
        "detail": detail,
        "request_id": request_id,
    }
    if problem.faults:
        body["errors"] = [fault.json() for fault in problem.faults]
    return sort.status, PROBLEM_TYPE, body | problem.members


def sorts_of_failed_jobs() -> Iterator[Sort]:
    yield from dict.fromkeys(FAILED.values())
