"""Webhooks of a file's lines: a name is looked up once for the whole file, and a file is not looked up for ever."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future

import pytest

from worker.services.batches import receivers
from worker.services.batches.receivers import Receivers
from worker.settings.address import networks
from worker.webhooks import guard
from worker.webhooks.address import PUBLIC_ONLY, Rules

OUTSIDE, INSIDE = "93.184.215.14", "10.0.0.7"


class Names:
    """A resolver: addresses at once, OSError at once, or nothing for ever."""

    def __init__(self, answers: Callable[[str], Sequence[str] | OSError | None]) -> None:
        self._answers = answers
        self.asked: list[str] = []

    def ask(self, host: str, _port: int) -> Future[Sequence[str]]:
        self.asked.append(host)
        found: Future[Sequence[str]] = Future()
        answer = self._answers(host)
        if isinstance(answer, OSError):
            found.set_exception(answer)
        elif answer is not None:
            found.set_result(answer)
        return found


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "WITHIN_S", 0.02)


@pytest.mark.parametrize("answer", [None, OSError("no such name"), []], ids=["hangs", "unknown", "empty"])
def test_a_name_that_does_not_resolve_is_asked_for_once(answer: Sequence[str] | OSError | None) -> None:
    names = Names(lambda _host: answer)
    of_file = Receivers(PUBLIC_ONLY, names.ask)
    assert [of_file.refusal(f"https://hooks.dead.example/{n}") for n in range(50)] == [None] * 50
    assert names.asked == ["hooks.dead.example."]


def test_what_was_found_of_a_name_holds_for_all_its_urls() -> None:
    names = Names(lambda host: [INSIDE if "inside" in host else OUTSIDE])
    of_file = Receivers(PUBLIC_ONLY, names.ask)
    for n in range(3):
        assert "public internet" in str(of_file.refusal(f"https://inside.example/{n}"))
        assert of_file.refusal(f"https://outside.example/{n}") is None
        assert of_file.refusal(f"https://outside.example:8443/{n}") is None
    assert names.asked == ["inside.example.", "outside.example."]


def test_one_name_is_judged_anew_where_only_private_networks_may_be_called_like_this() -> None:
    names = Names(lambda _host: [OUTSIDE])
    of_file = Receivers(Rules(private=networks(["10.0.0.0/8"])), names.ask)
    assert of_file.refusal("https://outside.example/") is None
    assert "https and an ordinary port" in str(of_file.refusal("http://outside.example/"))
    assert "https and an ordinary port" in str(of_file.refusal("https://outside.example:9000/"))


def test_many_names_that_hang_do_not_hold_up_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receivers, "PATIENCE_S", 0.05)
    names = Names(lambda host: [INSIDE] if "inside" in host else None)
    of_file = Receivers(PUBLIC_ONLY, names.ask)
    assert "public internet" in str(of_file.refusal("https://inside.example/"))
    assert [of_file.refusal(f"https://dead{n}.example/") for n in range(1000)] == [None] * 1000
    assert 2 <= len(names.asked) <= 4
    # What needs no resolver, and what is known, is judged all the same.
    assert "public internet" in str(of_file.refusal("https://10.0.0.1/"))
    assert "must begin with https" in str(of_file.refusal("ftp://outside.example/"))
    assert "user name" in str(of_file.refusal("https://a@outside.example/"))
    assert "public internet" in str(of_file.refusal("https://inside.example/again"))


def test_the_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receivers, "MOST_KNOWN", 10)
    names = Names(lambda _host: [OUTSIDE])
    of_file = Receivers(PUBLIC_ONLY, names.ask)
    for n in range(25):
        assert of_file.refusal(f"https://h{n}.example/") is None
        assert len(of_file._known) <= 10
