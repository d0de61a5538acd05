"""`completar batch` against a server that lasts, and one of a command's own: output and exit codes."""

from __future__ import annotations

import errno
import json
import re
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from api.cli.fault import CliFault
from api.cli.progress import Progress
from api.cli.prompts import filled
from api.cli.results import Output, Sums
from api.cli.screen import Screen
from tests.e2e.test_cli import Cli, Inside
from tests.support.processes import Processes
from tests.support.wait import wait_until
from worker import clock

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def _served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    folder = tmp_path_factory.mktemp("served")
    with Processes(folder) as processes:
        process, url = processes.up({"COMPLETAR_DATA_DIR": str(folder / "data"), "COMPLETAR_LOG_LEVEL": "error"})
        process.wait_for_line(r"^with PowerShell:")
        yield {"COMPLETAR_URL": url, "COMPLETAR_API_KEY": (folder / "data" / "api_key").read_text().strip()}


@pytest.fixture
def served(tmp_path: Path, _served: dict[str, str]) -> Inside:
    """Commands in this process against a server that lasts."""
    made = Inside(tmp_path)
    made.env |= _served
    return made


def _lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(one) for one in text.splitlines()]


def _answers(results: list[dict[str, Any]]) -> dict[str, str]:
    """Of a batch of jobs."""
    return {
        one["custom_id"]: one["response"]["body"]["result"]["text"].split("You wrote: ")[1]
        for one in results
        if one["error"] is None and one["response"]["status_code"] == 200
    }


def _of_openai(custom_id: str, url: str, **body: Any) -> dict[str, Any]:
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": body}


def test_a_batch_is_submitted_waited_for_followed_and_retried(served: Inside) -> None:
    served.write(
        "in.jsonl",
        {"custom_id": "plain", "prompt": "one", "system": "Be short."},
        {"custom_id": "broken", "prompt": "two", "model": "sandbox/fail-400"},
        {
            "custom_id": "openai",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"model": "default", "messages": [{"role": "user", "content": "three"}]},
        },
    )
    batch_id = served("batch", "submit", "in.jsonl", "--metadata", "run=7", "--priority", "1").stdout.strip()
    waited = served("batch", "wait", batch_id, code=3)
    assert re.search(r"^lines: +3: 2 done, 1 failed$", waited.stdout, re.MULTILINE)
    told = served.json("batch", "status", batch_id, "--json")
    assert (told["metadata"], told["completar"]["priority"]) == ({"run": "7"}, 1)
    assert batch_id in served("batch", "list").stdout
    results = _lines(served("batch", "results", batch_id, code=3).stdout)
    assert _answers(results) == {"plain": "one", "openai": "three"}
    served("batch", "results", batch_id, "--follow", "-o", "out.jsonl", code=3)
    assert _lines((served.folder / "out.jsonl").read_text(encoding="utf-8")) == results
    again = served("batch", "retry", batch_id).stdout.strip()
    assert served.json("batch", "wait", again, "--json", code=1)["request_counts"]["total"] == 1
    refused = served("batch", "cancel", batch_id, code=1)
    assert "Cannot cancel a batch with status 'completed'." in refused.stderr


@pytest.mark.parametrize("command", ["submit", "run"])
def test_lines_that_powershell_wrote_are_read(served: Inside, command: str) -> None:
    """Its `>` writes UTF-16 with a mark and CRLF."""
    lines = [{"custom_id": name, "prompt": text} for name, text in (("a", "ñandú\n"), ("b", "日本"))]
    text = "".join(json.dumps(one, ensure_ascii=False) + "\r\n" for one in lines)
    (served.folder / "in.jsonl").write_bytes(text.encode("utf-16"))
    assert served.json("batch", "estimate", "in.jsonl", "--model", "sandbox/echo", "--json")["lines"] == 2
    if command == "run":
        told = _lines(served("batch", "run", "in.jsonl", "--ordered").stdout)
        assert [one["text"].split("wrote: ")[1] for one in told] == ["ñandú\n", "日本"]
        return
    for model in ((), ("--model", "sandbox/echo")):
        batch_id = served("batch", "submit", "in.jsonl", *model).stdout.strip()
        assert _answers(_lines(served("batch", "results", batch_id, "--follow").stdout)) == {
            "a": "ñandú\n",
            "b": "日本",
        }


def test_lines_of_openai_go_as_they_are(served: Inside) -> None:
    lines = [_of_openai(f"{n}", "/v1/responses", model="default", input="hola") for n in range(2)]
    text = "".join(json.dumps(one) + "\r\n" for one in lines)
    (served.folder / "in.jsonl").write_bytes(text.encode("utf-16"))
    made = served.json("batch", "submit", "in.jsonl", "--json")
    assert made["endpoint"] == "/v1/responses"
    kept = served.content(made["input_file_id"])
    assert kept == (served.folder / "in.jsonl").read_bytes()
    other = served.json("batch", "submit", "in.jsonl", "--model", "sandbox/slow-1s", "--json")
    changed = _lines(served.content(other["input_file_id"]).decode())
    assert changed == [{**one, "body": {**one["body"], "model": "sandbox/slow-1s"}} for one in lines]


