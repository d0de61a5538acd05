"""The web application: every operation mounted, every error an answer its caller can read."""

from __future__ import annotations

from itertools import chain
from typing import Final

import flask
from werkzeug.routing import BaseConverter

from api.desk import Desk
from api.operations import Operation, answer_problem, mount, request_id
from api.problems import Face
from api.routes.batch_estimate import batch_estimate
from api.routes.batch_results import batch_results
from api.routes.batches import batches
from api.routes.chat import chat
from api.routes.completar import completar
from api.routes.dead_letters import dead_letters
from api.routes.docs import documentation
from api.routes.files import files
from api.routes.job_events import job_events
from api.routes.jobs import jobs
from api.routes.operation import operation
from api.routes.pauses import pausing
from api.routes.predictions import predictions
from api.routes.queue import queue
from api.routes.responses import responses
from api.routes.uploads import uploads
from api.routes.usage import usage
from api.routes.webhook_deliveries import webhook_deliveries
from api.routes.webhook_endpoints import webhook_endpoints
from api.routes.workers import workers
from worker.deps import Deps

_WORK: Final = tuple(
    chain(
        *(
            jobs,
            job_events,
            predictions,
            dead_letters,
            chat,
            responses,
            files,
            uploads,
            batches,
            batch_results,
            batch_estimate,
        ),
        *(completar, webhook_endpoints, webhook_deliveries, operation, pausing, queue, workers, usage),
    )
)
OPERATIONS: Final[tuple[Operation, ...]] = (*_WORK, *documentation(_WORK))

# Where OpenAI's clients look, whether or not there is anything: they read errors of one shape only.
_OPENAI: Final = tuple(
    f"/v1/{name}"
    for name in (
        *("assistants", "audio", "batches", "chat", "completions", "conversations", "embeddings", "evals", "files"),
        *("fine_tuning", "images", "models", "moderations", "realtime", "responses", "threads", "uploads"),
        *("vector_stores", "videos"),
    )
)


class JobConverter(BaseConverter):
    """Any id, good or bad, but no other word that stands in its place: the two have different methods."""

    regex = "(?!bulk$)[^/]+"


class BatchConverter(BaseConverter):
    """As of a job."""

    regex = "(?!estimate$)[^/]+"


_JSON: Final = frozenset({"application/json", "application/problem+json"})


def create_app(deps: Deps) -> flask.Flask:
    """Opens no connection: the process lives, and says so, whatever else is away."""
    app = flask.Flask("completar", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = deps.settings.max_body_bytes
    app.url_map.merge_slashes = False  # a redirect would be an answer in HTML, and a POST would lose its body
    app.url_map.converters["job"] = JobConverter
    app.url_map.converters["batch"] = BatchConverter
    mount(app, Desk.of(deps), OPERATIONS)
    app.register_error_handler(Exception, _problem)
    app.after_request(_sealed)
    return app


def _problem(exc: Exception) -> flask.Response:
    return answer_problem(exc, _face())


def _face() -> Face:
    """Of the operation, or of those nearby where there is none."""
    known: Face | None = flask.g.get("face")
    if known is not None:
        return known
    path = flask.request.path
    return "openai" if path.startswith(_OPENAI) else "native"


def _sealed(response: flask.Response) -> flask.Response:
    response.headers["x-request-id"] = request_id()
    response.headers["X-Content-Type-Options"] = "nosniff"
    if response.mimetype in _JSON:
        # JSON is UTF-8 by definition; Windows PowerShell 5.1 reads it as Latin-1 unless it is told.
        response.headers["Content-Type"] = f"{response.mimetype}; charset=utf-8"
    response.headers["Cache-Control"] = "no-store"
    return response
