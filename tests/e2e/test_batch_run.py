"""`completar batch run` over real processes: a record for every line, once, whatever cuts it off."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from api.cli import batch_content
from api.cli.batch_note import Note, digest
from api.cli.fault import CliFault
from api.cli.results import Output
from tests.e2e.test_cli import Cli, Inside
from tests.support.processes import Processes
from tests.support.wait import wait_until

pytestmark = pytest.mark.slow

HOLD = "sandbox/slow-30s"


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
    return Inside(tmp_path, **_served)


@pytest.fixture
def apart(tmp_path: Path, _served: dict[str, str]) -> Cli:
    """Commands as processes of their own, against the same."""
    return Cli(tmp_path, **_served)


def records(found: Path | str) -> list[dict[str, Any]]:
    text = found if isinstance(found, str) else found.read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def wrote(record: dict[str, Any]) -> str:
    return str(record["text"]).partition("You wrote: ")[2]


def ids_of(cli: Cli) -> list[str]:
    return [one["id"] for one in cli.json("batch", "list", "--limit", "100", "--json")["data"]]


# -- what a line may be -------------------------------------------------------------------------------------------


def test_jobs_of_every_kind_stand_in_one_file_and_are_one_batch(served: Inside) -> None:
    seats = ["sandbox/panelist-90", "sandbox/panelist-80"]
    served.write(
        "in.jsonl",
        {"custom_id": "text", "prompt": "one", "metadata": {"a": "b"}, "priority": 1},
        {"custom_id": "vector", "input": ["a"], "model": "sandbox/embed"},
        {
            "custom_id": "vote",
            "kind": "prediction",
            "input": {"question": "Is it?", "answer": {"type": "boolean"}, "panel": seats},
        },
        {"prompt": "nameless"},
        {"custom_id": "text", "prompt": "the same name"},
    )
    before = ids_of(served)
    done = served("batch", "run", "in.jsonl", "--ordered", "-o", "out.jsonl")
    found = records(served.folder / "out.jsonl")
    assert [one["custom_id"] for one in found] == ["text", "vector", "vote", None, "text"]
    assert [one["line"] for one in found] == [1, 2, 3, 4, 5]
    assert (wrote(found[0]), len(found[1]["embeddings"]), len(found[2]["votes"])) == ("one", 1, 2)
    assert (wrote(found[3]), wrote(found[4])) == ("nameless", "the same name")
    assert served.json("jobs", "get", found[0]["id"], "--json")["metadata"] == {"a": "b"}
    (batch_id,) = set(ids_of(served)) - set(before)
    told = served.json("batch", "status", batch_id, "--json")
    assert (told["endpoint"], told["request_counts"]["total"]) == ("/v1/jobs", 5)
    assert "5 done in" in done.stderr
    assert re.search(r"^Served by: .*a panel 1", done.stderr, re.MULTILINE)
    assert re.search(r"^6 calls for 5 lines; a line took p50 .*, p95 ", done.stderr, re.MULTILINE)
    assert not (served.folder / "out.jsonl.run").exists()


def test_a_csv_and_a_text_with_a_template_as_windows_writes_them(apart: Cli) -> None:
    (apart.folder / "in.csv").write_bytes('id,text\r\na,"Nice, ñandú"\r\nb,"two\nlines"\r\n'.encode("utf-16"))
    done = apart("batch", "run", "in.csv", "--ordered", "--template", "Say {text}!", "-o", "out.jsonl")
    found = records(apart.folder / "out.jsonl")
    assert [(one["custom_id"], wrote(one)) for one in found] == [("a", "Say Nice, ñandú!"), ("b", "Say two\nlines!")]
    assert done.stdout == ""
    text = "uno\r\n\r\ndos\r\n".encode("utf-16")
    piped = apart("batch", "run", "-", "--format", "text", "--ordered", "--quiet", stdin=text)
    assert [(one["line"], wrote(one)) for one in records(piped.stdout)] == [(1, "uno"), (3, "dos")]
    assert piped.stderr == ""
    lines = '{"prompt": "ñ"}\r\nnot json\r\n{"prompt": "2"}\r\n'.encode("utf-16")
    piped = apart("batch", "run", "-", "--ordered", "--model", "sandbox/echo", stdin=lines, code=3)
    assert [(one["line"], one["status"]) for one in records(piped.stdout)] == [
        (1, "completed"),
        (2, "rejected"),
        (3, "completed"),
    ]
    assert re.search("^line 2: is not valid JSON at column 1", piped.stderr, re.MULTILINE)


@pytest.mark.parametrize(
    ("name", "content", "more", "said"),
    [
        ("in.csv", "a,b\n1,2\n", [], "Record 1 has no column `prompt` or `text`."),
        ("in.csv", "a,b\n1,2\n1\n", ["--template", "{a}"], "Row 2 of the CSV has not as many cells as its head."),
        ("in.jsonl", '{"text": "x"}\n{"a": 1}\n', ["--template", "{text}"], "Record 2 has no field `text`."),
    ],
)
def test_an_input_that_is_no_use_is_told_and_nothing_is_asked(
    served: Inside, name: str, content: str, more: list[str], said: str
) -> None:
    (served.folder / name).write_text(content, encoding="utf-8")
    before = ids_of(served)
    assert said in served("batch", "run", name, "-o", "out.jsonl", *more, code=2).stderr
    assert ids_of(served) == before
    assert not (served.folder / "out.jsonl").exists()


def test_more_faulty_lines_than_the_server_names_are_all_told(served: Inside) -> None:
    """It names a hundred. The others are found here, and the good ones run after two rounds."""
    bad = [{"prompt": "x", "temperature": 9}, {"prompt": "x", "model": "nowhere/x"}]
    lines = [*bad * 120, {"prompt": "good"}, {"prompt": "y", "model": "nowhere/y"}]
    served.write("in.jsonl", *lines)
    before = ids_of(served)
    done = served("batch", "run", "in.jsonl", "--ordered", code=3)
    found = records(done.stdout)
    assert [one["line"] for one in found] == list(range(1, 243))
    assert Counter(one["status"] for one in found) == {"rejected": 241, "completed": 1}
    assert len(re.findall(r"^line \d+: input\.temperature must be ", done.stderr, re.MULTILINE)) == 120
    assert len(re.findall(r"^line \d+: The model 'nowhere/x' is no", done.stderr, re.MULTILINE)) == 120
    assert len(ids_of(served)) - len(before) <= 3


def test_what_does_not_fit_into_one_batch_is_run_as_several(served: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_content, "MOST_LINES", 4)
    served.write("in.jsonl", *({"prompt": str(n)} for n in range(10)))
    before = ids_of(served)
    found = records(served("batch", "run", "in.jsonl", "--ordered").stdout)
    assert [wrote(one) for one in found] == [str(n) for n in range(10)]
    assert len(ids_of(served)) - len(before) == 3


def test_lines_that_ask_the_same_share_a_call_and_answers_that_are_there_are_taken(served: Inside) -> None:
    served.write("in.jsonl", {"prompt": "twice"}, {"prompt": "twice"}, {"prompt": "once"})
    dry = served("batch", "run", "in.jsonl", "--dry-run", "--dedupe")
    assert "3 lines (twins 1), " in dry.stderr
    first = served("batch", "run", "in.jsonl", "--dedupe", "-o", "first.jsonl")
    assert re.search("^2 calls for [23] lines; ", first.stderr, re.MULTILINE)
    again = served("batch", "run", "in.jsonl", "--cache", "1h", "-o", "again.jsonl")
    assert "calls for" not in again.stderr
    for name in ("first.jsonl", "again.jsonl"):
        found = records(served.folder / name)
        assert sorted(wrote(one) for one in found) == ["once", "twice", "twice"]
        assert len({one["id"] for one in found}) == 3


def test_a_dry_run_asks_nobody_and_names_what_is_broken(served: Inside) -> None:
    before = served.json("jobs", "list", "--json")["data"], ids_of(served)
    served.write("in.jsonl", {"prompt": "a", "max_tokens": 5}, {"input": "v", "model": "sandbox/embed"})
    dry = served("batch", "run", "in.jsonl", "--dry-run", "-o", "out.jsonl")
    assert {line.split("\t")[0] for line in dry.stdout.splitlines()} == {"default", "sandbox/embed"}
    assert "2 lines, " in dry.stderr
    served.write("in.jsonl", {"prompt": "a"}, "{broken", {"prompt": "b", "model": "nobody"})
    dry = served("batch", "run", "in.jsonl", "--dry-run", code=2)
    assert re.search("^line 2: is not valid JSON", dry.stderr, re.MULTILINE)
    assert re.search(r"^line 3: .*\(model_not_found\)$", dry.stderr, re.MULTILINE)
    assert (served.json("jobs", "list", "--json")["data"], ids_of(served)) == before
    assert list(served.folder.glob("out*")) == []


def test_misuse_is_told_in_words(served: Inside) -> None:
    assert "FILE is missing." in served("batch", "run", code=2).stderr
    served.write("in.jsonl", {"prompt": "x"})
    assert "is no id of a batch" in served("batch", "run", "in.jsonl", "--resume", "../files", code=2).stderr
    line = {"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {"prompt": "x"}}
    served.write("theirs.jsonl", line)
    theirs = served("batch", "submit", "theirs.jsonl").stdout.strip()
    served("batch", "wait", theirs)
    assert f"{theirs} is not of a run." in served("batch", "run", "--resume", theirs, code=2).stderr
    (served.folder / "out.jsonl.run").write_text("?")
    assert "is no note of a run" in served("batch", "run", "in.jsonl", "-o", "out.jsonl", code=2).stderr


# -- going on -----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize("ordered", [False, True])
def test_ctrl_c_leaves_the_batch_to_go_on_and_the_same_command_takes_it_up(
    apart: Cli, processes: Processes, ordered: bool
) -> None:
    lines = [{"prompt": str(n), "model": f"sandbox/slow-{n * 20}ms"} for n in range(60)]
    apart.write("in.jsonl", *lines, {"prompt": "last", "model": "sandbox/slow-3s"}, "{broken")
    out = apart.folder / "out.jsonl"
    more = ["--ordered"] if ordered else []
    command = ["batch", "run", "in.jsonl", "-o", "out.jsonl", *more]
    before = ids_of(apart)
    mine = processes.python("batch", "-m", "api.cli", *command, env=apart.env, cwd=apart.folder)
    mine.wait_for(lambda: out.exists() and out.read_text().count("\n") > 5, "the first records")
    mine.signal(signal.SIGINT)
    assert mine.wait(20) == 130
    assert re.search(r"Stopped watching with \d+ of 62 lines open\. The server goes on with them\.", mine.output)
    assert f"To have them: completar {' '.join(command)}\n" in mine.output
    had = out.read_text()
    out.write_text(had + '{"cut": "sho')  # as a crash may leave it
    done = apart(*command, code=3)
    assert f"{out.name} has {len(had.splitlines())} records: going on with the others." in done.stderr
    text = out.read_text()
    assert text.startswith(had), "what was there stays"
    found = records(out)
    assert sorted(one["line"] for one in found) == list(range(1, 63))
    assert not ordered or [one["line"] for one in found] == list(range(1, 63))
    assert len(set(ids_of(apart)) - set(before)) == 1, "nothing was handed over twice"
    assert not (apart.folder / "out.jsonl.run").exists()
    fresh = apart(*command, "--overwrite", code=3)
    assert "going on" not in fresh.stderr
    assert {one["id"] for one in records(out)} & {one["id"] for one in found} == {None}, "a run anew, as ever"


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_a_run_from_stdin_to_stdout_goes_on_by_the_id_of_its_batch(apart: Cli, processes: Processes) -> None:
    apart.write(
        "in.jsonl",
        *({"custom_id": f"n{n}", "prompt": str(n)} for n in range(3)),
        {"prompt": "x", "model": "sandbox/slow-2s"},
    )
    line = f"{sys.executable} -m api.cli batch run - < in.jsonl"
    mine = processes.start("batch", ["sh", "-c", f"exec {line}"], env=apart.env, cwd=apart.folder)
    mine.wait_for_line('"n2"')
    mine.signal(signal.SIGINT)
    assert mine.wait(20) == 130
    (again,) = re.findall(r"To have them: completar (batch run --resume batch_\w+)$", mine.output, re.MULTILINE)
    found = records(apart(*again.split()).stdout)
    assert sorted(str(one["custom_id"]) for one in found) == ["None", "n0", "n1", "n2"]
    assert [one["line"] for one in records(apart(*again.split(), "--ordered").stdout)] == [1, 2, 3, 4]
    apart("batch", "run", "in.jsonl", *again.split()[2:])
    apart.write("in.jsonl", {"prompt": "other"})
    assert "had other lines." in apart("batch", "run", "in.jsonl", *again.split()[2:], code=2).stderr


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_a_run_that_is_not_over_is_not_written_over_by_another(apart: Cli, processes: Processes) -> None:
    apart.write("in.jsonl", {"prompt": "quick"}, {"prompt": "x", "model": HOLD})
    out = apart.folder / "out.jsonl"
    command = ["batch", "run", "in.jsonl", "-o", "out.jsonl"]
    mine = processes.python("batch", "-m", "api.cli", *command, env=apart.env, cwd=apart.folder)
    mine.wait_for(lambda: out.exists() and out.read_text(), "the first record")
    mine.kill()  # no word, no note beyond the last
    had = out.read_text()
    refused = apart(*command, "--model", "sandbox/echo", code=2)
    assert "out.jsonl is of a run over other lines, or with other options, that is not over." in refused.stderr
    assert out.read_text() == had
    note = json.loads((apart.folder / "out.jsonl.run").read_text())
    apart("batch", "cancel", note["batch_id"])
    again = processes.python("batch", "-m", "api.cli", *command, env=apart.env, cwd=apart.folder)
    again.wait_for_line("has 1 records: going on with the others")
    again.signal(signal.SIGINT)
    assert again.wait(20) == 130
    assert out.read_text() == had


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_without_a_server_it_runs_on_one_of_its_own_and_goes_on_where_it_was(
    tmp_path: Path, processes: Processes
) -> None:
    """Stopped by Ctrl-C, then killed: the lines are stored, and the same command goes on, with each line once."""
    cli = Cli(tmp_path, COMPLETAR_HEARTBEAT_S="0.2", COMPLETAR_LEASE_S="0.8", COMPLETAR_POLL_S="0.1")
    slow = [{"prompt": str(n), "model": "sandbox/slow-2s"} for n in range(3)]
    cli.write("in.jsonl", *slow, *({"prompt": f"quick {n}"} for n in range(3)))
    command = ["batch", "run", "in.jsonl", "-o", "out.jsonl"]
    out = cli.folder / "out.jsonl"

    def begun(wanted: int) -> Any:
        mine = processes.python("batch", "-m", "api.cli", *command, env={**cli.env, "DRAIN_S": "0"}, cwd=cli.folder)
        mine.wait_for(lambda: out.exists() and out.read_text().count("\n") >= wanted, f"{wanted} records")
        return mine

    first = begun(3)
    first.signal(signal.SIGINT)
    assert first.wait(20) == 130
    assert "Stopped watching with 3 of 6 lines open. They are stored, and go on when a server runs" in first.output
    assert f"To have them: completar {' '.join(command)}\n" in first.output
    second = processes.python("batch", "-m", "api.cli", *command, env=cli.env, cwd=cli.folder)
    second.wait_for_line("has 3 records")
    wait_until((tmp_path / "data").is_dir, "its data")
    second.kill()
    done = cli(*command)
    assert "has 3 records: going on with the others." in done.stderr
    assert "6 done in" in done.stderr
    found = records(out)
    assert sorted(one["line"] for one in found) == [1, 2, 3, 4, 5, 6]
    assert {one["status"] for one in found} == {"completed"}
    assert len(ids_of(cli)) == 1
    assert cli.json("batch", "list", "--json")["data"][0]["status"] == "completed"


def test_a_crash_while_the_batch_is_made_makes_no_second_one(served: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server made it, and the answer was lost: the note has the words and the key it was asked for with."""
    served.write("in.jsonl", *({"prompt": str(n)} for n in range(3)))
    before = ids_of(served)
    save = Note.save

    def lost(note: Note, **changes: Any) -> Note:
        if "batch_id" in changes and changes["batch_id"] is not None:
            raise CliFault("The machine is gone.")
        return save(note, **changes)

    monkeypatch.setattr(Note, "save", lost)
    assert "The machine is gone." in served("batch", "run", "in.jsonl", "-o", "out.jsonl", code=1).stderr
    monkeypatch.setattr(Note, "save", save)
    assert "3 done" in served("batch", "run", "in.jsonl", "-o", "out.jsonl").stderr
    assert len(set(ids_of(served)) - set(before)) == 1
    assert sorted(one["line"] for one in records(served.folder / "out.jsonl")) == [1, 2, 3]


