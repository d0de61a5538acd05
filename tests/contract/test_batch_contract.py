"""Files and batches with the official client, unchanged, over a real socket: what a user of OpenAI's relies on."""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.support import scripted_provider as script
from tests.support.batches import CHAT, both, content, jsonl, line, made, until, uploaded
from tests.support.scripted_provider import Received, Script, ScriptedProvider
from tests.support.wait import wait_until
from tests.support.web import Web, web
from worker.services.batches import watch
from worker.store.batch_tables import batch as batch_table
from worker.store.batch_tables import file as file_table
from worker.store.batch_tables import file_part
from worker.store.moment import later
from worker.store.tables import job as job_table

ANCHOR = {"expires_after[anchor]": "created_at"}
PART = b"--x\r\nContent-Disposition: form-data; name=file; filename=a\r\n\r\nhi"


def _echo(request: Received) -> Script:
    """Answers with the question; `fail` in it is refused by the provider."""
    said = request.json["messages"][-1]["content"]
    if "fail" in said:
        return script.error(400, "no such thing", code="content_filter")
    return script.chat(f"re: {said}")


def _only_quick(request: Received) -> Script:
    if b"quick" in request.body:
        return _echo(request)
    return script.error(429, "come back later", headers={"retry-after": "600"})


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    with ScriptedProvider() as started:
        started.always(_echo)
        yield started


@pytest.fixture
def site(database_url: str, tmp_path: Path, provider: ScriptedProvider) -> Iterator[Web]:
    with web(database_url, tmp_path, provider, COMPLETAR_LOG_LEVEL="error") as made_site, made_site.working():
        yield made_site


@pytest.fixture
def idle(sqlite_url: str, tmp_path: Path) -> Iterator[Web]:
    """Without a worker."""
    with web(sqlite_url, tmp_path) as made_site:
        yield made_site


@pytest.fixture
def client(site: Web) -> Iterator[openai.OpenAI]:
    with site.served() as served, openai.OpenAI(base_url=f"{served}/v1", api_key=site.key) as one:
        yield one


@pytest.fixture
def lonely(idle: Web) -> Iterator[openai.OpenAI]:
    """A client of a server without a worker."""
    with idle.served() as served, openai.OpenAI(base_url=f"{served}/v1", api_key=idle.key) as one:
        yield one


# -- files -------------------------------------------------------------------------------------------------------


@pytest.mark.acceptance(1)
def test_a_file_comes_goes_back_and_goes_away(lonely: openai.OpenAI, tmp_path: Path) -> None:
    data = jsonl(line(n) for n in range(5))
    path = tmp_path / "from a path.jsonl"
    path.write_bytes(data)
    files = [
        lonely.files.create(file=data, purpose="user_data"),
        lonely.files.create(file=path, purpose="batch"),
        lonely.files.create(
            file=("ñandú.jsonl", data), purpose="batch", expires_after={"anchor": "created_at", "seconds": 3600}
        ),
    ]
    assert [f.bytes for f in files] == [len(data)] * 3
    assert files[1].filename == "from a path.jsonl"
    assert files[2].filename == "ñandú.jsonl"
    assert files[0].expires_at is None
    assert files[1].expires_at == files[1].created_at + 30 * 86_400
    assert files[2].expires_at == files[2].created_at + 3600
    assert lonely.files.wait_for_processing(files[0].id).status == "processed"
    assert lonely.files.retrieve(files[0].id) == files[0]
    assert [f.id for f in lonely.files.list(purpose="batch")] == [files[2].id, files[1].id]
    assert [f.id for f in lonely.files.list(limit=1, order="asc")] == [f.id for f in files]
    for file in files:
        assert lonely.files.content(file.id).content == data
        assert lonely.files.delete(file.id).deleted
        with pytest.raises(openai.NotFoundError):
            lonely.files.content(file.id)
        with pytest.raises(openai.NotFoundError):
            lonely.files.retrieve(file.id)
    assert list(lonely.files.list()) == []


def test_parts_of_the_form_come_in_any_order(idle: Web) -> None:
    for fields in (["purpose", "file"], ["file", "purpose"]):
        parts = {"purpose": (None, "batch"), "file": ("a.jsonl", b"{}\n", "application/jsonl")}
        body = httpx.Request("POST", "http://x/", files=[(name, parts[name]) for name in fields])
        answer = idle.post("/v1/files", headers={"Content-Type": body.headers["content-type"]}, data=body.read())
        assert answer.status_code == 200, answer.text
        assert answer.json["bytes"] == 3


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "purpose"),
        ({"purpose": "nonsense"}, "purpose"),
        (
            {"purpose": "batch", "expires_after[anchor]": "created_at", "expires_after[seconds]": "5"},
            "expires_after[seconds]",
        ),
        (
            {"purpose": "batch", "expires_after[anchor]": "later", "expires_after[seconds]": "3600"},
            "expires_after[anchor]",
        ),
        ({"purpose": "batch", "colour": "red"}, "colour"),
    ],
)
def test_a_bad_form_is_refused_by_name_and_leaves_nothing(idle: Web, fields: dict[str, str], param: str) -> None:
    body = httpx.Request("POST", "http://x/", data=fields, files={"file": ("a", b"x" * 3_000_000)})
    answer = idle.post("/v1/files", headers={"Content-Type": body.headers["content-type"]}, data=body.read())
    assert answer.status_code == 400, answer.text
    assert answer.json["error"]["param"] == param
    with idle.deps.database.read() as conn:
        assert conn.execute(file_part.select()).first() is None
        assert conn.execute(file_table.select()).first() is None


