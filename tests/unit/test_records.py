"""Records of a run: what is made of results, in which order they are written, and what is found of them again."""

from __future__ import annotations

import io
import json
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from api.cli import batch_content
from api.cli.batch_content import Seen, named, write
from api.cli.batch_note import Note
from api.cli.fault import CliFault
from api.cli.lines import Line
from api.cli.ordered import Ordered
from api.cli.results import Sums, record_of, restored
from api.cli.screen import money
from worker.services.batches.lines import read


def record(line: int, status: str = "completed", cost: float | None = None) -> dict[str, Any]:
    failed = None if status == "completed" else {"kind": "timeout"} if status == "failed" else None
    return {
        "line": line,
        "status": status,
        "provider": "groq",
        "model": "m",
        "error": failed,
        "cost": {"amount": cost, "currency": "USD", "complete": cost is not None},
    }


def numbers(stream: io.StringIO) -> list[int]:
    return [json.loads(line)["line"] for line in stream.getvalue().splitlines()]


@pytest.fixture
def ordered() -> Iterator[tuple[Ordered, io.StringIO]]:
    stream = io.StringIO()
    with closing(Ordered(stream)) as output:
        yield output, stream


def test_ordered_output_comes_in_the_order_of_the_lines_and_as_soon_as_it_can(
    ordered: tuple[Ordered, io.StringIO],
) -> None:
    output, stream = ordered
    for number in (2, 5, 9, 5):
        output.expect(number)
    output.write(record(5))
    assert numbers(stream) == []
    output.write(record(2))
    assert numbers(stream) == [2, 5]
    output.write(record(9))
    assert numbers(stream) == [2, 5, 9]


@pytest.mark.parametrize("told", [True, False])
def test_any_order_of_ends_gives_the_order_of_the_lines(told: bool, ordered: tuple[Ordered, io.StringIO]) -> None:
    mine = sorted(random.Random(3).sample(range(1, 900), 300))
    ended = random.Random(4).sample(mine, len(mine))
    output, stream = ordered
    for number in mine if told else []:
        output.expect(number)
    for number in ended:
        output.write(record(number) | {"text": "ñ\udc80\n"})
    assert numbers(stream) == (mine if told else [])
    output.end()
    assert numbers(stream) == mine
    assert json.loads(stream.getvalue().splitlines()[0])["text"] == "ñ\udc80\n"


def test_what_was_interrupted_does_not_write_what_waits_for_others(ordered: tuple[Ordered, io.StringIO]) -> None:
    output, stream = ordered
    for number in (1, 2, 3):
        output.expect(number)
    output.write(record(3))
    output.flush()
    output.keep()
    assert stream.getvalue() == ""


def test_sums_name_what_went_wrong_and_what_is_not_known() -> None:
    sums = Sums()
    for one in (record(1, cost=0.5), record(2, "failed", cost=0.25), record(3, "cancelled", cost=0.0)):
        sums.add(one)
    assert (sums.ended, sums.done, sums.failed) == (3, 1, 2)
    assert dict(sums.failures) == {"timeout": 1, "cancelled": 1}
    assert sums.spent == "$0.750"
    sums.add(record(4))
    assert sums.spent == "$0.750 and what is not known"
    assert sums.within_s(0.5) is None
    sums.took.extend([3.0, 1.0, 2.0])
    assert (sums.within_s(0.5), sums.within_s(0.95)) == (2.0, 3.0)


@pytest.mark.parametrize(
    ("amount", "said"),
    [(None, "unknown"), (0.0, "$0"), (12.345, "$12.35"), (0.00134485, "$0.00134"), (1e-07, "$0.000000100")],
)
def test_money_is_not_rounded_away(amount: float | None, said: str) -> None:
    assert money(amount) == said


def test_a_line_that_never_ran_has_a_record_too() -> None:
    told = {"line": 4, "job": None, "status": "expired", "provider": None, "model": None, "attempts": 0}
    error = {"code": "batch_expired", "message": "Too late."}
    ledger = {**told, "usage": None, "cost": None}
    found = record_of({"custom_id": "completar:line-4", "response": None, "error": error, "completar": ledger})
    assert (found["custom_id"], found["status"], found["text"]) == (None, "expired", None)
    assert found["error"] == {"kind": "deadline", **error, "provider": None, "retryable": False}


# -- what is handed over ------------------------------------------------------------------------------------------


