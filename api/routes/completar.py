"""POST /completar: a text in, a text out. Field names are read in Spanish and in English."""

from __future__ import annotations

from typing import Annotated, Final, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from api import preference
from api.desk import Desk
from api.failed import problem_of
from api.fields import MaxCost, Out, Strict, Text, fault
from api.job import UsageBody
from api.operations import Answer, Body, Call, Header, Operations, Reply
from api.problems import KEY_REUSED, QUEUE_FULL, UNKNOWN_MODEL, invalid, sorts_of_failed_jobs, unknown_model
from api.routes.jobs import LOCATION, RETRY_AFTER, find
from worker.domain.answer import Json
from worker.domain.job import JobView
from worker.domain.money import nano_of, usage_json
from worker.domain.state import FINAL, AttemptState, JobStatus
from worker.providers.catalog import NoProvider, UnknownModel
from worker.services.native.answers import url_of
from worker.services.openai.portable import Messages, Tokens
from worker.services.submit import JobRequest, submit
from worker.store import attempts

DEFAULT_S: Final = 60.0
LONGEST_S: Final = 300.0

completar: Final = Operations("Completar", "completar")

Temperature = Annotated[float, Field(ge=0, le=2)]
Provider = Annotated[str, Field(min_length=1, max_length=100, pattern="^[!-~]+$", examples=["huggingface"])]
Seconds = Annotated[float, Field(ge=0, le=LONGEST_S)]

# Spanish name -> English name of the same field.
_TWINS: Final = {
    "mensajes": "messages",
    "sistema": "system",
    "temperatura": "temperature",
    "proveedor": "provider",
    "espera_s": "wait_s",
}


class Question(Strict):
    """`prompt`, or `mensajes` / `messages`. `provider` asks this one alone; `espera_s` is how long to wait (60)."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [{"required": [name]} for name in ("prompt", "mensajes", "messages")],
            "allOf": [{"not": {"required": list(pair)}} for pair in _TWINS.items()],
            "examples": [{"prompt": "Di hola.", "max_tokens": 100}],
        }
    )

    prompt: Text = Field(default_factory=str)
    mensajes: Messages = Field(default_factory=list)
    messages: Messages = Field(default_factory=list)
    system: Text | None = None
    sistema: Text | None = None
    max_tokens: Tokens | None = None
    max_cost: MaxCost | None = None
    temperature: Temperature | None = None
    temperatura: Temperature | None = None
    provider: Provider | None = None
    proveedor: Provider | None = None
    espera_s: Seconds | None = None
    wait_s: Seconds | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        for name, twin in _TWINS.items():
            if {name, twin} <= self.model_fields_set:
                raise fault(f"cannot stand beside {name}", "Give one of the two.", twin)
        given = self.model_fields_set & {"prompt", "mensajes", "messages"}
        if not given:
            raise fault("is missing", "Add prompt, or mensajes.", "prompt")
        if len(given) == 2:
            raise fault("cannot stand beside mensajes", "Give one of the two.", "prompt")
        return self

    def request(self) -> dict[str, Json]:
        """As the portable request says it."""
        turns: list[Json] = [*(self.mensajes or self.messages)] or [{"role": "user", "content": self.prompt}]
        system = self.system if self.system is not None else self.sistema
        if system is not None:
            turns.insert(0, {"role": "system", "content": system})
        temperature = self.temperature if self.temperature is not None else self.temperatura
        parameters = {"max_tokens": self.max_tokens, "temperature": temperature}
        return {"messages": turns} | {name: value for name, value in parameters.items() if value is not None}


class CompletarDone(Out):
    """`proveedor` is the name for people, `llave` the key that served, `uso` the tokens, `intentos` the calls."""

    id: str
    texto: str | None
    proveedor: str | None
    llave: str | None
    modelo: str | None
    uso: UsageBody
    intentos: int


class CompletarWaiting(Out):
    """Not done in time: ask at `url`."""

    id: str
    estado: Literal["queued", "in_progress", "cancelling"]
    url: str


@completar.add(
    "POST",
    "/completar",
    "completar",
    "A text in, a text out",
    scope="jobs:write",
    body=Body(Question),
    headers=(preference.IDEMPOTENCY_KEY,),
    answers={
        200: Answer(
            "The answer.", CompletarDone, (Header("x-completar-job", "The job behind it."), preference.REPLAYED)
        ),
        202: Answer(
            "Not done in time; the job goes on.", CompletarWaiting, (LOCATION, RETRY_AFTER, preference.REPLAYED)
        ),
    },
    problems=(UNKNOWN_MODEL, KEY_REUSED, QUEUE_FULL, *sorts_of_failed_jobs()),
)
def complete(desk: Desk, call: Call) -> Reply:
    """Whichever provider of route `default` can, answers; with `provider`, this one alone."""
    asked: Question = call.body
    key = preference.idempotency_key(call, "completar", call.given)
    request = JobRequest(
        kind="completion",
        models=_models(desk, asked),
        input=asked.request(),
        max_cost_nano=None if asked.max_cost is None else nano_of(asked.max_cost),
    )
    wait_s = asked.espera_s if asked.espera_s is not None else asked.wait_s
    wait_s = DEFAULT_S if wait_s is None else wait_s
    with desk.waiting.seat(call.project_id, wanted=wait_s > 0) as seated:
        submitted = submit(desk.deps, call.project_id, [request], key, key_id=call.key_id)
        (job_id,) = submitted.ids
        if seated:
            desk.waiting.until_final(job_id, wait_s)
    job = find(desk, call.project_id, job_id)
    headers = {"x-completar-job": job.id} | preference.replay_header(replayed=submitted.replayed)
    if job.status not in FINAL:
        url = url_of(job.id)
        return Reply(
            {"id": job.id, "estado": job.status.value, "url": url},
            202,
            headers | {"Location": url, "Retry-After": "1"},
        )
    if job.status is not JobStatus.COMPLETED:
        raise problem_of(job)
    return Reply(_done(desk, job), 200, headers)


def _models(desk: Desk, asked: Question) -> tuple[str, ...]:
    field = "provider" if asked.provider is not None else "proveedor"
    provider = asked.provider if asked.provider is not None else asked.proveedor
    if provider is None:
        return ("default",)
    try:
        return tuple(target.name for target in desk.deps.catalog.only(provider.lower()).targets)
    except NoProvider:
        raise
    except UnknownModel as exc:
        raise invalid(unknown_model(exc, field), sort=UNKNOWN_MODEL) from None


def _done(desk: Desk, job: JobView) -> Json:
    with desk.deps.database.read() as conn:
        made = attempts.of_jobs(conn, [job.id])[job.id]
    key = next((attempt.row.key_name for attempt in made if attempt.row.state is AttemptState.ANSWERED), None)
    served = job.served
    return {
        "id": job.id,
        "texto": job.result["text"],
        "proveedor": served.label if served is not None else None,
        "llave": key,
        "modelo": served.model if served is not None else None,
        "uso": usage_json(job.usage),
        "intentos": job.attempts,
    }
