"""The wire formats of Hugging Face beyond the witnessed cases: whole requests, what is refused, and any bytes."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from worker.domain.answer import Answer, Call, Failure
from worker.domain.failure import FailureKind
from worker.domain.money import NO_USAGE, Usage
from worker.providers.format import USER_AGENT, Format, Unfit
from worker.providers.formats import FORMATS
from worker.providers.hf_inference import HFInferenceFormat
from worker.providers.hf_text_generation import HFTextGenerationFormat
from worker.providers.openai import ONLY_MODEL, OpenAIFormat
from worker.providers.tei import TEIFormat

K = FailureKind
NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
GENERATE = HFTextGenerationFormat(lambda: NOW)
TEXT2TEXT = HFTextGenerationFormat(lambda: NOW, "hf-text2text-generation", "text2text-generation")
HANDLER = HFTextGenerationFormat(lambda: NOW, "hf-handler", None)
INFERENCE = HFInferenceFormat(lambda: NOW)
TEI = TEIFormat(lambda: NOW)
ALL: list[Format] = [GENERATE, TEXT2TEXT, HANDLER, INFERENCE, TEI]

URL = "https://abc.us-east-1.aws.endpoints.huggingface.cloud"
TGI = URL + "/generate"
ROUTER = "https://router.huggingface.co/hf-inference"
SYSTEM = {"role": "system", "content": "Sé breve."}
USER = {"role": "user", "content": "Hola"}
SAID = {"role": "assistant", "content": "Hola."}


def completion(base_url: str = URL, model: str = "org/model", schema: Any = None, **fields: Any) -> Call:
    return Call("completion", base_url, model, fields or {"prompt": "Hola"}, schema)


def embedding(base_url: str = URL, **fields: Any) -> Call:
    return Call("embedding", base_url, "org/model", fields)


def sent(wire: Format, call: Call) -> Any:
    return json.loads(wire.build_request(call, None).read())


def parameters(wire: Format, base_url: str = URL, schema: Any = None, **fields: Any) -> Any:
    """Those of a bare prompt, without what the format adds for itself."""
    made = sent(wire, completion(base_url, schema=schema, prompt="Hola", **fields)).get("parameters", {})
    return {name: value for name, value in made.items() if name not in {"return_full_text", "details"}}


def unfit(wire: Format, call: Call) -> str:
    with pytest.raises(Unfit) as raised:
        wire.build_request(call, None)
    return str(raised.value)


def read(wire: Format, call: Call, body: Any, status: int = 200, headers: Any = ()) -> Answer | Failure:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return wire.read_response(call, status, dict(headers), data)


def answer(wire: Format, call: Call, body: Any, **headers: str) -> Answer:
    found = read(wire, call, body, headers={name.replace("_", "-"): value for name, value in headers.items()})
    assert isinstance(found, Answer), found
    return found


def failure(wire: Format, call: Call, body: Any, status: int = 200) -> Failure:
    found = read(wire, call, body, status)
    assert isinstance(found, Failure), found
    return found


# Requests, whole

HEADERS = [
    (b"Content-Type", b"application/json"),
    (b"Accept", b"application/json"),
    (b"Accept-Encoding", b"identity"),
    (b"User-Agent", USER_AGENT.encode()),
    (b"Authorization", b"Bearer hf_x"),
]


@pytest.mark.parametrize(
    ("wire", "call", "url", "body"),
    [
        (
            GENERATE,
            completion(prompt="¿Capital?", max_tokens=32, temperature=0.7),
            URL + "/",
            (
                rb'{"inputs":"\u00bfCapital?","parameters":{"max_new_tokens":32,"do_sample":true,"temperature":0.7,'
                rb'"return_full_text":false}}'
            ),
        ),
        (
            GENERATE,
            completion(URL + "/", messages=[SYSTEM, USER]),
            URL + "/",
            rb'{"inputs":[{"role":"system","content":"S\u00e9 breve."},{"role":"user","content":"Hola"}]}',
        ),
        (TEXT2TEXT, completion(messages=[USER]), URL + "/", b'{"inputs":"Hola"}'),
        (
            HANDLER,
            completion(messages=[USER], max_tokens=5),
            URL + "/",
            b'{"inputs":"Hola","parameters":{"max_new_tokens":5}}',
        ),
        (
            GENERATE,
            completion(TGI, messages=[USER], max_completion_tokens=5, stop="\n"),
            TGI,
            rb'{"inputs":"Hola","parameters":{"max_new_tokens":5,"stop":["\n"],"details":true}}',
        ),
        (
            INFERENCE,
            completion(ROUTER, prompt="Hola", max_tokens=5),
            ROUTER + "/models/org/model",
            b'{"inputs":"Hola","parameters":{"max_new_tokens":5,"return_full_text":false}}',
        ),
        (
            INFERENCE,
            completion(ROUTER, "bert", task="text-classification", inputs="Bien", parameters={"top_k": 2}),
            ROUTER + "/models/bert",
            b'{"inputs":"Bien","parameters":{"top_k":2}}',
        ),
        (
            INFERENCE,
            completion(ROUTER, task="sentence-similarity", inputs={"source_sentence": "a", "sentences": ["b"]}),
            ROUTER + "/models/org/model/pipeline/sentence-similarity",
            b'{"inputs":{"source_sentence":"a","sentences":["b"]}}',
        ),
        (
            INFERENCE,
            embedding(ROUTER, input=["a", "b"], user="u"),
            ROUTER + "/models/org/model/pipeline/feature-extraction",
            b'{"inputs":["a","b"]}',
        ),
        (TEI, embedding(input="a", dimensions=8), URL + "/embed", b'{"inputs":"a","dimensions":8}'),
        (TEI, embedding(input=[[1, 2], [3]]), URL + "/embed", b'{"inputs":[[1,2],[3]]}'),
        (
            TEI,
            completion(query="q", texts=["a", "b"], parameters={"raw_scores": True}),
            URL + "/rerank",
            b'{"query":"q","texts":["a","b"],"raw_scores":true}',
        ),
        (TEI, completion(task="predict", inputs="Bien"), URL + "/predict", b'{"inputs":"Bien"}'),
        (TEI, completion(task="text-classification", prompt="Bien"), URL + "/predict", b'{"inputs":"Bien"}'),
        (
            TEI,
            completion(task="sentence-similarity", inputs={"source_sentence": "a", "sentences": ["b"]}),
            URL + "/similarity",
            b'{"inputs":{"source_sentence":"a","sentences":["b"]}}',
        ),
    ],
)
def test_a_request(wire: Format, call: Call, url: str, body: bytes) -> None:
    request = wire.build_request(call, "hf_x")
    assert (request.method, str(request.url)) == ("POST", url)
    assert request.read() == body
    host = (b"Host", request.url.netloc)
    assert request.headers.raw == [host, *HEADERS, (b"Content-Length", str(len(body)).encode())]


def test_without_a_key_no_credential_is_sent() -> None:
    for wire in ALL[:4]:
        assert "authorization" not in wire.build_request(completion(), None).headers


def test_names_are_those_of_the_table() -> None:
    assert {FORMATS[wire.name] for wire in ALL} <= set(FORMATS.values())
    assert [FORMATS[wire.name].name for wire in ALL] == [wire.name for wire in ALL]


# What steers, as each takes it


@pytest.mark.parametrize(
    ("asked", "of_handler", "of_tgi"),
    [
        ({}, {}, {}),
        ({"temperature": 0}, {"do_sample": False}, {}),
        ({"temperature": 0, "top_p": 0.5, "top_k": 3}, {"do_sample": False}, {}),
        ({"top_p": 0.0}, {"do_sample": False}, {}),
        (
            {"temperature": 1.0},
            {"do_sample": True, "temperature": 1.0},
            {"do_sample": True, "temperature": 1.0},  # which TGI takes for greedy without the first
        ),
        ({"top_p": 0.9}, {"do_sample": True, "top_p": 0.9}, {"do_sample": True, "top_p": 0.9}),
        ({"top_p": 1.0}, {"do_sample": True, "top_p": 1.0}, {}),
        (
            {"temperature": 0.5, "top_p": 1},
            {"do_sample": True, "temperature": 0.5, "top_p": 1},
            {"do_sample": True, "temperature": 0.5},
        ),
        ({"top_k": 0}, {"do_sample": True, "top_k": 0}, {}),
        ({"top_k": 5}, {"do_sample": True, "top_k": 5}, {"do_sample": True, "top_k": 5}),
        ({"min_p": 0.1}, {"do_sample": True, "min_p": 0.1}, {}),
        ({"seed": 0}, {}, {"seed": 0}),
        ({"seed": -1}, {}, {"seed": 2**64 - 1}),
        ({"max_tokens": 7}, {"max_new_tokens": 7}, {"max_new_tokens": 7}),
        ({"max_tokens": 7, "max_completion_tokens": 9}, {"max_new_tokens": 9}, {"max_new_tokens": 9}),
        ({"stop": "a"}, {"stop_sequence": "a"}, {"stop": ["a"]}),
        ({"stop": ["a", ""]}, {"stop_sequence": "a"}, {"stop": ["a"]}),
        ({"stop": list("abcde")}, {}, {"stop": list("abcd")}),
        ({"stop": []}, {}, {}),
        ({"repetition_penalty": 1.2}, {"repetition_penalty": 1.2}, {"repetition_penalty": 1.2}),
        ({"frequency_penalty": 0.5}, {}, {"frequency_penalty": 0.5}),
        ({"frequency_penalty": 0, "presence_penalty": 1, "reasoning_effort": "low", "user": "u"}, {}, {}),
        ({"n": 1, "store": False, "tools": [], "logit_bias": {}, "parallel_tool_calls": True}, {}, {}),
        ({"response_format": {"type": "text"}}, {}, {}),
        (
            {"temperature": 0.2, "parameters": {"temperature": 0.9, "typical_p": 0.5}},
            *[{"do_sample": True, "temperature": 0.9, "typical_p": 0.5}] * 2,
        ),
    ],
)
def test_parameters(asked: dict[str, Any], of_handler: dict[str, Any], of_tgi: dict[str, Any]) -> None:
    for wire in (GENERATE, TEXT2TEXT, HANDLER):
        assert parameters(wire, **asked) == of_handler
    assert parameters(GENERATE, TGI, **asked) == of_tgi
    assert parameters(INFERENCE, ROUTER, **asked) == of_tgi


SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}


@pytest.mark.parametrize(
    ("asked", "schema", "expected"),
    [
        ({}, SCHEMA, SCHEMA),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}}, None, SCHEMA),
        ({"response_format": {"type": "json_object"}}, None, {"type": "object"}),
    ],
)
def test_a_schema_is_a_grammar_of_tgi_and_nothing_of_the_handler(asked: Any, schema: Any, expected: Any) -> None:
    assert parameters(GENERATE, TGI, schema, **asked) == {"grammar": {"type": "json", "value": expected}}
    for wire in (GENERATE, TEXT2TEXT, HANDLER):
        assert "schema" in unfit(wire, completion(schema=schema, prompt="x", **asked))


def test_return_full_text_is_sent_where_a_prompt_would_be_echoed_and_nowhere_else() -> None:
    def told(wire: Format, base_url: str = URL, **fields: Any) -> Any:
        return sent(wire, completion(base_url, **fields)).get("parameters", {}).get("return_full_text")

    assert told(GENERATE, prompt="x") is False
    assert told(GENERATE, inputs=["x", "y"]) is False
    assert told(GENERATE, inputs="x", parameters={"return_full_text": True}) is True
    assert told(TEXT2TEXT, prompt="x", task="text-generation") is False
    assert told(GENERATE, messages=[USER]) is None
    assert told(GENERATE, inputs=[[USER], [USER]]) is None
    assert told(GENERATE, prompt="x", task="text2text-generation") is None
    assert told(TEXT2TEXT, prompt="x") is None
    assert told(HANDLER, prompt="x") is None
    assert told(GENERATE, TGI, prompt="x") is None


def test_a_conversation_goes_where_it_is_taken() -> None:
    long = [
        SYSTEM,
        USER,
        SAID,
        {"role": "user", "content": [{"type": "text", "text": "¿Y"}, {"type": "text", "text": "?"}]},
    ]
    plain = [SYSTEM, USER, SAID, {"role": "user", "content": "¿Y?"}]
    for wire in (GENERATE, HANDLER):
        assert sent(wire, completion(messages=long))["inputs"] == plain
    for wire, base_url in ((TEXT2TEXT, URL), (GENERATE, TGI), (INFERENCE, ROUTER)):
        assert "this is a conversation" in unfit(wire, completion(base_url, messages=long))
        short = completion(base_url, messages=[{**SYSTEM, "role": "developer"}, USER])
        assert sent(wire, short)["inputs"] == "Sé breve.\n\nHola"


@pytest.mark.parametrize(
    ("asked", "word"),
    [
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"logit_bias": {"1": 2}}, "logit_bias"),
        ({"audio": {"voice": "v"}}, "audio"),
        ({"web_search_options": {"a": 1}}, "web_search_options"),
        ({"n": 2}, "one answer"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"parameters": [1]}, "parameters"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "image_url"),
        ({"messages": [USER, {"role": "tool", "tool_call_id": "t", "content": "x"}]}, "tools"),
        (
            {"messages": [USER, {"role": "assistant", "tool_calls": [{"id": "t", "function": {"name": "f"}}]}]},
            "tools",
        ),
        ({"messages": []}, "prompt or messages"),
    ],
)
def test_what_a_text_generator_cannot_take_is_refused(asked: dict[str, Any], word: str) -> None:
    fields = asked if "messages" in asked else {"prompt": "x", **asked}
    for wire, base_url in ((GENERATE, URL), (TEXT2TEXT, URL), (HANDLER, URL), (GENERATE, TGI), (INFERENCE, ROUTER)):
        told = unfit(wire, completion(base_url, **fields))
        assert told.startswith(f"format {wire.name} ")
        assert word in told


def test_tools_that_must_not_be_used_are_no_reason() -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]
    assert sent(TEXT2TEXT, completion(prompt="x", tools=tools, tool_choice="none")) == {"inputs": "x"}


def test_what_no_format_is_for() -> None:
    assert "no embeddings" not in unfit(TEI, completion(messages=[USER]))
    assert "generates no text" in unfit(TEI, completion(messages=[USER]))
    assert "generates no text" in unfit(TEI, completion(task="summarization", inputs="x"))
    assert "needs both" in unfit(TEI, completion(query="q"))
    assert "has no embeddings" in unfit(GENERATE, embedding(input="x"))
    assert "tokens" in unfit(INFERENCE, embedding(ROUTER, input=[1, 2]))


@pytest.mark.parametrize(
    "model", ["", "a//b", "../whoami", "a/../b", "a/b/c", "a?b", "a#b", "a b", "a/b:cheapest", "ñ", "/a"]
)
def test_a_model_that_is_no_repository_does_not_reach_the_address(model: str) -> None:
    assert "repository" in unfit(INFERENCE, completion(ROUTER, model, prompt="x"))


def test_a_task_is_nothing_for_a_format_that_converses() -> None:
    for fields in (
        {"task": "summarization", "inputs": "x"},
        {"query": "q", "texts": []},
        {"prompt": "x", "parameters": {}},
    ):
        assert "takes a conversation" in unfit(OpenAIFormat(), completion(**fields))


# Texts


def test_an_answer_of_text() -> None:
    found = answer(TEXT2TEXT, completion(), [{"generated_text": "Hola."}], x_request_id="r1")
    assert (found.text, found.finish_reason, found.usage) == ("Hola.", None, NO_USAGE)
    assert found.message == {"role": "assistant", "content": "Hola."}
    assert (found.model, found.request_id, found.json) == (None, "r1", None)


def test_an_answer_of_tgi() -> None:
    body = {"generated_text": "uno dos", "details": {"finish_reason": "eos_token", "generated_tokens": 2}}
    found = answer(GENERATE, completion(TGI), body, x_prompt_tokens="6", x_generated_tokens="9")
    assert (found.text, found.finish_reason, found.raw_finish) == ("uno dos", "stop", "eos_token")
    assert found.usage == Usage(6, 2)
    listed = answer(GENERATE, completion(), [body], x_prompt_tokens="six", x_generated_tokens="9" * 30)
    assert listed.usage == Usage(None, 2)


def test_a_cut_answer_is_one_even_where_nothing_is_left_of_it() -> None:
    body = {"generated_text": "", "details": {"finish_reason": "length", "generated_tokens": 4}}
    assert answer(GENERATE, completion(TGI), body).finish_reason == "length"
    body["details"] = {"finish_reason": "stop_sequence", "generated_tokens": 0}
    assert failure(GENERATE, completion(TGI), body).kind is K.EMPTY_OUTPUT


@pytest.mark.parametrize("stop", ["\n", ["?", "\n"]])
def test_the_text_ends_before_a_stop(stop: Any) -> None:
    for wire, base_url in ((GENERATE, URL), (GENERATE, TGI), (INFERENCE, ROUTER)):
        found = answer(wire, completion(base_url, prompt="x", stop=stop), [{"generated_text": "uno\ndos\n"}])
        assert found.text == "uno"


def test_an_echo_is_cut_off_where_the_task_is_unknown() -> None:
    echo = [{"generated_text": "Hola, ¿qué tal?"}]
    assert answer(HANDLER, completion(messages=[USER]), echo).text == ", ¿qué tal?"
    assert answer(HANDLER, completion(prompt="Adiós"), echo).text == "Hola, ¿qué tal?"
    assert answer(HANDLER, completion(), [{"generated_text": "Hola"}]).text == "Hola"
    whole = completion(prompt="Hola", parameters={"return_full_text": True})
    for wire, call in ((GENERATE, completion()), (TEXT2TEXT, completion()), (HANDLER, whole)):
        assert answer(wire, call, echo).text == "Hola, ¿qué tal?"


def test_of_a_conversation_only_what_was_added() -> None:
    call = completion(messages=[USER])
    assert answer(GENERATE, call, [{"generated_text": [USER, SAID]}]).text == "Hola."
    assert answer(GENERATE, call, [{"generated_text": "Hola."}]).text == "Hola."
    batch = completion(inputs=[[USER], [USER]])
    assert answer(GENERATE, batch, [[{"generated_text": [USER, SAID]}], [{"generated_text": [USER, SAID]}]]).json == [
        "Hola.",
        "Hola.",
    ]


def test_several_texts_are_a_list() -> None:
    call = completion(inputs=["a", "b"], stop="!")
    for body in (
        [[{"generated_text": "ñ!"}], [{"generated_text": "dos"}]],
        [{"generated_text": "ñ!"}, {"generated_text": "dos"}],
    ):
        found = answer(GENERATE, call, body)
        assert (found.text, found.json) == ('["ñ","dos"]', ["ñ", "dos"])
    assert failure(GENERATE, call, [[{"generated_text": "uno"}]]).kind is K.BAD_OUTPUT
    assert answer(GENERATE, completion(inputs=["a"]), [[{"generated_text": "uno"}]]).json == ["uno"]
    variants = completion(inputs="a", parameters={"num_return_sequences": 2})
    assert answer(TEXT2TEXT, variants, [{"generated_text": "uno"}, {"generated_text": "dos"}]).json == ["uno", "dos"]


def test_json_is_parsed_where_a_schema_was_asked_for() -> None:
    found = answer(GENERATE, completion(TGI, schema=SCHEMA), {"generated_text": '```json\n{"a": "b"}\n```'})
    assert found.json == {"a": "b"}
    assert answer(GENERATE, completion(TGI, schema=SCHEMA), {"generated_text": "no JSON"}).json is None


def test_a_handler_of_ones_own_may_return_anything() -> None:
    for value, text in (({"a": [1, "ñ"]}, '{"a":[1,"ñ"]}'), ("bare", "bare"), (3, "3"), ([[0.5]], "[[0.5]]")):
        found = answer(GENERATE, completion(), value)
        assert (found.json, found.text) == (value, text)
    assert failure(GENERATE, completion(TGI), {"a": 1}).kind is K.BAD_OUTPUT


@pytest.mark.parametrize("body", [None, [], {}, "", [{"generated_text": " "}], [{"generated_text": ""}]])
def test_nothing_is_no_answer(body: Any) -> None:
    for wire in (GENERATE, TEXT2TEXT, HANDLER):
        assert failure(wire, completion(), body).kind is K.EMPTY_OUTPUT


def test_nul_and_lone_surrogates_are_survived() -> None:
    found = answer(GENERATE, completion(), rb'[{"generated_text": "a\u0000b\ud800"}]')
    assert found.text == "a\0b\ufffd"


# Tasks

POSITIVE = {"label": "POSITIVE", "score": 0.9}
NEGATIVE = {"label": "NEGATIVE", "score": 0.1}
LABELS = [POSITIVE, NEGATIVE]


@pytest.mark.parametrize(
    ("body", "inputs", "expected"),
    [
        ([LABELS], "x", LABELS),
        (LABELS, "x", LABELS),
        ([POSITIVE], "x", [POSITIVE]),
        ([[POSITIVE]], "x", [POSITIVE]),
        ([LABELS, LABELS], ["x", "y"], [LABELS, LABELS]),
        ([LABELS], ["x"], [LABELS]),
        (LABELS, ["a", "pair"], LABELS),
        ({"sequence": "x", "labels": ["POSITIVE", "NEGATIVE"], "scores": [0.9, 0.1]}, "x", LABELS),
        ([{"sequence": "x", "labels": ["POSITIVE"], "scores": [0.9]}], "x", [POSITIVE]),
        ([{"labels": ["POSITIVE"], "scores": [0.9]}] * 2, ["x", "y"], [[POSITIVE]] * 2),
    ],
)
@pytest.mark.parametrize("task", ["text-classification", "zero-shot-classification"])
def test_labels_however_they_come(task: str, body: Any, inputs: Any, expected: Any) -> None:
    for wire in (INFERENCE, GENERATE):
        found = answer(wire, completion(task=task, inputs=inputs), body)
        assert found.json == expected
        assert json.loads(found.text or "") == expected


@pytest.mark.parametrize(
    "body",
    [
        [],
        {},
        "x",
        None,
        [1],
        [[]],
        [{"label": "a"}],
        [{"label": 1, "score": 1}],
        [{"label": "a", "score": "1"}],
        {"labels": ["a"], "scores": []},
        [POSITIVE, {}],
    ],
)
def test_labels_that_are_none(body: Any) -> None:
    for wire in (INFERENCE, TEI, GENERATE):
        call = completion(task="text-classification", inputs="x")
        assert failure(wire, call, body).kind is K.BAD_OUTPUT


@pytest.mark.parametrize("name", ["summary_text", "translation_text", "generated_text"])
def test_tasks_that_write(name: str) -> None:
    found = answer(INFERENCE, completion(ROUTER, task="any", inputs="x"), [{name: "Breve."}])
    assert (found.text, found.json) == ("Breve.", None)
    several = answer(INFERENCE, completion(ROUTER, task="any", inputs=["x", "y"]), [{name: "a"}, {name: "b"}])
    assert several.json == ["a", "b"]


def test_other_tasks_give_their_json() -> None:
    spoken = {"answer": "París", "score": 0.9, "start": 0, "end": 5}
    call = completion(ROUTER, task="question-answering", inputs={"question": "?", "context": "París"})
    found = answer(INFERENCE, call, spoken)
    assert (found.json, found.finish_reason) == (spoken, None)
    none = completion(ROUTER, task="token-classification", inputs="nothing to name")
    assert answer(INFERENCE, none, []).json == []
    alike = completion(ROUTER, task="sentence-similarity", inputs={"source_sentence": "a", "sentences": ["b"]})
    assert answer(INFERENCE, alike, [0.5]).json == [0.5]
    assert failure(INFERENCE, alike, [["a"]]).kind is K.BAD_OUTPUT
    assert failure(INFERENCE, completion(ROUTER), {"a": 1}).kind is K.BAD_OUTPUT


def test_ranks() -> None:
    call = completion(query="q", texts=["a", "b"])
    ranks = [{"index": 1, "score": 0.9, "text": "b"}, {"index": 0, "score": 0.1, "text": "a"}]
    found = answer(TEI, call, ranks, x_compute_tokens="5")
    assert (found.json, found.usage) == (ranks, Usage(5, 0))
    assert failure(TEI, call, []).kind is K.EMPTY_OUTPUT
    for body in (
        [{"index": 2, "score": 1}],
        [{"index": -1, "score": 1}],
        [{"index": True, "score": 1}],
        [{"index": 0}],
        {},
        None,
    ):
        assert failure(TEI, call, body).kind is K.BAD_OUTPUT


# Embeddings


def test_vectors() -> None:
    for wire in (TEI, INFERENCE):
        assert answer(wire, embedding(input=["a", "b"]), [[1, 0.5], [0, -1]]).embeddings == [[1.0, 0.5], [0.0, -1.0]]
        assert answer(wire, embedding(input="a"), [[1]]).embeddings == [[1.0]]
        assert answer(wire, embedding(input="a"), [0.5, 1]).embeddings == [[0.5, 1.0]]
    assert answer(TEI, embedding(input=[1, 2]), [[1.0]], x_compute_tokens="2").usage == Usage(2, 0)
    assert answer(INFERENCE, embedding(input="a"), [1.0]).usage == NO_USAGE


@pytest.mark.parametrize(
    "body",
    [
        {},
        None,
        1,
        "x",
        [None],
        [[]],
        [["a"]],
        [[True]],
        [[1], [2]],
        [[[1.0, 2.0], [1.0, 2.0]]],
        b"[[1e999]]",
        b"[[NaN]]",
    ],
)
def test_vectors_that_are_none(body: Any) -> None:
    """Among them one vector for each token, of a model that embeds no sentences."""
    for wire in (TEI, INFERENCE):
        assert failure(wire, embedding(input="a"), body).kind is K.BAD_OUTPUT
        assert failure(wire, embedding(input=["a", "b"]), [[1.0]]).kind is K.BAD_OUTPUT
        assert failure(wire, embedding(input="a"), []).kind is K.EMPTY_OUTPUT


# Failures beyond the witnessed ones


@pytest.mark.parametrize(
    ("wire", "status", "body", "kind"),
    [
        (GENERATE, 502, b"<html><title>502 Bad Gateway</title></html>", K.LOADING),
        (GENERATE, 503, b"", K.LOADING),
        (GENERATE, 503, {"error": "Model org/m is currently loading", "estimated_time": 8}, K.LOADING),
        (GENERATE, 500, {"error": "Incomplete generation", "error_type": "incomplete_generation"}, K.SERVER_ERROR),
        (GENERATE, 429, {"error": "Service overloaded"}, K.OVERLOADED),
        (GENERATE, 429, b"", K.OVERLOADED),
        (GENERATE, 400, {"error": "CUDA error: device-side assert triggered"}, K.SERVER_ERROR),
        (GENERATE, 400, {"error": "CUDA driver version is insufficient for CUDA runtime version"}, K.SERVER_ERROR),
        (GENERATE, 400, {"error": "cuBLAS error: CUBLAS_STATUS_NOT_INITIALIZED"}, K.SERVER_ERROR),
        (GENERATE, 400, {"error": "Expected all tensors to be on the same device, cuda:0 and cpu!"}, K.SERVER_ERROR),
        (GENERATE, 400, {"error": "DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"}, K.SERVER_ERROR),
        (GENERATE, 400, {"error": "index out of range in self"}, K.CONTEXT_LENGTH),
        (
            GENERATE,
            400,
            {"error": "Input length of input_ids is 900, but `max_length` is set to 20."},
            K.CONTEXT_LENGTH,
        ),
        (GENERATE, 400, {"error": "Cannot use chat template functions"}, K.BAD_REQUEST),
        (GENERATE, 422, {"error": "Template error: x", "error_type": "template_error"}, K.BAD_REQUEST),
        (
            GENERATE,
            422,
            {"error": "`inputs` must have less than 10 tokens. Given: 11", "error_type": "validation"},
            K.CONTEXT_LENGTH,
        ),
        (
            GENERATE,
            422,
            {"error": "`stop` supports up to 4 stop sequences. Given: 5", "error_type": "validation"},
            K.BAD_REQUEST,
        ),
        (GENERATE, 410, b"", K.GONE),
        (GENERATE, 504, b"", K.TIMEOUT),
        (GENERATE, 200, {"error": "Model is overloaded", "error_type": "overloaded"}, K.OVERLOADED),
        (GENERATE, 200, [{"error": "it broke"}], K.SERVER_ERROR),
        (GENERATE, 200, b"Ok", K.SERVER_ERROR),
        (GENERATE, 200, b"", K.SERVER_ERROR),
        (GENERATE, 200, b'data: {"token": {}}\n\n', K.SERVER_ERROR),
        (TEI, 503, b"", K.LOADING),
        (TEI, 502, b"", K.LOADING),
        (TEI, 404, b"Not Found", K.GONE),
        (
            TEI,
            413,
            {"error": "batch size 64 > maximum allowed batch size 32", "error_type": "Validation"},
            K.BAD_REQUEST,
        ),
        (TEI, 413, b"length limit exceeded", K.CONTEXT_LENGTH),
        (
            TEI,
            424,
            {"error": "Backend error: model is not a re-ranker model", "error_type": "Backend"},
            K.MODEL_NOT_FOUND,
        ),
        (
            TEI,
            424,
            {"error": "Backend error: Model is not an embedding model", "error_type": "Backend"},
            K.MODEL_NOT_FOUND,
        ),
        (TEI, 429, {"message": "Model is overloaded", "code": 429, "type": "overloaded"}, K.OVERLOADED),
        (TEI, 422, {"error": "Tokenization error", "error_type": "Tokenizer"}, K.BAD_REQUEST),
        (INFERENCE, 503, {"error": "Service Unavailable"}, K.SERVER_ERROR),
        (INFERENCE, 503, {"error": "Model x is currently loading"}, K.LOADING),
        (INFERENCE, 404, {"error": "Model x does not exist"}, K.MODEL_NOT_FOUND),
        (INFERENCE, 403, {"error": "This authentication method does not have sufficient permissions"}, K.PERMISSION),
        (INFERENCE, 410, {"error": "The requested model is deprecated and no longer supported"}, K.GONE),
        (INFERENCE, 200, b"\x89PNG\r\n", K.SERVER_ERROR),
    ],
)
def test_a_failure(wire: Format, status: int, body: Any, kind: FailureKind) -> None:
    found = failure(wire, completion(), body, status)
    assert (found.kind, found.http_status) == (kind, status)
    assert found.message


def test_an_endpoint_sleeps_whatever_its_host_is_called() -> None:
    call = Call("completion", "http://127.0.0.1:9/v1", "m", {"messages": [USER]})
    for wire, kinds in ((FORMATS["openai"], [K.SERVER_ERROR, K.OVERLOADED]), (FORMATS["hf-openai"], [K.LOADING] * 2)):
        assert [failure(wire, call, b"", status).kind for status in (502, 503)] == kinds
    full = {"object": "error", "message": "The request queue is full.", "type": "503", "code": 503}
    assert failure(FORMATS["hf-openai"], call, full, 503).kind is K.OVERLOADED


def test_the_one_model_of_an_endpoint_need_not_be_named() -> None:
    call = Call("completion", URL + "/v1", ONLY_MODEL, {"messages": [USER]})
    assert sent(FORMATS["hf-openai"], call) == {"messages": [USER]}
    assert sent(FORMATS["openai"], call) == {"model": ONLY_MODEL, "messages": [USER]}
    named = Call("completion", URL + "/v1", "org/m", {"messages": [USER]})
    assert sent(FORMATS["hf-openai"], named)["model"] == "org/m"


# Whatever comes

_KEYS = st.sampled_from(
    [
        "generated_text",
        "details",
        "finish_reason",
        "label",
        "score",
        "labels",
        "scores",
        "index",
        "error",
        "role",
        "content",
        "generated_tokens",
        "summary_text",
    ]
)
_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["assistant", "length"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_KEYS, inner, max_size=4),
    max_leaves=20,
)
_CALLS = st.sampled_from(
    [
        completion(),
        completion(TGI, schema=SCHEMA, messages=[USER], stop=["a"]),
        completion(inputs=["a", "b"]),
        completion(inputs=[]),
        completion(inputs=[USER]),
        completion(parameters=3, prompt="x"),
        completion(task="text-classification", inputs="x"),
        completion(task="zero-shot-classification", inputs=["x", "y"]),
        completion(task="sentence-similarity", inputs={}),
        completion(task=3, messages=3),
        completion(query="q", texts=["a"]),
        completion(query="q", texts=3),
        embedding(input="a"),
        embedding(input=["a", "b"]),
        embedding(),
    ]
)
_HEADERS = st.dictionaries(
    st.sampled_from(
        ["x-prompt-tokens", "x-generated-tokens", "x-compute-tokens", "retry-after", "x-request-id", "content-type"]
    ),
    st.text(max_size=20),
    max_size=3,
)


@given(
    st.sampled_from(ALL),
    _CALLS,
    st.sampled_from([200, 204, 301, 400, 404, 413, 422, 424, 429, 500, 502, 503, 999]),
    _HEADERS,
    _JSON.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=60),
)
@example(GENERATE, completion(), 200, {}, b"[" * 100_000)
@example(TEI, embedding(input="a"), 200, {}, b"[[" + b"9" * 5000 + b"]]")
def test_whatever_comes_is_an_answer_or_a_failure(
    wire: Format, call: Call, status: int, headers: dict[str, str], body: bytes
) -> None:
    found = wire.read_response(call, status, headers, body)
    assert isinstance(found, Answer | Failure)
    if isinstance(found, Failure):
        assert found.message
    else:
        assert 200 <= status < 300
        json.dumps([found.json, found.embeddings], allow_nan=False)
        (found.text or "").encode()


@given(st.sampled_from(ALL), _CALLS)
def test_whatever_is_asked_is_a_request_or_unfit(wire: Format, call: Call) -> None:
    try:
        body = json.loads(wire.build_request(call, "hf_x").read())
    except Unfit as told:
        body = {"query": str(told)} if str(told).startswith(f"format {wire.name} ") else {}
    assert body.keys() & {"inputs", "query"}
