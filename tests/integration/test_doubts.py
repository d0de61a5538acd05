"""A claim whose commit was not confirmed holds no job for good, though its worker lives on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support import scripted_provider as script
from tests.support.scripted_provider import ScriptedProvider
from tests.support.station import Station
from worker.domain.failure import Lane
from worker.domain.state import JobStatus
from worker.store.database import Database, Unavailable


@pytest.mark.parametrize("lane", Lane)
def test_a_claim_that_was_committed_unheard_is_given_back(
    database_url: str, tmp_path: Path, lane: Lane, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Database.write
    cut = 0

    @contextmanager
    def cut_off(self: Database, *, durable: bool = True) -> Iterator[Any]:
        nonlocal cut
        with write(self, durable=durable) as conn:
            yield conn
        if not durable and cut < 3:  # only claims are written so
            cut += 1
            raise Unavailable("the connection broke before the commit was confirmed")

    with (
        ScriptedProvider() as provider,
        closing(Station(database_url, provider, tmp_path, COMPLETAR_POLL_S="0.05")) as station,
    ):
        provider.always(script.chat("fine"))
        ids = station.submit(5, lane=lane)
        monkeypatch.setattr(Database, "write", cut_off)
        with station.worker():
            jobs = station.ended(ids, within_s=10)
        assert cut == 3
        assert {job.status for job in jobs} == {JobStatus.COMPLETED}
        assert len(provider.requests) == 5
