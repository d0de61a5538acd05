"""The OpenAPI document, and a page that shows it: plain HTML made here, no script, nothing fetched from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any, Final

from markupsafe import Markup

from api.desk import Desk
from api.openapi import document
from api.operations import Answer, Call, Operation, Operations, Reply, encoded
from api.problems import SORTS

_STYLE: Final = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a; }
h2 { margin-top: 3rem; border-bottom: 1px solid #ccc; }
h3 code { font-size: 1.1rem; }
code, pre { font-family: ui-monospace, monospace; font-size: .9rem; }
pre { background: #f5f5f5; padding: .7rem; overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
td, th { text-align: left; vertical-align: top; padding: .2rem .8rem .2rem 0; border-bottom: 1px solid #eee; }
summary { cursor: pointer; }
b { color: #0a5; }
"""
_HASH: Final = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_HEAD: Final = (
    '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Completar</title>'
    f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>'
)
_HTML: Final = "text/html; charset=utf-8"
POLICY: Final = (
    f"default-src 'none'; style-src 'sha256-{_HASH}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def documentation(others: Iterable[Operation]) -> Operations:
    """The operations that show what operations there are, themselves included."""
    docs = Operations("Documentation")
    all_ = list(others)
    made = cache(lambda: document([*all_, *docs]))
    shown = cache(lambda: _page(made()))

    @docs.add(
        "GET",
        "/openapi.json",
        "openapi",
        "This document",
        scope=None,
        answers={200: Answer("OpenAPI 3.1.", dict[str, Any])},
    )
    def openapi(_desk: Desk, _call: Call) -> Reply:
        """Made from the models that validate."""
        return Reply(made())

    @docs.add(
        "GET",
        "/docs",
        "docs",
        "This document as a page",
        scope=None,
        answers={200: Answer("A page without scripts.", str, content_type=_HTML)},
    )
    def page(_desk: Desk, _call: Call) -> Reply:
        """Nothing is fetched from elsewhere."""
        return Reply(shown(), 200, {"Content-Security-Policy": POLICY}, _HTML)

    return docs


def _page(spec: dict[str, Any]) -> str:
    parts = [
        Markup(_HEAD),  # noqa: S704 - a constant
        Markup("<body><h1>Completar</h1><p>{}</p>").format(spec["info"]["summary"]),
        Markup('<p>The same as <a href="/openapi.json">OpenAPI 3.1</a>. Every request but those marked open carries '),
        Markup("<code>Authorization: Bearer ck_...</code>; <code>python3 run.py keys create</code> makes a key.</p>"),
    ]
    for tag in spec["tags"]:
        parts.append(Markup("<h2>{}</h2>").format(tag["name"]))
        for path, methods in spec["paths"].items():
            for method, operation in methods.items():
                if tag["name"] in operation["tags"]:
                    parts += _operation(path, method, operation)
    parts.append(Markup("<h2>Problems</h2><table><tr><th>type<th>status<th>as OpenAI's clients see it<th>meaning"))
    for sort in SORTS:
        status, kind, code = sort.openai
        row = Markup('<tr id="{0}"><td><code>{0}</code><td>{1}<td>{2} {3} {4}<td>{5}. {6}.')
        parts.append(row.format(sort.slug, sort.status, status, kind, code or "", sort.title, sort.es))
    parts.append(Markup("</table><h2>Schemas</h2>"))
    for name, schema in spec["components"]["schemas"].items():
        shown = json.dumps(schema, indent=2, ensure_ascii=False)
        parts.append(Markup('<h3 id="schema-{0}"><code>{0}</code></h3><pre>{1}</pre>').format(name, shown))
    return str(Markup("\n").join(parts) + Markup("</body></html>"))


def _operation(path: str, method: str, operation: dict[str, Any]) -> Iterator[Markup]:
    is_open = Markup(" <i>(open)</i>") if operation["security"] == [] else ""
    yield Markup('<h3 id="{}"><b>{}</b> <code>{}</code>{}</h3>').format(
        operation["operationId"], method.upper(), path, is_open
    )
    yield Markup("<p>{}. {}</p>").format(operation["summary"], operation["description"])
    if operation["parameters"]:
        yield Markup("<table><tr><th>parameter<th>in<th>meaning<th>schema")
        for one in operation["parameters"]:
            row = Markup("<tr><td><code>{}</code><td>{}<td>{}<td><code>{}</code>")
            yield row.format(one["name"], one["in"], one.get("description", ""), _short(one["schema"]))
        yield Markup("</table>")
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        yield Markup("<p>Takes <code>{}</code>: {}</p>").format(kind, _linked(content["schema"]))
    yield Markup("<table><tr><th>status<th>meaning<th>body")
    for status, answer in operation["responses"].items():
        bodies = [_linked(content["schema"]) for content in answer.get("content", {}).values()]
        yield Markup("<tr><td>{}<td>{}<td>{}").format(status, answer["description"], Markup(", ").join(bodies))
    yield Markup("</table>")


def _linked(schema: dict[str, Any]) -> Markup:
    reference = schema.get("$ref")
    if reference is None:
        return Markup("<code>{}</code>").format(_short(schema))
    name = reference.rpartition("/")[2]
    return Markup('<a href="#schema-{0}">{0}</a>').format(name)


def _short(schema: dict[str, Any]) -> str:
    return encoded(schema).decode()