def test_an_output_that_is_gone_is_written_anew_and_no_line_is_paid_for_twice(
    served: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process ends between the last record and the end of its note, of a run of several batches."""
    monkeypatch.setattr(batch_content, "MOST_LINES", 4)
    served.write("in.jsonl", *({"prompt": str(n)} for n in range(10)))
    command, out = ("batch", "run", "in.jsonl", "-o", "out.jsonl"), served.folder / "out.jsonl"
    before = ids_of(served)
    told: list[str] = []
    keep, remove = Output.keep, Note.remove

    def kept(output: Output) -> None:
        told.append("kept")
        keep(output)

    def lost(_: Note) -> None:
        told.append("removed")
        raise CliFault("The machine is gone.")

    monkeypatch.setattr(Output, "keep", kept)
    monkeypatch.setattr(Note, "remove", lost)
    assert "The machine is gone." in served(*command, code=1).stderr
    assert told == ["kept"] * 4 + ["removed"], "the records outlast their note"
    monkeypatch.setattr(Note, "remove", remove)
    had = records(out)
    out.unlink()
    assert "10 done" in served(*command).stderr
    found = records(out)
    assert {one["line"]: one["id"] for one in found} == {one["line"]: one["id"] for one in had}
    assert (len(found), len(set(ids_of(served)) - set(before))) == (10, 3)


def test_a_batch_that_this_server_does_not_have_is_told_with_a_way_out(served: Inside) -> None:
    path = served.write("in.jsonl", {"prompt": "x"})
    with path.open("rb") as file:
        Note.at(served.folder / "out.jsonl", digest(file, {}))[0].save(key="k", batch_id="batch_" + "0" * 26)
    lost = served("batch", "run", "in.jsonl", "-o", "out.jsonl", code=1)
    assert "No batch found" in lost.stderr
    assert "out.jsonl.run to begin anew." in lost.stderr


# -- what is there already ----------------------------------------------------------------------------------------


def test_records_are_replaced_on_request_and_not_before_a_line_is_answered(served: Inside) -> None:
    """A wrong key or option emptied the file before anything had been asked."""
    served.write("in.jsonl", *({"prompt": str(n)} for n in range(3)), "{broken")
    command, out = ("batch", "run", "in.jsonl", "-o", "out.jsonl"), served.folder / "out.jsonl"
    served(*command, code=3)
    had, before = out.read_bytes(), ids_of(served)
    again = served(*command, code=2)
    assert "out.jsonl holds 4 records of a finished run." in again.stderr
    assert "--overwrite" in again.stderr
    served(*command, "--overwrite", code=4, COMPLETAR_API_KEY="ck_wrong")
    served(*command, "--overwrite", "--window", "banana", code=2)
    served(*command, "--overwrite", "--max-cost", "0.0000001", code=1)
    assert out.read_bytes() == had
    served(*command, "--overwrite", "--max-cost", "1", code=3)
    assert sorted(one["line"] for one in records(out)) == [1, 2, 3, 4]
    assert not {one["id"] for one in records(out)} & {json.loads(line)["id"] for line in had.splitlines()} - {None}
    assert len(ids_of(served)) == len(before) + 2, "one that the bound stopped, and one that ran"
    out.write_text("Dear diary\n", encoding="utf-8")
    assert "holds what is no record of a run" in served(*command, code=2).stderr
    assert out.read_text(encoding="utf-8") == "Dear diary\n"


def test_a_wrong_option_is_forgotten_once_the_server_refused_it(served: Inside) -> None:
    """The note kept what had been asked for, and the mended command sent it once more."""
    served.write("in.jsonl", {"prompt": "x"})
    command = ("batch", "run", "in.jsonl", "-o", "out.jsonl")
    for wrong in (("--cache", "banana"), ("--window", "99d")):
        served(*command, *wrong, code=2)
        assert not (served.folder / "out.jsonl.run").exists()
    assert "1 done" in served(*command, "--cache", "1h").stderr


def test_a_run_goes_on_with_the_options_it_was_begun_with(served: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    served.write("in.jsonl", {"prompt": "x"})
    command = ("batch", "run", "in.jsonl", "-o", "out.jsonl")
    remove = Note.remove

    def lost(_: Note) -> None:
        raise CliFault("The machine is gone.")

    monkeypatch.setattr(Note, "remove", lost)
    served(*command, "--window", "2h", code=1)
    monkeypatch.setattr(Note, "remove", remove)
    for other in ((), ("--window", "3h"), ("--window", "2h", "--dedupe")):
        assert "or with other options, that is not over" in served(*command, *other, code=2).stderr
    assert "1 done" in served(*command, "--window", "2h").stderr


# -- what it may cost ---------------------------------------------------------------------------------------------


def test_a_bound_stops_the_spending_and_the_same_command_goes_on_with_more(tmp_path: Path) -> None:
    """Each line may come to $0.0002, and costs a fiftieth of it."""
    cli = Cli(tmp_path)
    cli.write("in.jsonl", *({"prompt": f"{n}", "max_tokens": 1000} for n in range(40)))
    command = ["batch", "run", "in.jsonl", "-o", "out.jsonl", "--ordered"]
    first = cli(*command, "--max-cost", "0.00022", code=3)
    found = records(tmp_path / "out.jsonl")
    left = 40 - len(found)
    assert 0 < left < 40
    assert f"The bound of $0.000220 is reached: {left} lines were not run." in first.stderr
    assert f"go on: completar {' '.join(command)} --max-cost MORE" in first.stderr
    assert sum(one["cost"]["amount"] for one in found) <= 0.00022
    cli(*command, "--max-cost", "0.00022", code=3)
    assert records(tmp_path / "out.jsonl")[: len(found)] == found
    done = cli(*command, "--max-cost", "1")
    assert "40 done" in done.stderr
    again = records(tmp_path / "out.jsonl")
    assert [one["line"] for one in again] == list(range(1, 41))
    assert again[: len(found)] == found, "what was paid for is not asked again"