def test_what_the_command_says_beats_the_fallbacks_of_a_line(served: Inside) -> None:
    ask = {"models": ["sandbox/fail-400", "sandbox/slow-1s"], "messages": [{"role": "user", "content": "hi"}]}
    for line in (_of_openai("a", "/v1/chat/completions", **ask), {"custom_id": "a", **ask}):
        served.write("in.jsonl", line)
        told = served.json("batch", "estimate", "in.jsonl", "--model", "sandbox/echo", "--json")
        assert [one["model"] for one in told["models"]] == ["sandbox/echo"]


def test_a_plain_line_is_the_job_that_it_is_in_a_run(served: Inside) -> None:
    schema = {"type": "object", "required": ["a"]}
    options = {"output_schema": schema, "max_attempts": 1, "priority": 1, "on_interruption": "fail"}
    served.write(
        "in.jsonl",
        {"custom_id": "a", "prompt": "x", **options},
        _of_openai("b", "/v1/completions", model="default", prompt="y"),
        {"input": ["z"]},
    )
    batch_id = served("batch", "submit", "in.jsonl").stdout.strip()
    found = {one["custom_id"]: one for one in _lines(served("batch", "results", batch_id, "-f").stdout)}
    job = found["a"]["response"]["body"]
    assert (job["result"]["json"], job["priority"], job["on_interruption"]) == ({"a": "[sandbox]"}, 1, "fail")
    assert found["b"]["response"]["body"]["result"]["text"].endswith("wrote: y")
    assert found["line-3"]["response"]["body"]["kind"] == "embedding"


def test_lines_of_every_endpoint_run(served: Inside) -> None:
    served.write(
        "in.jsonl",
        _of_openai("a", "/v1/responses", input="one"),
        _of_openai("b", "/v1/completions", prompt="two"),
        _of_openai("c", "/v1/jobs", input={"prompt": "three"}, max_attempts=2),
        {"custom_id": "d", "prompt": "x", "seed": 10**4000},
    )
    text = (served.folder / "in.jsonl").read_text().replace("1" + "0" * 4000, "1" + "0" * 5000)
    (served.folder / "in.jsonl").write_text(text)
    told = _lines(served("batch", "run", "in.jsonl", "--ordered", code=3).stdout)
    assert [(one["text"] or "").rpartition("wrote: ")[2] for one in told] == ["one", "two", "three", ""]
    assert "number out of range" in told[3]["error"]["message"]


def test_a_csv_and_a_text_are_prompts_by_a_template(served: Inside) -> None:
    (served.folder / "in.csv").write_bytes('\ufeffid,text\na,"Nice, very"\nb,Awful\n'.encode())
    first = served("batch", "submit", "in.csv", "--template", "{{{id}}} {text}", "--window", "1h").stdout.strip()
    (served.folder / "in.txt").write_bytes("uno\r\n\r\ndos\r\n".encode("utf-16"))
    second = served("batch", "submit", "in.txt", "--model", "sandbox/echo").stdout.strip()
    third = _lines(served("batch", "run", "in.csv", "--ordered", "--template", "Say {text}").stdout)
    assert [(one["custom_id"], one["text"].split("wrote: ")[1]) for one in third] == [
        ("a", "Say Nice, very"),
        ("b", "Say Awful"),
    ]
    found = [_answers(_lines(served("batch", "results", one, "--follow").stdout)) for one in (first, second)]
    assert found == [{"a": "{a} Nice, very", "b": "{b} Awful"}, {"line-1": "uno", "line-3": "dos"}]


