"""A file of requests, line by line: bytes to jobs as POST /v1/jobs takes them. A broken line spoils no other."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BufferedReader
from typing import TYPE_CHECKING, Final, NoReturn

from worker.domain.answer import Json
from worker.domain.money import NANO
from worker.services.batches.raw import cut
from worker.store.text import dumps

if TYPE_CHECKING:
    from worker.services.submit import JobRequest

# What stands beside `input` in a job; every other field of a plain line belongs to the request itself.
OF_THE_JOB: Final = frozenset(
    {"kind", "model", "models", "output_schema", "metadata", "priority"}
    | {"deadline_s", "max_attempts", "on_interruption", "webhook"}
)
_CHUNK: Final = 256 * 1024
_FORMS: Final = "a line has `prompt`, `messages` or `input`, or is a line of an OpenAI batch"


@dataclass(frozen=True, slots=True)
class Line:
    """number: from 1, blank lines counted; job: the body for POST /v1/jobs"""

    number: int
    custom_id: str | None
    job: dict[str, Json]


@dataclass(frozen=True, slots=True)
class BrokenLine:
    number: int
    custom_id: str | None
    message: str


def read(stream: BufferedReader, overrides: dict[str, Json]) -> Iterator[Line | BrokenLine]:
    """Every line that is not blank. `overrides` are fields of a job that beat what a line says."""
    for number, data in raw(stream):
        custom_id = None
        try:
            record = parsed(data)
            custom_id = _custom_id(record)
            job = job_of(record)
            if "model" in overrides:
                job.pop("models", None)
            yield Line(number, custom_id, job | overrides)
        except Broken as fault:
            yield BrokenLine(number, custom_id, str(fault))


def raw(stream: BufferedReader) -> Iterator[tuple[int, bytes]]:
    """Every line that is not blank, numbered from 1, in UTF-8 whatever Windows wrote: cut as the server cuts them."""
    for number, data in cut(_chunks(stream), sys.maxsize):
        assert data is not None
        yield number, data


def read_again(stream: BufferedReader, overrides: dict[str, Json]) -> Iterator[Line | BrokenLine]:
    """As `read`, from the beginning of a file."""
    stream.seek(0)
    yield from read(stream, overrides)


def is_of_openai(record: Mapping[str, Json]) -> bool:
    """Whether it is a line of an OpenAI batch, and not a plain one."""
    return "url" in record or "body" in record


def job_of(record: Mapping[str, Json]) -> dict[str, Json]:
    """The job a line asks for: an OpenAI batch line, or the plain form. Raises Broken."""
    if is_of_openai(record):
        return _of_openai(record)
    given = {name: value for name, value in record.items() if name != "custom_id"}
    job = {name: given.pop(name) for name in OF_THE_JOB & given.keys()}
    content = given.get("input")
    if isinstance(content, dict):
        if len(given) > 1:
            others = ", ".join(sorted(given.keys() - {"input"}))
            _broken(f"has {others[:100]} beside input: they belong into it")
        return job | {"input": content}
    if content is not None:
        return {"kind": "embedding"} | job | {"input": given}
    if "prompt" not in given and "messages" not in given:
        _broken(_FORMS)
    system = given.pop("system", None)
    if system is not None:
        turns = given.pop("messages", None)
        if turns is None:
            turns = [{"role": "user", "content": given.pop("prompt")}]
        if not isinstance(turns, list):
            _broken("messages must be a list")
        given["messages"] = [{"role": "system", "content": system}, *turns]
    return job | {"input": given}


def _of_openai(record: Mapping[str, Json]) -> dict[str, Json]:
    """Read by the server's own code: a line asks for the same here as in a batch of its endpoint."""
    from worker.services.batches.endpoints import ENDPOINTS, NATIVE  # noqa: PLC0415 - a second, for such lines only
    from worker.services.batches.lines import BadLine, read  # noqa: PLC0415

    url, body = record.get("url"), record.get("body")
    if not isinstance(url, str) or url not in ENDPOINTS:
        _broken(f"url must be one of {', '.join(ENDPOINTS)}")
    if url == NATIVE and isinstance(body, dict) and record.get("method", "POST") == "POST":
        return dict(body)
    # Names are judged elsewhere: here a line may have none, or any.
    asked = {"method": "POST", **record, "custom_id": "x"}
    try:
        return _as_job(read((1, dumps(asked).encode()), url, lambda _: None).request)
    except BadLine as fault:
        _broken(fault.errors[0].message)
    except RecursionError:
        _broken("is nested too deep")


def _as_job(request: JobRequest) -> dict[str, Json]:
    """In the words of POST /v1/jobs, as far as OpenAI's endpoints have words for it."""
    one, *more = request.models
    said = {
        "kind": request.kind,
        **({"models": [one, *more]} if more else {"model": one}),
        "input": dict(request.input),
        "output_schema": request.output_schema,
        "metadata": request.metadata or None,
        "deadline_s": request.deadline_s,
        "max_cost": None if request.max_cost_nano is None else request.max_cost_nano / NANO,
    }
    return {name: value for name, value in said.items() if value is not None}


class Broken(ValueError):
    """What is wrong with a line, as the end of a sentence about it."""


def _broken(message: str) -> NoReturn:
    raise Broken(message)


def parsed(data: bytes) -> dict[str, Json]:
    """Raises Broken."""
    try:
        record = json.loads(data.decode(), parse_constant=lambda name: _broken(f"holds {name}, which is no JSON"))
    except Broken:
        raise
    except UnicodeDecodeError:
        _broken("is not UTF-8")
    except json.JSONDecodeError as fault:
        _broken(f"is not valid JSON at column {fault.colno}: {fault.msg}")
    except RecursionError:
        _broken("is nested too deep")
    except ValueError:  # Python's own bound on the digits of a whole number
        _broken("holds a number out of range")
    if not isinstance(record, dict):
        _broken("is not a JSON object")
    return record


def _custom_id(record: Mapping[str, Json]) -> str | None:
    given = record.get("custom_id")
    if given is None or isinstance(given, str):
        return given
    _broken("custom_id must be a string")


def _chunks(stream: BufferedReader) -> Iterator[bytes]:
    while chunk := stream.read(_CHUNK):
        yield chunk
