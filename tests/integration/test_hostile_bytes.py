"""Whatever bytes a provider sends, the job ends, the row is stored, and the worker is as it was."""

from __future__ import annotations

import gzip
import itertools
import json
import threading
import zlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final, Self

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support import scripted_provider as script
from tests.support.scripted_provider import Script, ScriptedProvider
from tests.support.station import Station
from worker.domain.state import FINAL, JobStatus

FORMATS: Final = ("openai", "anthropic", "gemini")
AT_ONCE: Final = 12
_numbers = itertools.count()

# -- what comes ---------------------------------------------------------------------------------------------------

_WILD_TEXT = st.text(st.characters(exclude_categories=()), max_size=30) | st.sampled_from(
    ["\x00", "\ud800", "\udc00\ud800", "a\x00b", "\u2028", "<script>", "NaN", "\ufeff{"]
)
_LEAF = st.none() | st.booleans() | st.integers() | st.floats() | _WILD_TEXT | st.just(10**400)
_VALUE = st.recursive(_LEAF, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_WILD_TEXT, inner, max_size=3))


def _openai(text: Any) -> Any:
    return {"choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}]}


def _anthropic(text: Any) -> Any:
    return {
        "type": "message",
        "role": "assistant",
        "content": [{"type": "text", "text": text}],
        "stop_reason": "end_turn",
    }


def _gemini(text: Any) -> Any:
    return {"candidates": [{"content": {"role": "model", "parts": [{"text": text}]}, "finishReason": "STOP"}]}


@st.composite
def _nearly(draw: st.DrawFn) -> Any:
    """A good answer with something wild in one place."""
    wild = draw(_VALUE)
    answer = draw(st.sampled_from([_openai, _anthropic, _gemini]))(draw(_VALUE))
    answer["usage"] = {"prompt_tokens": wild, "completion_tokens": draw(_LEAF), "input_tokens": wild}
    answer["model"], answer["id"] = draw(_LEAF), draw(_LEAF)
    where = draw(st.sampled_from(["choices", "content", "candidates", "extra", "error"]))
    if draw(st.booleans()):
        answer[where] = wild
    return answer


_JSON = (_nearly() | _VALUE).map(lambda value: json.dumps(value).encode())  # NaN and Infinity included
_STREAM = st.lists(_JSON | st.just(b"[DONE]") | st.binary(max_size=20), max_size=4).map(
    lambda parts: b"".join(b"data: " + part + b"\n\n" for part in parts)
)
_BODY = _JSON | _STREAM | st.binary(max_size=200) | st.tuples(_JSON, st.integers(0, 50)).map(lambda b: b[0][: b[1]])
_HEADERS = st.fixed_dictionaries(
    {},
    optional={
        "content-type": st.sampled_from(["application/json", "text/event-stream", "text/html", "", "\x80"]),
        "content-encoding": st.sampled_from(["gzip", "deflate", "br", "zstd", "identity", "nonsense", "gzip, gzip"]),
        "retry-after": st.sampled_from(["0", "-1", "1e400", "NaN", "x"]),
    },
)
_REPLY = st.builds(
    Script,
    status=st.sampled_from([200, 200, 200, 201, 204, 400, 404, 418, 422, 500, 599]),
    headers=_HEADERS,
    body=_BODY,
    framing=st.sampled_from(["length", "chunked", "close"]),
) | st.binary(max_size=60).map(script.raw)


# -- what must follow ---------------------------------------------------------------------------------------------


@pytest.fixture(params=FORMATS)
def station(request: pytest.FixtureRequest, database_url: str, tmp_path: Path) -> Iterator[Station]:
    """With a worker. A job asks once, so that each reply is the end of it one way or the other."""
    with (
        ScriptedProvider() as provider,
        closing(
            Station(
                database_url,
                provider,
                tmp_path,
                first_format=request.param,
                COMPLETAR_MAX_ANSWER_BYTES="1000000",
                COMPLETAR_LOG_LEVEL="critical",
            )
        ) as made,
        made.worker(),
    ):
        yield made


def submit(station: Station, prompt: str = "hello") -> str:
    """A target of its own: the breaker of one that misbehaved would keep the next job waiting."""
    return station.one(models=(f"first/m{next(_numbers)}",), max_attempts=1, deadline_s=20.0, prompt=prompt)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.lists(_REPLY, min_size=AT_ONCE, max_size=AT_ONCE))
def test_any_bytes_end_in_a_final_state(station: Station, replies: list[Script]) -> None:
    station.provider.queue(*replies)
    ids = [submit(station) for _ in replies]
    jobs = station.ended(ids, within_s=15)
    for job in jobs:
        assert job.status in FINAL
        assert (job.error is None) == (job.status is JobStatus.COMPLETED)
        assert job.error is None or job.error["kind"] != "internal", job.error
        for attempt in station.attempts(job.id):
            assert attempt.row.reason is None or len(attempt.row.reason) <= 2000
    json.dumps([job.result for job in jobs], allow_nan=False).encode("ascii")


