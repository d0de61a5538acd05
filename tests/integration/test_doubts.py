"""A claim whose commit was not confirmed holds no job for good, though its worker lives on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from tests.support import scripted_provider as script
from tests.support.scripted_provider import ScriptedProvider
from tests.support.station import Station
from worker.domain import pause as pausing
from worker.domain.failure import Lane
from worker.domain.job import Claimed
from worker.domain.pause import PauseKind
from worker.domain.state import JobStatus
from worker.services import pauses as services
from worker.store import claims
from worker.store.database import Database, Unavailable


@pytest.mark.parametrize("lane", Lane)
def test_a_claim_that_was_committed_unheard_is_given_back(
    database_url: str, tmp_path: Path, lane: Lane, monkeypatch: pytest.MonkeyPatch
) -> None:
    claimed = 0
    cut = 0

    def counted(claim: Callable[..., list[Claimed]]) -> Callable[..., list[Claimed]]:
        def counting(*args: Any, **more: Any) -> list[Claimed]:
            nonlocal claimed
            found = claim(*args, **more)
            claimed += len(found)
            return found

        return counting

    def cut_off(lent: Callable[[Database], AbstractContextManager[Any]]) -> Callable[[Database], Any]:
        @contextmanager
        def cutting(self: Database) -> Iterator[Any]:
            nonlocal cut
            before = claimed
            with lent(self) as conn:
                yield conn
            if claimed > before and cut < 3:
                cut += 1
                raise Unavailable("the connection broke before the commit was confirmed")

        return cutting

    with (
        ScriptedProvider() as provider,
        closing(Station(database_url, provider, tmp_path, COMPLETAR_POLL_S="0.05")) as station,
    ):
        provider.always(script.chat("fine"))
        ids = station.submit(5, lane=lane)
        for name in ("claim", "claim_block"):
            monkeypatch.setattr(claims, name, counted(getattr(claims, name)))
        for name in ("write", "each"):
            monkeypatch.setattr(Database, name, cut_off(getattr(Database, name)))
        with station.worker():
            jobs = station.ended(ids, within_s=10)
        assert cut == 3
        assert {job.status for job in jobs} == {JobStatus.COMPLETED}
        assert len(provider.requests) == 5


def test_a_probe_that_was_committed_unheard_is_given_back(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pausing, "FIRST_PROBE_S", MappingProxyType(dict.fromkeys(PauseKind, 0.5)))
    write, claim_one = Database.write, services.parked.claim_one
    claimed: list[str] = []
    cut = False

    def seen(*args: Any, **more: Any) -> Any:
        found = claim_one(*args, **more)
        if found is not None:
            claimed.append(found.id)
        return found

    @contextmanager
    def cut_off(self: Database) -> Iterator[Any]:
        nonlocal cut
        with write(self) as conn:
            before = len(claimed)
            yield conn
        if len(claimed) > before and not cut:
            cut = True
            raise Unavailable("the connection broke before the commit was confirmed")

    with (
        ScriptedProvider() as provider,
        closing(Station(database_url, provider, tmp_path, COMPLETAR_POLL_S="0.05")) as station,
    ):
        provider.queue(script.error(429, "pay first", code="insufficient_quota"))
        provider.always(script.chat("fine"))
        monkeypatch.setattr(services.parked, "claim_one", seen)
        monkeypatch.setattr(Database, "write", cut_off)
        with station.worker():
            (job,) = station.ended([station.one(models=("first/m",))], within_s=20)
        assert cut
        assert job.status is JobStatus.COMPLETED
        assert len(provider.requests) == 2
