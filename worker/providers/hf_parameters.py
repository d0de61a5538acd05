"""The portable parameters as `parameters` of a text generator: TGI's, or those of transformers' `generate()`.

What changes the answer's kind and cannot be had is refused (tools, a schema). What only steers (a seed, a penalty) is
left out where it is not known: the default handler answers an unknown name with a 400.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from worker.domain.answer import Call, Json
from worker.providers.format import Unfit
from worker.providers.portable import ceiling, response_format, schema_of, stops

_TGI_STOPS: Final = 4  # more is a 422; the rest is cut off here
_SEEDS: Final = 2**64  # TGI's are not negative
_BEYOND_TEXT: Final = ("audio", "web_search_options", "logit_bias")


def tgi_parameters(call: Call) -> dict[str, Json]:
    """TGI refuses a temperature of 0 and a top_p of 1: without either it is greedy and cuts nothing. Raises Unfit."""
    given = call.input
    _check(given)
    parameters = _ceiling(given)
    if not _is_greedy(given):
        chosen = _set(given, "temperature")
        chosen |= {name: value for name, value in _set(given, "top_p").items() if value < 1}
        chosen |= {name: value for name, value in _set(given, "top_k").items() if value > 0}
        parameters |= _sampled(chosen)
    parameters |= _set(given, "repetition_penalty")
    parameters |= {name: value for name, value in _set(given, "frequency_penalty").items() if value != 0}
    parameters |= {name: value % _SEEDS for name, value in _set(given, "seed").items()}
    if ends := stops(given):
        parameters["stop"] = ends[:_TGI_STOPS]
    if (schema := _schema(call)) is not None:
        parameters["grammar"] = {"type": "json", "value": schema}
    return parameters


def handler_parameters(call: Call) -> dict[str, Json]:
    """`generate()` samples only if told so, and refuses a temperature of 0. Raises Unfit."""
    given = call.input
    _check(given)
    if _schema(call) is not None:
        raise Unfit("cannot be held to a JSON schema")
    parameters = _ceiling(given)
    if _is_greedy(given):
        parameters["do_sample"] = False
    else:
        parameters |= _sampled(_set(given, "temperature", "top_p", "top_k", "min_p"))
    parameters |= _set(given, "repetition_penalty")
    if len(ends := stops(given)) == 1:  # of several it takes none
        parameters["stop_sequence"] = ends[0]
    return parameters


def own_parameters(call: Call) -> Mapping[str, Json]:
    """Those the caller named as the engine names them. Raises Unfit."""
    own = call.input.get("parameters", {})
    if not isinstance(own, Mapping):
        raise Unfit("takes parameters as an object")
    return own


def _check(given: Mapping[str, Json]) -> None:
    if given.get("tools") and given.get("tool_choice") != "none":
        raise Unfit("takes no tools")
    for name in _BEYOND_TEXT:
        if given.get(name):
            raise Unfit(f"does not take {name}")
    if given.get("n", 1) != 1:
        raise Unfit("gives one answer")
    if given.get("repetition_penalty") == 0:
        raise Unfit("takes a repetition_penalty above 0 only")


def _ceiling(given: Mapping[str, Json]) -> dict[str, Json]:
    most = ceiling(given)
    return {} if most is None else {"max_new_tokens": most}


def _is_greedy(given: Mapping[str, Json]) -> bool:
    return given.get("temperature") == 0 or given.get("top_p") == 0


def _sampled(chosen: dict[str, Json]) -> dict[str, Json]:
    return {"do_sample": True, **chosen} if chosen else {}


def _set(given: Mapping[str, Json], *names: str) -> dict[str, Any]:
    return {name: given[name] for name in names if name in given}


def _schema(call: Call) -> Json:
    """The schema the answer must fit; None: it may be any text."""
    schema = schema_of(call)
    if schema is None and response_format(call.input).get("type") == "json_object":
        return {"type": "object"}
    return schema