@pytest.mark.parametrize("body", [b"", b"--x", b"--x\r\n\r\n", PART])
def test_a_broken_form_is_a_400(idle: Web, body: bytes) -> None:
    answer = idle.post("/v1/files", headers={"Content-Type": "multipart/form-data; boundary=x"}, data=body)
    assert answer.status_code == 400, answer.text


def test_a_file_that_is_too_large_is_a_413(sqlite_url: str, tmp_path: Path) -> None:
    with (
        web(sqlite_url, tmp_path, COMPLETAR_MAX_FILE_BYTES="2000000") as site,
        site.served() as served,
        openai.OpenAI(base_url=f"{served}/v1", api_key=site.key) as client,
    ):
        client.files.create(file=b"x" * 2_000_000, purpose="batch")
        for size in (2_000_001, 9_000_000):
            with pytest.raises(openai.APIStatusError) as error:
                client.files.create(file=b"x" * size, purpose="batch")
            assert error.value.status_code == 413
            assert error.value.code == "request_too_large"
        with site.deps.database.read() as conn:
            assert len(conn.execute(file_table.select()).all()) == 1


def test_files_of_another_project_are_not_there(idle: Web, lonely: openai.OpenAI) -> None:
    mine = uploaded(lonely, b"{}\n")
    _, secret = idle.new_key(project="other")
    stranger = lonely.with_options(api_key=secret)
    assert list(stranger.files.list()) == []
    for ask in (stranger.files.retrieve, stranger.files.delete, stranger.files.content):
        with pytest.raises(openai.NotFoundError):
            ask(mine)
    assert lonely.files.content(mine).content == b"{}\n"


def test_an_upload_in_parts(lonely: openai.OpenAI) -> None:
    pieces = [b"a" * 1_500_000, b"b" * 10, b"c" * 2_200_000]
    whole = b"".join(pieces)
    upload = lonely.uploads.create(
        bytes=len(whole), filename="big.jsonl", mime_type="application/jsonl", purpose="batch"
    )
    assert upload.status == "pending"
    parts = {n: lonely.uploads.parts.create(upload.id, data=pieces[n]).id for n in (2, 0, 1)}
    spare = lonely.uploads.parts.create(upload.id, data=b"not needed").id
    order = [parts[n] for n in range(3)]
    for wrong in ([*order[:2], "part_x"], [*order, spare], order[:2], [order[0], order[0], order[2]]):
        with pytest.raises(openai.BadRequestError):
            lonely.uploads.complete(upload.id, part_ids=wrong)
    with pytest.raises(openai.BadRequestError):
        lonely.uploads.complete(upload.id, part_ids=order, md5="0" * 32)
    digest = hashlib.md5(whole, usedforsecurity=False).hexdigest()
    done = lonely.uploads.complete(upload.id, part_ids=order, md5=digest)
    assert done.status == "completed"
    assert done.file is not None
    assert lonely.files.content(done.file.id).content == whole
    assert lonely.uploads.complete(upload.id, part_ids=order, md5=digest) == done, "the answer may have been lost"
    for again in (
        lambda: lonely.uploads.complete(upload.id, part_ids=order[::-1], md5=digest),
        lambda: lonely.uploads.parts.create(upload.id, data=b"late"),
        lambda: lonely.uploads.cancel(upload.id),
    ):
        with pytest.raises(openai.ConflictError):
            again()
    lonely.files.delete(done.file.id)
    with pytest.raises(openai.ConflictError):
        lonely.uploads.complete(upload.id, part_ids=order, md5=digest)
    other = lonely.uploads.create(bytes=3, filename="x", mime_type="text/plain", purpose="user_data")
    assert lonely.uploads.cancel(other.id).status == "cancelled"