def _nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


DEEP: Final = {
    "100,000 lists": _nested(100_000),
    "900 lists, within Python's own bound": b'{"choices": ' + _nested(900) + b"}",
    "deep arguments of a tool": json.dumps(
        {
            "choices": [
                {
                    "finish_reason": "tool_calls",
                    "message": {
                        "role": "assistant",
                        "tool_calls": [
                            {
                                "id": "t",
                                "type": "function",
                                "function": {"name": "f", "arguments": _nested(5000).decode()},
                            }
                        ],
                    },
                }
            ]
        }
    ).encode(),
    "deep content": b'{"choices": [{"message": {"role": "assistant", "content": ' + _nested(800) + b"}}]}",
    "a number of a million digits": b'{"choices": ' + b"9" * 900_000 + b"}",
    "a hundred thousand choices": b'{"choices": [' + b",".join([b"{}"] * 100_000) + b"]}",
    "only NUL": b"\x00" * 100_000,
}


@pytest.mark.parametrize("body", DEEP.values(), ids=DEEP)
def test_deep_and_huge_json_is_a_failure_of_the_call(station: Station, body: bytes) -> None:
    station.provider.queue(script.reply(body=body, headers={"content-type": "application/json"}))
    (job,) = station.ended([submit(station)], within_s=15)
    assert job.status in {JobStatus.FAILED, JobStatus.COMPLETED}
    assert job.error is None or job.error["kind"] in {"bad_output", "server_error", "empty_output"}


def test_an_operator_sees_how_a_senseless_reply_began_without_its_secrets(station: Station) -> None:
    body = b'{"choices": "\x00\xff sk-abcdefghijklmnop1234 and more", "type": "x", "candidates": 7}' + b" " * 5000
    station.provider.queue(script.reply(body=body, headers={"content-type": "application/json"}))
    (job,) = station.ended([submit(station)], within_s=15)
    (attempt,) = station.attempts(job.id)
    assert attempt.row.reason is not None
    assert '"choices"' in attempt.row.reason
    assert "sk-abc" not in attempt.row.reason
    assert len(attempt.row.reason) < 600


# -- bombs --------------------------------------------------------------------------------------------------------

_MIB: Final = 1024 * 1024


def _zeros(wbits: int, mib: int = 128) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, wbits)
    piece = bytes(_MIB)
    return b"".join([*(packer.compress(piece) for _ in range(mib)), packer.flush()])


BOMBS: Final = {
    "gzip": lambda: Script(headers={"content-encoding": "gzip"}, body=_zeros(31)),
    "gzip, in chunks": lambda: Script(headers={"content-encoding": "gzip"}, body=_zeros(31), framing="chunked"),
    "deflate": lambda: Script(headers={"content-encoding": "deflate"}, body=_zeros(15)),
    "gzip in gzip": lambda: Script(headers={"content-encoding": "gzip, gzip"}, body=gzip.compress(_zeros(31))),
    "br": lambda: Script(headers={"content-encoding": "br"}, body=b"\x00" * 1000),
    "zstd": lambda: Script(headers={"content-encoding": "zstd"}, body=b"\x28\xb5\x2f\xfd" + b"\x00" * 1000),
    "200 MB": lambda: Script(headers={"content-length": str(200 * _MIB)}, body=b"x" * 10_000, framing="close"),
    "endless": lambda: Script(body=b'{"a": "' + b"x" * 65_536, endless=True),
    "an endless failure": lambda: Script(status=500, body=b"x" * 65_536, endless=True),
    "an endless stream": lambda: Script(
        headers={"content-type": "text/event-stream"}, body=b'data: {"choices": []}\n\n' * 3000, endless=True
    ),
}


class Peak:
    """The most memory this process had while the block ran, above what it had before, in MiB."""

    def __enter__(self) -> Self:
        self.before = self.most = _rss_mib()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def _look(self) -> None:
        while not self._over.wait(0.002):
            self.most = max(self.most, _rss_mib())

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    @property
    def grew(self) -> float:
        return self.most - self.before


def _rss_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / _MIB


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
def test_bombs_end_as_failures_in_bounded_memory(sqlite_url: str, tmp_path: Path, bomb: Any) -> None:
    made = bomb()
    with (
        ScriptedProvider() as provider,
        closing(Station(sqlite_url, provider, tmp_path, COMPLETAR_MAX_ANSWER_BYTES="1000000")) as station,
        station.worker(),
    ):
        provider.always(made)
        with Peak() as peak:
            (job,) = station.ended([submit(station)], within_s=20)
        assert job.status is JobStatus.FAILED
        assert job.error["kind"] in {"bad_output", "server_error", "truncated"}
        assert peak.grew < 48, f"{peak.grew:.0f} MiB for a limit of 1 MB"
        provider.always(script.chat("fine"))
        assert station.ended([submit(station)])[0].status is JobStatus.COMPLETED