@pytest.mark.parametrize(
    ("content", "more", "said"),
    [
        ("a,b\n1,2\n", [], "Record 1 has no column `prompt` or `text`."),
        ("a,b\n1,2\n", ["--template", "{c}"], "Record 1 has no field `c`."),
        ("a,b\n1\n", ["--template", "{a}"], "Row 1 of the CSV has not as many cells as its head."),
        ('a\n"x', ["--template", "{a}"], "The CSV cannot be read"),
        ("a\nb\nñ".encode("cp1252"), ["--template", "{a}"], "Line 3 is not UTF-8."),
        ("a\nñ\n".encode("utf-16")[:-1], ["--template", "{a}"], "The end of the file is not UTF-16."),
        (b"a\n\x81", ["--template", "{a}", "--encoding", "cp1252"], "Line 2 is not CP1252."),
        ("a", ["--encoding", "cp-spanish"], "there is no such encoding of texts"),
        ("a", ["--encoding", "hex"], "there is no such encoding of texts"),
    ],
)
def test_a_csv_that_is_no_use_is_told_in_words(
    served: Inside, content: str | bytes, more: list[str], said: str
) -> None:
    (served.folder / "in.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    for command in ("submit", "estimate", "run"):
        assert said in served("batch", command, "in.csv", *more, code=2).stderr


@pytest.mark.parametrize(
    ("name", "text", "encoding", "more"),
    [
        ("in.csv", "id;q\r\na;ñ, ñ\r\n", "utf-8-sig", ["--template", "{q}"]),
        ("in.csv", 'id;"q;1"\r\na;"ñ, ñ"\r\n', "utf-16", ["--template", "{q;1}"]),
        ("in.csv", "id\tq\na\tñ, ñ\n", "utf-16-le", ["--template", "{q}"]),
        ("in.csv", "id;q\r\na;ñ, ñ\r\n", "cp1252", ["--template", "{q}", "--encoding", "cp1252"]),
        ("in.csv", 'id,"q;;"\na,"ñ, ñ"\n', "utf-8", ["--template", "{q;;}"]),
        ("in.txt", "ñ, ñ\r\n", "cp1252", ["--encoding", "cp1252"]),
        ("in.jsonl", '{"prompt": "ñ, ñ"}\r\n', "cp1252", ["--encoding", "cp1252"]),
        ("in.jsonl", '{"q": "ñ, ñ"}\r\n', "utf-16", ["--template", "{q}"]),
    ],
)
def test_files_as_excel_and_old_programs_write_them(
    served: Inside, name: str, text: str, encoding: str, more: list[str]
) -> None:
    (served.folder / name).write_bytes(text.encode(encoding))
    (told,) = _lines(served("batch", "run", name, *more).stdout)
    assert told["text"].endswith("wrote: ñ, ñ")


def test_a_template_holds_braces_and_values_that_are_no_text() -> None:
    assert filled("{{x}} {n} {l}", {"n": 1, "l": ["ñ"]}, 1) == '{x} 1 ["ñ"]'
    with pytest.raises(CliFault, match="no field `m`"):
        filled("{m}", {"n": 1}, 4)


def test_how_it_goes_is_told_with_who_answered(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(clock, "monotonic_s", lambda: now[0])
    sums = Sums(
        statuses=Counter(completed=6, failed=2), served=Counter({"groq/a": 3, "kimi/b": 1, "groq/c": 2}), cost=0.5
    )
    progress = Progress(Screen())
    progress.update(sums, 16)
    assert capsys.readouterr().err == ""
    now[0] = 10.0
    progress.update(sums, 16)
    assert capsys.readouterr().err == "8 of 16: 6 done, 2 failed, 1/s, 10.0 s left, $0.500; groq 5, kimi 1\n"


def test_a_faulty_file_is_told_line_by_line(served: Inside) -> None:
    (served.folder / "in.jsonl").write_text('{"custom_id": "a", "prompt": "x"}\n{broken\n', encoding="utf-8")
    handed = served("batch", "submit", "in.jsonl")
    assert "if it is good it runs" in handed.stderr
    batch_id = handed.stdout.strip()
    ended = served("batch", "wait", batch_id, code=1)
    assert re.search(r"^line 2: .*\(invalid_json_line\)$", ended.stderr, re.MULTILINE)


def test_an_estimate_and_a_dry_run_call_nobody(served: Inside) -> None:
    before = served.json("jobs", "list", "--json")["data"]
    served.write("in.jsonl", *({"prompt": f"{n}", "max_tokens": 10} for n in range(4)))
    told = served.json("batch", "estimate", "in.jsonl", "--json")
    assert (told["lines"], told["output_tokens"]) == (4, 40)
    served.write("same.jsonl", *({"prompt": f"{n % 2}", "max_tokens": 10} for n in range(4)))
    told = served.json("batch", "estimate", "same.jsonl", "--dedupe", "--json")
    assert (told["lines"], told["twins"], told["output_tokens"]) == (4, 2, 20)
    refused = served("batch", "submit", "same.jsonl", "--cache", "soon", code=2)
    assert "cache.max_age must be minutes, hours or days" in refused.stderr
    dry = served("batch", "run", "in.jsonl", "--dry-run")
    assert dry.stdout.startswith("default\tsandbox/echo\t4\t")
    assert "4 lines, " in dry.stderr
    served.write("bad.jsonl", {"prompt": "x", "model": "nobody"})
    assert "(model_not_found)" in served("batch", "estimate", "bad.jsonl", code=2).stderr
    assert served.json("jobs", "list", "--json")["data"] == before


def test_a_bound_below_every_line_is_told_as_what_it_is(served: Inside) -> None:
    served.write("in.jsonl", {"prompt": "x"})
    told = served("batch", "run", "in.jsonl", "-o", "out.jsonl", "--max-cost", "0.0000001", code=1)
    assert "no line in the input" not in told.stderr
    assert "--max-cost MORE" in told.stderr


def test_a_batch_rests_goes_on_and_is_cancelled(served: Inside) -> None:
    served.write("in.jsonl", *({"prompt": f"{n}", "model": "sandbox/slow-2s"} for n in range(2)))
    batch_id = served("batch", "submit", "in.jsonl").stdout.strip()
    assert served("batch", "pause", batch_id).stdout.endswith(" (paused)\n")
    assert served("batch", "wait", batch_id, "--timeout", "0.2", code=5).stdout == ""
    assert "(paused)" not in served("batch", "resume", batch_id).stdout
    served("batch", "pause", batch_id)
    assert served("batch", "cancel", batch_id).stdout.startswith(f"{batch_id}\tcancel")
    assert "cancelled" in served("batch", "wait", batch_id, code=None).stdout


def test_misuse_is_told_in_words(served: Inside) -> None:
    assert "is no id of a batch" in served("batch", "status", "../files", code=2).stderr
    assert "No batch found" in served("batch", "status", "batch_" + "0" * 26, code=1).stderr
    served.write("in.jsonl", {"prompt": "x"})
    assert "NAME=VALUE" in served("batch", "submit", "in.jsonl", "-m", "run", code=2).stderr
    nobody = {"COMPLETAR_URL": "http://127.0.0.1:9"}
    assert "No server answers" in served("batch", "list", code=6, **nobody).stderr


def test_who_stops_following_is_told_how_to_go_on(served: Inside, processes: Processes) -> None:
    served.write("in.jsonl", {"prompt": "x"}, {"prompt": "y", "model": "sandbox/quota"})
    batch_id = served("batch", "submit", "in.jsonl").stdout.strip()
    arguments = ("-m", "api.cli", "batch", "results", batch_id, "--follow", "-o", str(served.folder / "out"))
    following = processes.python("run", *arguments, env=served.env)
    out = served.folder / "out"
    wait_until(lambda: out.exists() and out.read_text().count("\n") == 1, "the first result")
    following.signal(signal.SIGINT)
    assert following.wait(20) == 130
    (cursor,) = re.findall(rf"batch results {batch_id} --follow --after (\S+)", following.output)
    served("batch", "cancel", batch_id)
    served("batch", "results", batch_id, "--follow", "--after", cursor, "-o", str(out), code=3)
    assert sorted(one["custom_id"] for one in _lines(out.read_text())) == ["line-1", "line-2"]


def test_results_that_utf_8_cannot_hold_are_the_escapes_they_were(served: Inside) -> None:
    """Half of an emoji stopped it for good: no cursor was told, and another try added the first lines once more."""
    names = ["a", "b\ud83d\\", "c"]
    served.write("in.jsonl", *({"custom_id": name, "prompt": "x"} for name in names))
    batch_id = served("batch", "submit", "in.jsonl").stdout.strip()
    printed = served("batch", "results", batch_id, "--follow").stdout
    served("batch", "results", batch_id, "-o", "out.jsonl")
    assert (served.folder / "out.jsonl").read_bytes() == printed.encode()
    assert sorted(one["custom_id"] for one in _lines(printed)) == names


def test_results_that_cannot_be_written_tell_how_to_go_on(served: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.cli.batch_server.PAGE", 1)
    served.write("in.jsonl", *({"custom_id": f"{n}", "prompt": "x"} for n in range(3)))
    batch_id = served("batch", "submit", "in.jsonl").stdout.strip()
    expected = served("batch", "results", batch_id, "--follow").stdout
    written: list[str] = []

    def full(self: Output, record: dict[str, Any]) -> None:
        if written:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(json.dumps(record))

    with monkeypatch.context() as patch:
        patch.setattr(Output, "write", full)
        stopped = served("batch", "results", batch_id, "-o", "out.jsonl", code=1)
    assert "No space left on device" in stopped.stderr
    (cursor,) = re.findall(rf"The rest: .* batch results {batch_id} --follow --after (\S+)", stopped.stderr)
    rest = served("batch", "results", batch_id, "--follow", "--after", cursor).stdout
    assert [json.loads(written[0]), *_lines(rest)] == _lines(expected)


def test_a_stored_batch_is_run_by_who_waits_for_it(tmp_path: Path) -> None:
    cli = Cli(tmp_path)
    stored = cli("batch", "submit", "-", "--format", "text", stdin="hola\n")
    batch_id = stored.stdout.strip()
    assert (
        f"it runs, while a command waits for it or `completar up` runs: completar batch wait {batch_id}"
        in stored.stderr
    )
    followed = cli("batch", "results", batch_id, "--follow")
    assert _answers(_lines(followed.stdout)) == {"line-1": "hola"}