def test_lines_stand_where_they_stood_and_each_has_a_name_that_leads_back() -> None:
    names = ["a", None, "a", "", "ñ", "completar:line-12", None]
    at = [1, 2, 5, 6, 9, 10, 12]
    given = [Line(number, name, {"input": {"prompt": "x"}}) for number, name in zip(at, names, strict=True)]
    file = io.BytesIO()
    made = write(file, given)
    assert (made.lines, made.full) == (7, False)
    found = {n: json.loads(line) for n, line in enumerate(file.getvalue().splitlines(), 1) if line}
    assert list(found) == at
    sent = [line["custom_id"] for line in found.values()]
    ours = ["completar:line-2", "completar:line-5:a", "completar:line-6:"]
    assert sent == ["a", *ours, "ñ", "completar:line-10:completar:line-12", "completar:line-12"]
    assert [named(name) for name in sent] == names
    assert max(Counter(sent).values()) == 1
    for number, line in found.items():
        read((number, json.dumps(line).encode()), batch_content.ENDPOINT, lambda _: None)


def test_what_does_not_fit_into_one_batch_is_left_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [Line(n, None, {"input": {"prompt": "x" * 100}}) for n in range(1, 10)]
    monkeypatch.setattr(batch_content, "MOST_LINES", 4)
    made = write(io.BytesIO(), iter(lines))
    assert (made.lines, made.full) == (4, True)
    monkeypatch.setattr(batch_content, "MOST_BYTES", 300)
    assert write(io.BytesIO(), iter(lines)).lines == 2


def test_which_lines_were_seen_is_known_however_they_come() -> None:
    seen = Seen()
    for number in (7, 1, 7, 500):
        seen.add(number)
    assert [number for number in range(600) if number in seen] == [1, 7, 500]
    assert len(seen) == 3


@pytest.mark.parametrize(
    ("job", "said"),
    [
        ({"input": {"prompt": "x"}}, None),
        ({"input": {"prompt": "x", "temperature": 9}}, "input.temperature must be less than or equal to 2"),
        ({"model": "gone/x", "input": {"prompt": "x"}}, "The model 'gone/x' is no route and no target"),
        ({"models": ["a", "gone/x"], "input": {"prompt": "x"}}, "The model 'gone/x' is no route and no target"),
        ({"model": ["gone/x"], "input": {"prompt": "x"}}, "model must be a string"),
        ({"kind": "prediction", "input": {"panel": "of the server"}}, None),
    ],
)
def test_faults_that_the_server_had_no_room_to_name_are_found_here(job: dict[str, Any], said: str | None) -> None:
    found = batch_content.reject(Line(3, "c", job), "c", {"gone/x"})
    assert (found is None) if said is None else (found is not None and said in found.message)
    assert found is None or (found.number, found.custom_id) == (3, "c")


# -- going on -----------------------------------------------------------------------------------------------------


def test_a_record_that_was_cut_short_is_cut_off(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    good = json.dumps(record(1)) + "\n" + json.dumps(record(2)) + "\n"
    out.write_text(good + '{"line": 3, "sta')
    assert [one["line"] for one in restored(out)] == [1, 2]
    assert out.read_text() == good


@pytest.mark.parametrize("line", ["[]", "{", "{}", '{"line": "1", "status": "completed"}'])
def test_a_file_of_somebody_else_is_not_gone_on_with(tmp_path: Path, line: str) -> None:
    out = tmp_path / "out.jsonl"
    out.write_text(json.dumps(record(1)) + f"\n{line}\n")
    with pytest.raises(CliFault, match=r"Line 2 of .* is no record of a run"):
        list(restored(out))
    assert out.read_text().endswith(f"{line}\n"), "nothing was cut off"


def test_a_note_is_of_one_input_and_is_found_again(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    note, found = Note.at(out, "abc")
    assert not found
    note = note.save(key="k", asked={"max_cost": 1.5}).save(batch_id="batch_1")
    assert Note.at(out, "abc") == (note, True)
    assert Note.at(out, None) == (note, True)
    with pytest.raises(CliFault, match="other lines"):
        Note.at(out, "other")
    note.remove()
    assert Note.at(out, "other")[1] is False
    (tmp_path / "out.jsonl.run").write_text("{}")
    with pytest.raises(CliFault, match="no note of a run"):
        Note.at(out, "abc")
