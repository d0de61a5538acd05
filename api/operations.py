"""The thin layer over Flask: an operation is a route, who may call it, what it takes and what it answers.

The same declarations validate requests and make the OpenAPI document (`api/openapi.py`). A handler gets a Call that is
authenticated and valid, and gives a Reply.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import flask
from pydantic import BaseModel, TypeAdapter, ValidationError
from werkzeug.datastructures import MultiDict

from api import body, problems
from api.auth import Scope
from api.desk import Desk
from api.problems import (
    BAD_TYPE,
    INTERNAL,
    INVALID,
    NO_KEY,
    NO_SCOPE,
    NOT_JSON,
    TOO_LARGE,
    UNAVAILABLE,
    Face,
    Fault,
    Problem,
    Sort,
    invalid,
)
from worker import clock
from worker.domain.answer import Json
from worker.services.openai.faults import faults_of
from worker.store.keys import ApiKey
from worker.store.text import dumps

_SANE_ID: Final = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")


@dataclass(frozen=True, slots=True)
class Reply:
    """`body` is JSON, or text or a stream of bytes where `content_type` names another type; None: there is none."""

    body: Json = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str = "application/json"


@dataclass(frozen=True, slots=True)
class Call:
    """A request that may be answered. `body` and `query` are of the operation's models; `given` is the body as JSON.

    caller  None only where the operation is open to all
    """

    request: flask.Request
    path: Mapping[str, str]
    caller: ApiKey | None
    body: Any = None
    given: Json = None
    query: Any = None

    @property
    def project_id(self) -> str:
        assert self.caller is not None, "this operation is open to all"
        return self.caller.project_id

    @property
    def key_id(self) -> str:
        assert self.caller is not None, "this operation is open to all"
        return self.caller.id


Handler = Callable[[Desk, Call], Reply]


@dataclass(frozen=True, slots=True)
class Header:
    """A header of a request or an answer."""

    name: str
    description: str
    schema: Mapping[str, Json] = field(default_factory=lambda: {"type": "string"})


@dataclass(frozen=True, slots=True)
class Answer:
    """A good answer: its model (None: no body), headers it may carry, and its type where it is no JSON."""

    description: str
    model: Any = None
    headers: tuple[Header, ...] = ()
    content_type: str = "application/json"


@dataclass(frozen=True, slots=True)
class Body:
    """What an operation takes. `read` overrides how it is read, for what is no single JSON value."""

    model: Any
    types: tuple[str, ...] = body.JSON_TYPES
    read: Callable[[Desk, flask.Request], tuple[Any, Json]] | None = None


@dataclass(frozen=True, slots=True)
class Operation:
    """`rule` is Flask's; `scope` None opens it to all; `problems` come on top of those its parts imply."""

    method: str
    rule: str
    name: str
    summary: str
    tag: str
    face: Face
    scope: Scope | None
    run: Handler
    answers: Mapping[int, Answer]
    body: Body | None = None
    query: type[BaseModel] | None = None
    headers: tuple[Header, ...] = ()
    problems: tuple[Sort, ...] = ()
    description: str = ""

    @property
    def path(self) -> str:
        """As OpenAPI writes it."""
        return re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", self.rule)

    @property
    def possible(self) -> tuple[Sort, ...]:
        """Every problem it may answer with."""
        implied = [INTERNAL]
        if self.scope is not None:
            implied += [NO_KEY, NO_SCOPE, UNAVAILABLE]
        if self.body is not None:
            implied += [NOT_JSON, TOO_LARGE, BAD_TYPE]
        if self.body is not None or self.query is not None or self.headers:
            implied.append(INVALID)
        return tuple(dict.fromkeys((*implied, *self.problems)))


class Operations:
    """The operations of one resource, in the order they are declared."""

    def __init__(self, tag: str, face: Face = "native") -> None:
        self._tag = tag
        self._face = face
        self._all: list[Operation] = []

    def __iter__(self) -> Iterator[Operation]:
        return iter(self._all)

    def add(self, method: str, rule: str, name: str, summary: str, **rest: Any) -> Callable[[Handler], Handler]:
        """The handler's docstring is the operation's description."""

        def declared(run: Handler) -> Handler:
            description = " ".join((run.__doc__ or "").split())
            made = Operation(
                method, rule, name, summary, self._tag, self._face, run=run, description=description, **rest
            )
            self._all.append(made)
            return run

        return declared


def mount(app: flask.Flask, desk: Desk, operations: Iterable[Operation]) -> None:
    for operation in operations:
        app.add_url_rule(
            operation.rule,
            endpoint=operation.name,
            view_func=_view(operation, desk),
            methods=[operation.method],
            provide_automatic_options=False,
        )


def _view(operation: Operation, desk: Desk) -> Callable[..., flask.Response]:
    adapter: TypeAdapter[Any] | None = None
    if operation.body is not None and operation.body.read is None:
        adapter = TypeAdapter(operation.body.model)

    def view(**path: str) -> flask.Response:
        request = flask.request
        flask.g.face = operation.face
        caller = None
        if operation.scope is not None:
            caller = desk.keys.caller(request.headers.get("Authorization"), operation.scope)
        query = None if operation.query is None else _query(operation.query, request.args)
        value = given = None
        if operation.body is not None:
            if operation.body.read is not None:
                value, given = operation.body.read(desk, request)
            else:
                given = body.parsed(body.read(request, operation.body.types))
                value = validated(adapter, operation.body.model, given)
        return response(operation.run(desk, Call(request, path, caller, value, given, query)))

    return view


def validated(
    adapter: TypeAdapter[Any] | None, model: Any, given: Json, line: int | None = None, *, strict: bool = True
) -> Any:
    """Raises Problem with every fault. Not `strict`: for a form, whose values are all texts."""
    assert adapter is not None
    try:
        return adapter.validate_python(given, strict=strict)
    except ValidationError as error:
        raise invalid(*faults_of(error, model, given, line)) from None


def _query(model: type[BaseModel], args: MultiDict[str, str]) -> BaseModel:
    given = {}
    for name, values in args.lists():
        if len(values) > 1:
            raise invalid(Fault(name[:60], "is given more than once", "Give it once."))
        given[name] = values[0]
    try:
        return model.model_validate(given)
    except ValidationError as error:
        raise invalid(*faults_of(error, model, given)) from None


def response(reply: Reply) -> flask.Response:
    content = encoded(reply.body) if reply.content_type == "application/json" else reply.body
    made = flask.Response(content if reply.body is not None else None, reply.status, content_type=reply.content_type)
    if reply.body is None:
        del made.headers["Content-Type"]
    made.headers.extend(reply.headers)
    return made


def encoded(value: Json) -> bytes:
    """JSON in UTF-8; in ASCII where a text is no valid Unicode."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except ValueError:  # a lone surrogate, or a number that JSON has no word for
        return dumps(value).encode()


def request_id() -> str:
    """The caller's own where it is sane, else a new one; one per request."""
    known: str | None = flask.g.get("request_id")
    if known is None:
        given = flask.request.headers.get("X-Request-Id", "")
        known = given if _SANE_ID.fullmatch(given) else clock.new_id("req")
        flask.g.request_id = known
    return known


def answer_problem(exc: BaseException, face: Face) -> flask.Response:
    """Any exception as the answer that its face of the API knows."""
    problem: Problem = problems.of(exc, request_id())
    status, content_type, content = problems.rendered(problem, face, request_id())
    made = flask.Response(encoded(content), status, content_type=content_type)
    made.headers.extend(problem.headers)
    return made