def test_an_upload_that_is_completed_twice_at_once_is_one_file(lonely: openai.OpenAI) -> None:
    upload = lonely.uploads.create(bytes=3, filename="x", mime_type="text/plain", purpose="user_data")
    part = lonely.uploads.parts.create(upload.id, data=b"abc").id
    start, found = threading.Barrier(4, timeout=60), set()

    def complete() -> None:
        start.wait()
        file = lonely.uploads.complete(upload.id, part_ids=[part]).file
        found.add(None if file is None else file.id)

    threads = [threading.Thread(target=complete) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert [file.id for file in lonely.files.list()] == list(found)


def test_the_client_uploads_a_large_file_in_chunks_by_itself(lonely: openai.OpenAI) -> None:
    data = b"0123456789" * 300_000
    done = lonely.uploads.upload_file_chunked(
        file=data,
        filename="x.jsonl",
        bytes=len(data),
        mime_type="application/jsonl",
        purpose="batch",
        part_size=700_000,
    )
    assert done.file is not None
    assert lonely.files.content(done.file.id).content == data


# -- batches -----------------------------------------------------------------------------------------------------


@pytest.mark.acceptance(2)
def test_a_batch_completes_and_each_line_is_answered_once_in_order(
    client: openai.OpenAI, provider: ScriptedProvider
) -> None:
    n = 300
    lines = [line(k, prompt="fail please" if k % 10 == 3 else None) for k in range(n)]
    batch = made(
        client, jsonl(lines), metadata={"run": "7"}, output_expires_after={"anchor": "created_at", "seconds": 7200}
    )
    assert batch.status == "validating"
    assert (batch.expires_at - batch.created_at, batch.metadata) == (86_400, {"run": "7"})
    assert (batch.request_counts.total, batch.usage, batch.output_file_id) == (0, None, None)
    seen = []

    def over() -> Any:
        found = client.batches.retrieve(batch.id)
        seen.append(found.request_counts.completed + found.request_counts.failed)
        assert found.status == "completed" or found.output_file_id is None
        return found if found.status == "completed" else None

    done = wait_until(over, "the batch to complete", 40, every_s=0.02)
    assert seen == sorted(seen), "counts never go down"
    output, errors = both(client, done)
    assert [one["custom_id"] for one in output] == [f"request-{k}" for k in range(n) if k % 10 != 3]
    assert [one["custom_id"] for one in errors] == [f"request-{k}" for k in range(n) if k % 10 == 3]
    counts = done.request_counts
    assert (counts.total, counts.completed, counts.failed) == (n, len(output), len(errors))
    usage = done.to_dict()["usage"]  # some older clients have no type for it
    assert usage["input_tokens"] == 7 * len(output)
    assert usage["total_tokens"] == 10 * len(output)
    assert done.model == "default"
    for one in output:
        body = one["response"]["body"]
        assert one["response"]["status_code"] == 200
        assert one["error"] is None
        assert body["choices"][0]["message"]["content"] == f"re: question {one['custom_id'].removeprefix('request-')}"
        assert openai.types.chat.ChatCompletion.model_validate({k: v for k, v in body.items() if k != "completar"})
    for one in errors:
        assert one["error"] is None
        assert one["response"]["status_code"] == 400
        assert one["response"]["body"]["error"]["code"] == "content_filter"
    assert len({one["id"] for one in [*output, *errors]}) == n
    assert len(provider.requests) == n
    made_of = client.files.retrieve(done.output_file_id)
    assert made_of.purpose == "batch_output"
    assert made_of.expires_at == made_of.created_at + 7200
    stamps = (done.created_at, done.in_progress_at, done.finalizing_at, done.completed_at)
    assert list(stamps) == sorted(stamps)


@pytest.mark.acceptance(3)
def test_one_broken_line_of_a_thousand_stops_everything_before_anything_was_asked(
    client: openai.OpenAI, provider: ScriptedProvider
) -> None:
    lines: list[Any] = [line(k) for k in range(1000)]
    lines[417] = "{broken"
    batch = made(client, jsonl(lines))
    assert batch.status == "validating"
    failed = until(client, batch.id)
    assert failed.status == "failed"
    (error,) = failed.errors.data
    assert (error.code, error.line, error.param) == ("invalid_json_line", 418, None)
    assert (failed.request_counts.total, failed.output_file_id, failed.error_file_id) == (0, None, None)
    assert failed.failed_at is not None
    assert provider.requests == []


def _judged(client: openai.OpenAI, data: bytes, **rest: Any) -> list[tuple[str | None, str | None, int | None]]:
    failed = until(client, made(client, data, **rest).id, "failed")
    return [(error.code, error.param, error.line) for error in failed.errors.data]


def test_every_fault_is_named_by_line(client: openai.OpenAI) -> None:
    good = line(0)
    lines: list[Any] = [
        good,
        "",
        {**line(2), "custom_id": "request-0"},
        {k: v for k, v in line(3).items() if k != "custom_id"},
        {**line(4), "url": "/v1/embeddings"},
        {**line(5), "method": "GET"},
        {**line(6), "body": {"model": "default"}},
        line(7, model="nobody/knows"),
        line(8, stream=True),
        "[1]",
        {k: v for k, v in line(10).items() if k != "body"},
        line(11, temperature=9),
        '{"custom_id": "x", "custom_id": "y"}',
        {**line(13), "custom_id": ""},
    ]
    assert _judged(client, jsonl(lines)) == [
        ("duplicate_custom_id", "custom_id", 3),
        ("missing_required_parameter", "custom_id", 4),
        ("url_mismatch", "url", 5),
        ("invalid_request", "method", 6),
        ("missing_required_parameter", "body.messages", 7),
        ("model_not_found", "body.model", 8),
        ("invalid_request", "body.stream", 9),
        ("invalid_request", None, 10),
        ("missing_required_parameter", "body", 11),
        ("invalid_request", "body.temperature", 12),
        ("invalid_request", None, 13),
        ("invalid_request", "custom_id", 14),
    ]
    assert _judged(client, b"") == [("empty_file", None, None)]
    assert _judged(client, b"\n  \r\n") == [("empty_file", None, None)]
    assert _judged(client, b'\xff{"a": 1}\n') == [("invalid_json_line", None, 1)]
    many = _judged(client, jsonl(["{"] * 150))
    assert len(many) == 101
    assert many[-1] == ("more_errors", None, None)
    missing = client.batches.create(
        input_file_id="file-00000000000000000000000000", endpoint=CHAT, completion_window="24h"
    )
    told = until(client, missing.id, "failed").errors.data[0]
    assert (told.code, told.message.split(":")[0]) == (
        "invalid_request",
        "Cannot find file 'file-00000000000000000000000000'",
    )


def test_a_film_is_refused_line_by_line(site: Web, client: openai.OpenAI) -> None:
    """It begins as UTF-32 does. Read as that, it left its batch validating for ever."""
    film = b"\x00\x00\x00\x18ftypmp42" + bytes(range(256)) * 20
    file_id = uploaded(client, film)
    batch = client.batches.create(input_file_id=file_id, endpoint=CHAT, completion_window="1h")
    failed = until(client, batch.id, "failed", within_s=30)
    assert {(fault.code, fault.line) for fault in failed.errors.data} == {
        ("invalid_json_line", n + 1) for n in range(film.count(b"\n") + 1)
    }
    asked = site.post("/v1/batches/estimate", {"input_file_id": file_id, "endpoint": CHAT})
    assert asked.status_code == 200, asked.text
    assert asked.json["faulty"] == film.count(b"\n") + 1


def test_too_many_lines(sqlite_url: str, tmp_path: Path, provider: ScriptedProvider) -> None:
    with (
        web(sqlite_url, tmp_path, provider, COMPLETAR_MAX_BATCH_LINES="3") as site,
        site.working(),
        site.served() as served,
        openai.OpenAI(base_url=f"{served}/v1", api_key=site.key) as client,
    ):
        assert _judged(client, jsonl(line(k) for k in range(4))) == [("too_many_tasks", None, None)]
        assert until(client, made(client, jsonl(line(k) for k in range(3))).id).status == "completed"


@pytest.mark.parametrize(
    "encoded",
    [
        pytest.param(lambda text: text.replace("\n", "\r\n").encode("utf-16"), id="UTF-16"),
        pytest.param(lambda text: text.encode("utf-16-be"), id="UTF-16 BE without a mark"),
        pytest.param(lambda text: b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode(), id="UTF-8 with a mark"),
        pytest.param(lambda text: text.rstrip("\n").encode(), id="no line break at the end"),
    ],
)
def test_files_as_windows_writes_them_are_read(client: openai.OpenAI, encoded: Any) -> None:
    lines = [{**line(k, prompt=f"¿qué tal, {k}? 🙂"), "custom_id": f"año|{k}"} for k in range(3)]
    text = "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in lines)
    done = until(client, made(client, encoded(text)).id)
    output, errors = both(client, done)
    assert errors == []
    assert [one["custom_id"] for one in output] == [f"año|{k}" for k in range(3)]
    assert output[2]["response"]["body"]["choices"][0]["message"]["content"] == "re: ¿qué tal, 2? 🙂"


@pytest.mark.acceptance(4)
def test_files_are_there_only_for_lines_that_are_in_them(client: openai.OpenAI) -> None:
    all_failed = until(client, made(client, jsonl(line(k, prompt=f"fail {k}") for k in range(3))).id)
    assert (all_failed.status, all_failed.output_file_id) == ("completed", None)
    assert len(content(client, all_failed.error_file_id)) == 3
    assert all_failed.request_counts.failed == 3
    none_failed = until(client, made(client, jsonl([line(1)])).id)
    assert (none_failed.status, none_failed.error_file_id) == ("completed", None)
    assert len(content(client, none_failed.output_file_id)) == 1


@pytest.mark.acceptance(5)
def test_a_cancel_keeps_what_is_done_and_lists_what_was_not(client: openai.OpenAI, provider: ScriptedProvider) -> None:
    # Two lines are done, three are open; of the rest none has begun, as the provider says to come back later.
    held = [provider.hold(script.chat(f"held {n}")) for n in range(3)]
    provider.always(
        lambda request: (
            _echo(request)
            if "quick" in request.body.decode()
            else script.error(429, "later", headers={"retry-after": "600"})
        )
    )
    batch = made(client, jsonl([*(line(k) for k in range(3))]))
    provider.wait_for(3)
    more = made(client, jsonl([*(line(k, prompt=f"quick {k}") for k in range(2)), *(line(k) for k in range(2, 40))]))
    until(client, more.id, "in_progress")
    wait_until(lambda: client.batches.retrieve(more.id).request_counts.completed == 2, "the quick ones")
    for one in (batch, more):
        stopping = client.batches.cancel(one.id)
        assert (stopping.status, stopping.cancelling_at is not None) == ("cancelling", True)
    assert client.batches.cancel(batch.id).status == "cancelling", "a second cancel changes nothing"
    stopped = until(client, more.id, "cancelled", within_s=10)
    output, errors = both(client, stopped)
    assert [one["custom_id"] for one in output] == ["request-0", "request-1"]
    assert [one["custom_id"] for one in errors] == [f"request-{k}" for k in range(2, 40)]
    assert {one["error"]["code"] for one in errors} == {"batch_cancelled"}
    assert {one["response"] for one in errors} == {None}
    assert (stopped.request_counts.completed, stopped.request_counts.failed) == (2, 0)
    assert client.batches.retrieve(batch.id).status == "cancelling", "open calls may answer"
    for one in held:
        one.release()
    kept = until(client, batch.id, "cancelled", within_s=10)
    assert len(content(client, kept.output_file_id)) == 3
    assert kept.error_file_id is None
    assert kept.cancelled_at is not None
    assert client.batches.cancel(kept.id).status == "cancelled"


def test_a_cancel_does_not_wait_for_a_silent_provider(
    client: openai.OpenAI, provider: ScriptedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "PATIENCE_S", 0.5)
    monkeypatch.setattr("worker.engine.engine.HANG_UP_S", 0.2)
    provider.always(script.hang())
    batch = made(client, jsonl(line(k) for k in range(3)))
    provider.wait_for(3)
    client.batches.cancel(batch.id)
    stopped = until(client, batch.id, "cancelled", within_s=10)
    assert [one["error"]["code"] for one in content(client, stopped.error_file_id)] == ["batch_cancelled"] * 3


@pytest.mark.acceptance(5)
def test_a_completed_batch_cannot_be_cancelled_and_the_client_asks_once(site: Web, client: openai.OpenAI) -> None:
    done = until(client, made(client, jsonl([line(1)])).id)
    with pytest.raises(openai.ConflictError) as error:
        client.batches.cancel(done.id)
    assert "Cannot cancel a batch with status 'completed'." in error.value.message
    assert error.value.response.request.headers["x-stainless-retry-count"] == "0"
    assert client.batches.retrieve(done.id) == done


def test_a_batch_may_be_cancelled_before_it_is_read(idle: Web, lonely: openai.OpenAI) -> None:
    batch = made(lonely, jsonl([line(1)]))
    assert lonely.batches.cancel(batch.id).status == "cancelling"
    with idle.working():
        stopped = until(lonely, batch.id, "cancelled")
    assert (stopped.output_file_id, stopped.error_file_id, stopped.request_counts.total) == (None, None, 0)


@pytest.mark.acceptance(6)
def test_the_window_passes(site: Web, client: openai.OpenAI, provider: ScriptedProvider) -> None:
    provider.always(
        lambda request: (
            _echo(request)
            if "quick" in request.body.decode()
            else script.error(429, "later", headers={"retry-after": "600"})
        )
    )
    lines = [line(k, prompt=f"quick {k}" if k < 2 else None) for k in range(30)]
    batch = made(client, jsonl(lines), completion_window="1h")
    assert (batch.completion_window, batch.expires_at - batch.created_at) == ("1h", 3600)
    wait_until(lambda: client.batches.retrieve(batch.id).request_counts.completed == 2, "the quick ones")
    with site.deps.database.write() as conn:  # the hour is over
        conn.execute(batch_table.update().values(expires_at=later(-0.1)))
        conn.execute(job_table.update().values(deadline_at=later(0.0)))
    over = until(client, batch.id, "expired", within_s=15)
    output, errors = both(client, over)
    assert [one["custom_id"] for one in output] == ["request-0", "request-1"]
    assert [one["custom_id"] for one in errors] == [f"request-{k}" for k in range(2, 30)]
    message = "This request could not be executed before the completion window expired."
    assert [one["error"] for one in errors] == [{"code": "batch_expired", "message": message}] * 28
    assert (over.request_counts.total, over.request_counts.completed, over.request_counts.failed) == (30, 2, 0)
    assert over.expired_at is not None


def test_a_batch_nobody_had_time_for_lists_every_line(
    idle: Web, lonely: openai.OpenAI, provider: ScriptedProvider
) -> None:
    batch = made(lonely, jsonl(line(k) for k in range(5)))
    with idle.deps.database.write() as conn:
        conn.execute(batch_table.update().values(expires_at=later(-0.1)))
    with idle.working():
        over = until(lonely, batch.id, "expired")
    assert [one["custom_id"] for one in content(lonely, over.error_file_id)] == [f"request-{k}" for k in range(5)]
    assert over.output_file_id is None


@pytest.mark.acceptance(7)
def test_the_list_walks_every_batch_once_while_new_ones_are_made(lonely: openai.OpenAI) -> None:
    file_id = uploaded(lonely, jsonl([line(1)]))

    def new() -> str:
        return lonely.batches.create(input_file_id=file_id, endpoint=CHAT, completion_window="7d").id

    known = [new() for _ in range(6)]
    walked = []
    for batch in lonely.batches.list(limit=1):
        walked.append(batch.id)
        new()
    assert walked == known[::-1]


@pytest.mark.acceptance(8)
def test_one_idempotency_key_makes_one_batch(lonely: openai.OpenAI) -> None:
    file_id = uploaded(lonely, jsonl([line(1)]))
    answers: list[Any] = []

    def create(window: str = "24h") -> Any:
        return lonely.batches.with_raw_response.create(
            input_file_id=file_id,
            endpoint=CHAT,
            completion_window=window,
            extra_headers={"Idempotency-Key": "k-1"},  # type: ignore[arg-type]
        )

    threads = [threading.Thread(target=lambda: answers.append(create())) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({answer.parse().id for answer in answers}) == 1
    assert sorted(answer.headers.get("idempotent-replayed", "") for answer in answers) == ["", *["true"] * 5]
    assert len(list(lonely.batches.list())) == 1
    with pytest.raises(openai.ConflictError) as error:
        create("1h")
    assert error.value.code == "idempotency_key_reused"
    assert error.value.response.request.headers["x-stainless-retry-count"] == "0"


class _Lossy(httpx.HTTPTransport):
    """Loses answers to posts, or the posts themselves, so many of them."""

    def __init__(self, *, answers: int = 0, posts: int = 0) -> None:
        super().__init__()
        self.answers = answers
        self.posts = posts

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if request.method == "POST" and self.posts:
            self.posts -= 1
            raise httpx.ConnectError("lost", request=request)
        answer = super().handle_request(request)
        if request.method == "POST" and self.answers:
            self.answers -= 1
            answer.read()
            raise httpx.ReadError("lost", request=request)
        return answer


def _lossy(site: Web, url: str, **lost: int) -> openai.OpenAI:
    return openai.OpenAI(base_url=url, api_key=site.key, http_client=httpx.Client(transport=_Lossy(**lost)))


def test_a_create_that_the_client_repeats_makes_one_batch(idle: Web, lonely: openai.OpenAI) -> None:
    url, file_id = str(lonely.base_url), uploaded(lonely, jsonl([line(1)]))
    asked: Any = {"input_file_id": file_id, "endpoint": CHAT, "completion_window": "24h"}

    def lasting() -> int:
        return len(list(lonely.batches.list()))

    with _lossy(idle, url, answers=2) as once:  # the repetition's answer is lost as well
        first = once.batches.create(**asked)
    assert lasting() == 1
    again = lonely.batches.create(**asked)
    assert again.id != first.id, "asked for twice on purpose"
    with _lossy(idle, url, answers=1) as third:
        batch = third.batches.create(**asked, metadata={"run": "3"})
    assert batch.metadata == {"run": "3"}, "that is another request"
    assert lasting() == 3
    with _lossy(idle, url, posts=1) as late:
        assert late.batches.create(**asked, metadata={"run": "4"}).id != batch.id, "the first try never came"
    assert lasting() == 4
    with openai.OpenAI(base_url=url, api_key=idle.new_key()[1], max_retries=0) as other:
        told: Any = {"x-stainless-retry-count": "1"}
        assert other.batches.create(**asked, extra_headers=told).id not in {first.id, again.id}, "of another key"


def test_a_retry_that_the_client_repeats_makes_one_batch(
    site: Web, client: openai.OpenAI, provider: ScriptedProvider
) -> None:
    batch = until(client, made(client, jsonl([line(1, prompt="fail")])).id)
    with _lossy(site, str(client.base_url), answers=1) as once:
        again = once.post(f"/batches/{batch.id}/retry", cast_to=dict[str, Any])
    assert again["completar"]["retry_of"] == batch.id
    until(client, again["id"])
    assert len(list(client.batches.list())) == 2


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"completion_window": "8d"}, "completion_window"),
        ({"completion_window": "soon"}, "completion_window"),
        ({"completion_window": "0h"}, "completion_window"),
        ({"endpoint": "/v1/poems"}, "endpoint"),
        ({"metadata": {"k": "v" * 513}}, "metadata"),
        ({"input_file_id": None}, "input_file_id"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 1}}, "output_expires_after.seconds"),
    ],
)
def test_a_bad_request_is_refused_at_once(idle: Web, change: dict[str, Any], param: str) -> None:
    asked = {"input_file_id": "file-x", "endpoint": CHAT, "completion_window": "24h", **change}
    answer = idle.post("/v1/batches", asked)
    assert answer.status_code == 400, answer.text
    assert answer.json["error"]["param"].startswith(param)


