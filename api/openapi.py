"""The OpenAPI 3.1 document, made from the operations and the very models that validate."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, Final

from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode

from api.body import LINES_TYPES
from api.operations import Answer, Header, Operation
from api.problems import PROBLEM_TYPE, Sort
from worker.domain.answer import Json
from worker.domain.release import RELEASE

_REF: Final = "#/components/schemas/{model}"
_MODE: Final[JsonSchemaMode] = "validation"
_LINES: Final = {"type": "string", "description": "One JSON object a line."}
REQUEST_ID: Final = Header("x-request-id", "Names this request in our logs; yours, where you sent a sane one.")
_PROBLEM_HEADERS: Final = {
    401: (Header("WWW-Authenticate", "How to send a key."),),
    429: (Header("Retry-After", "Seconds to wait.", {"type": "integer", "minimum": 0}),),
    503: (Header("Retry-After", "Seconds to wait.", {"type": "integer", "minimum": 0}),),
}


class FaultBody(BaseModel):
    """One thing that is wrong; `line` counts from 1 where there are many requests in one."""

    field: str
    message: str
    remedy: str
    line: int = 0


class ProblemBody(BaseModel):
    """RFC 9457."""

    type: str
    title: str
    status: int
    detail: str
    request_id: str
    errors: list[FaultBody] = []


class OpenAIErrorBody(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIProblem(BaseModel):
    """As OpenAI's clients read it."""

    error: OpenAIErrorBody


def document(operations: Iterable[Operation]) -> dict[str, Json]:
    found = list(operations)
    models = _Models(found)
    paths: dict[str, dict[str, Json]] = {}
    for operation in found:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation, models)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Completar",
            "version": RELEASE,
            "summary": "A durable queue for calls to language models.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": tag} for tag in dict.fromkeys(operation.tag for operation in found)],
        "paths": paths,
        "components": {
            "schemas": models.definitions,
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "A key: `ck_...`, from `python3 run.py keys create`.",
                }
            },
        },
    }


class _Plain(GenerateJsonSchema):
    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002 - a name says as much as its title
        return False


class _Models:
    """The schemas of all models, each once, under its name."""

    def __init__(self, operations: Iterable[Operation]) -> None:
        wanted: list[Any] = [ProblemBody, OpenAIProblem]
        for operation in operations:
            if operation.body is not None:
                wanted.append(operation.body.model)
            wanted += [answer.model for answer in operation.answers.values() if answer.model is not None]
        inputs = [(n, _MODE, TypeAdapter(model)) for n, model in enumerate(wanted)]
        schemas, rest = TypeAdapter.json_schemas(inputs, ref_template=_REF, schema_generator=_Plain)
        self._of = {id(model): schemas[n, _MODE] for n, model in enumerate(wanted)}
        self.definitions: dict[str, Json] = rest.get("$defs", {})

    def of(self, model: Any) -> Json:
        return self._of[id(model)]


def _operation(operation: Operation, models: _Models) -> dict[str, Json]:
    made: dict[str, Json] = {
        "operationId": operation.name,
        "summary": operation.summary,
        "description": operation.description,
        "tags": [operation.tag],
        "parameters": [*_parameters(operation)],
        "responses": {str(status): _answer(answer, models) for status, answer in operation.answers.items()},
    }
    if operation.scope is None:
        made["security"] = []
    else:
        made["security"] = [{"bearer": []}]
        made["description"] = f"{operation.description} Scope: `{operation.scope}`.".strip()
    if operation.body is not None:
        content = {
            kind: {"schema": _LINES if kind in LINES_TYPES else models.of(operation.body.model)}
            for kind in operation.body.types
        }
        made["requestBody"] = {"required": True, "content": content}
    by_status: dict[int, list[Sort]] = {}
    for sort in operation.possible:
        status = sort.openai[0] if operation.face == "openai" else sort.status
        by_status.setdefault(status, []).append(sort)
    for status, sorts in sorted(by_status.items()):
        made["responses"][str(status)] = _problem(operation, status, sorts, models)
    return made


def _parameters(operation: Operation) -> Iterator[Json]:
    for name in re.findall(r"{(\w+)}", operation.path):
        yield {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
    if operation.query is not None:
        schema = operation.query.model_json_schema(mode=_MODE, schema_generator=_Plain)
        for name, part in schema["properties"].items():
            shape = _never_null(part)
            description = shape.pop("description", "")
            yield {"name": name, "in": "query", "required": False, "description": description, "schema": shape}
    for header in operation.headers:
        yield {
            "name": header.name,
            "in": "header",
            "required": False,
            "description": header.description,
            "schema": dict(header.schema),
        }


def _never_null(part: dict[str, Any]) -> dict[str, Any]:
    """A parameter is left out, not null."""
    (shape,) = [kind for kind in part.get("anyOf", [part]) if kind.get("type") != "null"]
    return {name: value for name, value in shape.items() if not (name == "default" and value is None)}


def _answer(answer: Answer, models: _Models) -> Json:
    made: dict[str, Json] = {
        "description": answer.description,
        "headers": _headers((REQUEST_ID, *answer.headers)),
    }
    if answer.model is not None:
        made["content"] = {answer.content_type: {"schema": models.of(answer.model)}}
    return made


def _problem(operation: Operation, status: int, sorts: list[Sort], models: _Models) -> Json:
    openai = operation.face == "openai"
    model, kind = (OpenAIProblem, "application/json") if openai else (ProblemBody, PROBLEM_TYPE)
    headers = (REQUEST_ID, *_PROBLEM_HEADERS.get(status, ()))
    return {
        "description": "; ".join(f"`{sort.slug}`: {sort.title.lower()}" for sort in sorts),
        "headers": _headers(headers),
        "content": {kind: {"schema": models.of(model)}},
    }


def _headers(headers: Iterable[Header]) -> Json:
    return {header.name: {"description": header.description, "schema": dict(header.schema)} for header in headers}