def test_a_file_for_something_else_is_refused_at_once(lonely: openai.OpenAI) -> None:
    file = lonely.files.create(file=b"{}", purpose="user_data")
    with pytest.raises(openai.BadRequestError) as error:
        lonely.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")
    assert error.value.param == "input_file_id"


@pytest.mark.acceptance(9)
def test_every_error_has_its_four_keys_and_names_the_request(idle: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(method: str, path: str, **rest: Any) -> tuple[int, Any]:
        answer = idle.client.open(path, method=method, **{"headers": idle.auth, **rest})
        assert set(answer.json["error"]) == {"message", "type", "param", "code"}
        assert answer.headers["x-request-id"]
        return answer.status_code, answer.json["error"]

    assert asked("GET", "/v1/batches", headers={})[0] == 401
    assert asked("GET", "/v1/files/file-1")[0] == 404
    status, error = asked("GET", "/v1/batches/batch_1")
    assert (status, error["message"], error["param"]) == (404, "No batch found with id 'batch_1'.", "batch_id")
    assert asked("POST", "/v1/batches/batch_1/cancel")[0] == 404
    assert asked("PUT", "/v1/batches")[0] == 405
    assert asked("POST", "/v1/batches", data=b"{", content_type="application/json")[0] == 400
    assert asked("POST", "/v1/batches", data=b"{" + b" " * 9_000_000, content_type="application/json")[0] == 413
    assert asked("POST", "/v1/files", json={})[0] == 415
    assert asked("GET", "/v1/batches?limit=0")[0] == 400
    monkeypatch.setattr("api.routes.batches.batch_views.listed", lambda *_args, **_kw: 1 / 0)
    assert asked("GET", "/v1/batches")[0] == 500


def test_embeddings_come_as_they_were_asked_for(client: openai.OpenAI, provider: ScriptedProvider) -> None:
    provider.always(script.embeddings([[0.5, 0.25]]))
    lines = [
        {
            "custom_id": f"e{n}",
            "method": "POST",
            "url": "/v1/embeddings",
            "body": {"model": "default", "input": "x", **more},
        }
        for n, more in enumerate(({}, {"encoding_format": "base64"}))
    ]
    done = until(client, made(client, jsonl(lines), endpoint="/v1/embeddings").id)
    output, _ = both(client, done)
    assert [one["response"]["body"]["data"][0]["embedding"] for one in output] == [[0.5, 0.25], "AAAAPwAAgD4="]


def test_older_completions_come_as_they_were_asked_for(client: openai.OpenAI) -> None:
    url = "/v1/completions"
    asked = {"custom_id": "c", "method": "POST", "url": url, "body": {"model": "default", "prompt": "Hi"}}
    done = until(client, made(client, jsonl([asked]), endpoint=url).id)
    ((one,), _) = both(client, done)
    body = one["response"]["body"]
    assert (body["object"], body["choices"][0]["text"]) == ("text_completion", "re: Hi")
    assert openai.types.Completion.model_validate({k: v for k, v in body.items() if k != "completar"})
    bad = {**asked, "body": {"prompt": ["a", "b"], "suffix": "x"}}
    assert _judged(client, jsonl([bad]), endpoint=url) == [
        ("invalid_request", "body.prompt", 1),
        ("invalid_request", "body.suffix", 1),
    ]


def test_after_a_cancel_nothing_more_is_asked(sqlite_url: str, tmp_path: Path, provider: ScriptedProvider) -> None:
    provider.always(script.chat("slowly", delay_s=0.1))
    with (
        web(sqlite_url, tmp_path, provider, SLOTS="10", COMPLETAR_LOG_LEVEL="error") as site,
        site.working(),
        site.served() as served,
        openai.OpenAI(base_url=f"{served}/v1", api_key=site.key) as client,
    ):
        batch = made(client, jsonl(line(k) for k in range(2000)))
        provider.wait_for(50)
        asked = len(provider.requests)
        assert client.batches.cancel(batch.id).status == "cancelling"
        stopped = until(client, batch.id, "cancelled")
        assert len(provider.requests) <= asked + 40, "those that were on their way"
        output, errors = both(client, stopped)
        assert len(output) == len(provider.requests) == stopped.request_counts.completed
        assert {one["custom_id"] for one in [*output, *errors]} == {f"request-{k}" for k in range(2000)}
        assert len(output) + len(errors) == 2000


def test_mixed_models_are_taken_and_the_batch_names_none(client: openai.OpenAI, provider: ScriptedProvider) -> None:
    done = until(client, made(client, jsonl([line(1, model="stub/a"), line(2, model="stub/b")])).id)
    assert (done.status, done.model) == ("completed", None)
    assert {request.json["model"] for request in provider.requests} == {"a", "b"}


def test_the_input_may_be_deleted_while_its_batch_runs(
    site: Web, client: openai.OpenAI, provider: ScriptedProvider
) -> None:
    held = provider.hold(script.chat("at last"))
    batch = made(client, jsonl(line(k) for k in range(3)))
    provider.wait_for(3)
    assert client.files.delete(batch.input_file_id).deleted
    held.release()
    assert until(client, batch.id).status == "completed"
    wait_until(lambda: _parts_of(site, batch.input_file_id) == 0, "its parts to be forgotten", 15)


def _parts_of(site: Web, file_id: str) -> int:
    with site.deps.database.read() as conn:
        return len(conn.execute(file_part.select().where(file_part.c.file_id == file_id)).all())


def test_the_asynchronous_client(client: openai.OpenAI, provider: ScriptedProvider) -> None:
    async def run() -> Any:
        async with openai.AsyncOpenAI(base_url=client.base_url, api_key=client.api_key) as one:
            file = await one.files.create(file=("a.jsonl", jsonl([line(1)])), purpose="batch")
            batch = await one.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")
            while (found := await one.batches.retrieve(batch.id)).status != "completed":  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            assert found.output_file_id is not None
            assert [b.id async for b in one.batches.list(limit=1)] == [batch.id]
            return (await one.files.content(found.output_file_id)).text

    assert json.loads(asyncio.run(run()))["custom_id"] == "request-1"


@pytest.mark.acceptance(9)
def test_batches_of_another_project_are_not_there(idle: Web, lonely: openai.OpenAI) -> None:
    batch = made(lonely, jsonl([line(1)]))
    _, secret = idle.new_key(project="other")
    stranger = lonely.with_options(api_key=secret)
    assert list(stranger.batches.list()) == []
    for ask in (stranger.batches.retrieve, stranger.batches.cancel):
        with pytest.raises(openai.NotFoundError) as error:
            ask(batch.id)
        assert error.value.param == "batch_id"
    theirs = stranger.batches.create(input_file_id=batch.input_file_id, endpoint=CHAT, completion_window="24h")
    with idle.working():
        assert until(stranger, theirs.id).status == "failed", "a file of another project cannot be found"


# -- one event for the whole of it ---------------------------------------------------------------------------------


@pytest.mark.acceptance(11)
def test_a_batch_tells_whom_it_names_and_the_clients_own_library_verifies_it(
    database_url: str, tmp_path: Path, provider: ScriptedProvider
) -> None:
    own = {"COMPLETAR_SECRET_KEY": "k" * 32, "COMPLETAR_PRIVATE_NETWORKS": "127.0.0.0/8"}
    with (
        ScriptedProvider() as receiver,
        web(database_url, tmp_path, provider, COMPLETAR_LOG_LEVEL="error", **own) as site,
        site.working(),
        site.served() as served,
        openai.OpenAI(base_url=f"{served}/v1", api_key=site.key) as client,
    ):
        receiver.always(script.reply(204))
        secret = httpx.post(
            f"{served}/v1/webhook_secret/rotate", json={}, headers={"Authorization": f"Bearer {site.key}"}
        ).json()["secret"]
        lines = jsonl([line(1), line(2)])
        batch = made(client, lines, extra_body={"webhook": {"url": receiver.url + "/done"}})
        done = until(client, batch.id)
        (request,) = receiver.wait_for(1)
        event = client.webhooks.unwrap(request.body, request.headers, secret=secret)
        assert (event.type, event.data.id) == ("batch.completed", batch.id)
        told = json.loads(request.body)["data"]
        assert told["output_file_id"] == done.output_file_id
        assert told["request_counts"] == {"total": 2, "completed": 2, "failed": 0}
        with pytest.raises(openai.BadRequestError, match="not on the public internet"):
            made(client, lines, extra_body={"webhook": {"url": "https://10.0.0.1/"}})
